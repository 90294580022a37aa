"""Makes a run from an open model, with one id more: `<pause>`.

  pausejax import --from=SmolLM2-135M --out=smollm2
  pausejax generate --checkpoint=smollm2 --prompt="The capital of France is"
  pausejax train --config=configs/finetune.py:task=squad,pauses=10 \\
    --init_from=smollm2 --config.data.local_dir=/data/squad --workdir=squad10

--from is a folder in Hugging Face's format (config.json, *.safetensors, and
tokenizer.json or tokenizer.model), or a .gguf file of llama.cpp, or a folder
with one (extra `gguf`). Neither PyTorch nor transformers is needed
(docs/open_models.md). --out receives config.json, the tokenizer and a
checkpoint of step 0, from which the other verbs start. The row of `<pause>` is
the mean of the others, and outputs without pauses are those of the model. If a
tensor is missing, additional, or of another shape, nothing is written.
"""

import pathlib
import tempfile

from pausejax import commandline, errors, files
from pausejax.buckets.layout import CHECKPOINTS
from pausejax.checkpoints import folders
from pausejax.runtime import accelerators, run_folder, tables


def main(argv: list[str]) -> int:
  """Checks the folder, then reads the tensors and writes the run."""
  options, _ = parser().parse(argv)
  folder = pathlib.Path(options.source).resolve()
  out = pathlib.Path(options.out).resolve()
  errors.require(folder.exists(), f"--from: no folder {options.source!r}")
  _require_new(out)
  accelerators.require_used()
  # JAX is imported once the command line is checked.
  import jax

  from pausejax import sharding
  from pausejax.config import MeshConfig
  from pausejax.interop import imported_run, reading
  from pausejax.training import description

  mesh = MeshConfig(data=1, fsdp=-1, sequence=1, tensor=1)
  with (
    jax.set_mesh(sharding.make_mesh(mesh)),
    tempfile.TemporaryDirectory() as temporary,
  ):
    source = reading.check_folder(folder)
    tokenizer = source.tokenizer.write(pathlib.Path(temporary))
    print(*tables.table_lines(imported_run.summary(source)), sep="\n")
    with run_folder.hold_workdir(out):
      imported_run.write_run(
        source,
        folder,
        out,
        tokenizer,
        description.environment(source.model.dtype),
      )
  print(f"{out}: step 0, <pause> is id {source.model.vocab_size - 1}")
  return 0


def parser() -> commandline.Parser:
  """Returns the parser of the verb."""
  made = commandline.Parser("import", __doc__, config=False)
  add = made.add_argument
  add(
    "--from",
    dest="source",
    required=True,
    metavar="FOLDER",
    help="folder of the model, or its .gguf file",
  )
  add("--out", required=True, help="folder of the new run")
  return made


def _require_new(out: pathlib.Path) -> None:
  """Raises unless a run can be written to the folder."""
  errors.require(not out.is_file(), f"--out: {out} is a file, name a folder")
  files.require_writable("--out", out)
  with folders.readable(out):
    if folders.numbered(out / CHECKPOINTS):
      raise errors.UserError(
        f"--out: {out} holds the checkpoints of a run; name another folder"
      )
