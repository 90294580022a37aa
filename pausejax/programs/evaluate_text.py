"""`pausejax evaluate --text`: scores plain text with a trained model."""

import argparse
import json
import pathlib
import time
from collections.abc import Sequence

import pausejax
from pausejax import errors, files
from pausejax.checkpoints import saved_run
from pausejax.config import DataConfig, LossConfig
from pausejax.evaluation import results
from pausejax.runtime import accelerators, phases, tables, watchdog
from pausejax.tasks import corpora, file_lists

_MAX_FRACTION = 0.9


def main(options: argparse.Namespace, run: saved_run.SavedRun) -> int:
  """Scores the text with each pause fraction; one line and one file each."""
  accelerators.require_used()
  from pausejax.evaluation import plain_text

  data = DataConfig(**run.meta["config"]["data"])
  fractions = _fractions(options.pause_fraction, run)
  seq_len = options.seq_len or data.seq_len
  errors.require_in_range("--seq_len", seq_len, 2, run.model.max_seq_len)
  texts, left_out = _texts(options)
  documents = plain_text.encode_documents(texts, run.tokenizer)
  if not documents.ids:
    raise errors.UserError(f"--text: no text in {options.text}")
  for line in [*_describe(documents, seq_len), *left_out]:
    print(line, flush=True)
  if not data.pauses.has_pauses or data.pauses.uses_pause_token:
    run.warn_of_pauses(max(fractions), "pauses a position")
  _score(options, run, documents, fractions, seq_len)
  return 0


def _fractions(
  given: Sequence[float], run: saved_run.SavedRun
) -> Sequence[float]:
  """Returns the requested pause fractions.

  The default is 0, and that of the run if its model was trained on pauses.
  """
  if not given:
    own = DataConfig(**run.meta["config"]["data"]).pauses
    has_learned = run.meta["pauses_seen"] or not own.uses_pause_token
    return [0.0, own.fraction] if own.has_pauses and has_learned else [0.0]
  for fraction in given:
    errors.require_in_range("--pause_fraction", fraction, 0.0, _MAX_FRACTION)
  return given


def _texts(options: argparse.Namespace) -> tuple[list[str], list[str]]:
  """Returns the documents that --text names, in the order of their files.

  Also returns lines on the files that are left out.
  """
  file_lists.expand(options.text, "--text")  # Errors name the option --text.
  source = corpora.FileSource(
    train=options.text,
    validation=options.text,
    field=options.field,
    holdout_every=2,  # Not used: all text is in validation_files.
  )
  texts = list(source.documents("validation"))[: options.limit or None]
  left_out = source.lists()["validation"].left_out
  return texts, file_lists.left_out_reasons(left_out)


def _describe(documents, seq_len: int) -> list[str]:
  """Returns lines with the counts, including what is left out."""
  lines = [
    f"{len(documents.ids):,} documents, {documents.num_tokens:,} tokens, "
    f"{documents.num_bytes:,} bytes; windows of {seq_len:,} positions"
  ]
  if documents.num_empty:
    lines.append(f"{documents.num_empty:,} empty documents left out")
  if documents.num_inexact:
    lines.append(
      f"{documents.num_inexact:,} documents change when encoded and decoded; "
      "their bits per byte are those of the decoded text"
    )
  return lines


def _score(options, run: saved_run.SavedRun, documents, fractions, seq_len):
  """Loads the model and writes one result per pause fraction."""
  import jax

  from pausejax import sharding
  from pausejax.evaluation import plain_text
  from pausejax.runtime.progress import CountBar

  data = DataConfig(**run.meta["config"]["data"])
  folder = pathlib.Path(options.out or run.results_folder(results.TEXT_SCORES))
  with watchdog.watch(run.limits), jax.set_mesh(sharding.data_mesh()):
    phases.enter("evaluating", run.step)
    sharding.check_divisible({"--batch_size": (options.batch_size, "batch")})
    files.require_writable("--out", folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = run.load()
    for fraction in fractions:
      began = time.perf_counter()
      pauses = data.pauses.in_evaluation(fraction)
      with CountBar("windows", 0) as bar:
        scores = plain_text.score_documents(
          model,
          documents,
          tokenizer=run.tokenizer,
          seq_len=seq_len,
          pauses=pauses,
          batch_size=options.batch_size,
          loss=LossConfig(**run.meta["config"]["loss"]),
          show=bar.update,
        )
      result = {
        **_condition(options, run, documents),
        "pause_fraction": fraction,
        "pause_mode": pauses.mode,
        "seq_len": seq_len,
        **scores,
        "seconds": time.perf_counter() - began,
      }
      if jax.process_index() == 0:
        _write(folder, result)
      print(_line(result), flush=True)
    run.upload(folder)
  print(f"results are in {run.shown(folder)}")


def _condition(options, run: saved_run.SavedRun, documents) -> dict:
  """Returns the text and the model of a result."""
  return {
    "text": options.text,
    "field": options.field,
    "documents_sha256": documents.sha256,
    "num_documents": len(documents.ids),
    "num_empty": documents.num_empty,
    "num_inexact": documents.num_inexact,
    "num_bytes": documents.num_bytes,
    "checkpoint": run.place,
    "step": run.step,
    "average": run.average,
    "tokenizer": run.meta["tokenizer"],
    "pausejax": pausejax.__version__,
  }


def _write(folder: pathlib.Path, result: dict) -> None:
  """Writes a result under a name that identifies its condition."""
  stem = (
    f"{result['documents_sha256'][:8]}-seq{result['seq_len']}"
    f"-pauses{result['pause_fraction']:g}-step{result['step']}"
  )
  stem += "-average" * result["average"]
  files.write(folder / f"{stem}.json", json.dumps(result, indent=2) + "\n")


def _line(result: dict) -> str:
  """Returns one line for the terminal."""
  after = ""
  if result["num_pauses"]:
    names = {"loss_after_real": "text", "loss_after_pause": "pauses"}
    losses = [
      f"{result[key]:.4f} after {name}"
      for key, name in names.items()
      if key in result  # A short text may have no such target.
    ]
    after = f"  ({', '.join(losses)})"
  return (
    f"  pause_fraction={result['pause_fraction']:g}: "
    f"{result['nats_per_token']:.4f} nats per token{after}  perplexity "
    f"{tables.compact(result['perplexity'])}  "
    f"{result['bits_per_byte']:.4f} bits per byte  ({result['seconds']:.1f} s)"
  )
