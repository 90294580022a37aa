"""Writes a run as a model that transformers loads, with its `<pause>`.

  pausejax export --checkpoint=run --out=exported
  pausejax export --checkpoint=run/checkpoints/500 --out=exported \\
    --dtype=bfloat16

`--checkpoint` is the workdir of a run, or WORKDIR/checkpoints/STEP. `--out`
receives config.json, safetensors, the tokenizer with the special token <pause>,
generation_config.json and a model card (docs/export.md). It appears when it is
complete, and may hold an earlier export, which is replaced. A model that no
class of transformers computes is refused. `pausejax import` reads an export
back, bit for bit.
"""

import pathlib

from pausejax import commandline, errors, files
from pausejax.checkpoints import saved_run
from pausejax.checkpoints.saved_run import SavedRun
from pausejax.runtime import accelerators, distributed, phases, watchdog

_DTYPES = ("float32", "bfloat16")


def main(argv: list[str]) -> int:
  """Checks the run and the folder, then loads and writes the parameters."""
  options, _ = parser().parse(argv)
  errors.require_one_of("--dtype", options.dtype, _DTYPES)
  errors.require_in_range("--max_shard_gb", options.max_shard_gb, 1e-9)
  errors.require(options.out != "", "--out: got '', name a folder")
  out = pathlib.Path(options.out).resolve()
  files.require_writable("--out", out.parent)
  saved = saved_run.find_run(options.checkpoint, average=options.average)
  accelerators.require_used()
  # JAX is imported once the command line is checked.
  import jax

  from pausejax import sharding
  from pausejax.config import MeshConfig
  from pausejax.interop import export

  replaces = export.require_free(out)
  prepared = export.prepare_export(
    saved,
    out.name,
    dtype=options.dtype,
    max_shard_bytes=int(options.max_shard_gb * 1e9),
    scores=_scores(saved),
  )
  mesh = MeshConfig(data=1, fsdp=-1, sequence=1, tensor=1)
  with watchdog.watch(saved.limits), jax.set_mesh(sharding.make_mesh(mesh)):
    phases.enter("exporting", saved.step)
    export.write_export(prepared, saved.load(), out)
  if distributed.process_index() == 0:
    print(f"{out}: {prepared.summary}" + "; replaced" * replaces)
    for note in prepared.notes:
      print(note)
  return 0


def parser() -> commandline.Parser:
  """Returns the parser of the verb."""
  made = commandline.Parser("export", __doc__, config=False)
  add = made.add_argument
  made.add_checkpoint()
  add("--out", required=True, help="folder of the exported model")
  add(
    "--dtype",
    default="float32",
    help=f"of the parameters, {' or '.join(_DTYPES)} (float32)",
  )
  add(
    "--max_shard_gb",
    type=float,
    default=5.0,
    help="largest file of parameters, in 10^9 bytes (5)",
  )
  return made


def _scores(saved: SavedRun) -> list:
  """Returns the metrics of the checkpoint, for the model card."""
  from pausejax.evaluation import results
  from pausejax.interop.model_card import CardScore
  from pausejax.prompt_pauses import PromptPauses

  scores = [
    CardScore(
      what=f"{result['task']}, {result['split']}",
      condition=str(PromptPauses.from_saved(result)),
      metric=name,
      value=value,
      count=result["n"],
    )
    for result in results.read_results(saved.results_folder("evaluations"))
    for name, value in result["metrics"].items()
    if result["step"] == saved.step
  ]
  return scores + [
    CardScore(
      what=pathlib.PurePath(text["text"]).name,
      condition=f"{text['pause_fraction']:.0%} of positions",
      metric="perplexity",
      value=text["perplexity"],
      count=text["num_documents"],
    )
    for text in results.read_text_scores(
      saved.results_folder(results.TEXT_SCORES)
    )
    if text["step"] == saved.step
  ]
