"""Tokenises a task and cuts it into segments, once, for any number of runs.

  pausejax segments --config=configs/smoke.py --out=/data/segments

Prints documents, tokens and segments of both splits. Training then takes
--config.data.segments_dir=/data/segments. No pauses are stored: a standard and
a pause run read the same segments.
"""

import pathlib
import time

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from pausejax import commandline, settings
from pausejax.data import segments, tokenizers


def main(argv: list[str]) -> int:
  """Writes the segments and prints what is in them."""
  parser = commandline.Parser("segments", __doc__, config=True)
  parser.add_argument("--out", required=True, help="folder to make")
  options, tree = parser.parse(argv)
  config = settings.train_config(tree.to_dict())
  tokenizer = tokenizers.load(config.data.tokenizer)
  columns = TextColumn("{task.description}"), TimeElapsedColumn()
  with Progress(*columns) as progress:
    task = progress.add_task("segments")
    start = time.perf_counter()

    def report(split: str, documents: int, tokens: int) -> None:
      speed = tokens / (time.perf_counter() - start)
      text = f"{split}: {documents:,} documents, {tokens:,} tokens"
      progress.update(task, description=f"{text}, {speed:,.0f} tokens/s")

    out = pathlib.Path(options.out)
    index = segments.write(config.data, tokenizer, out, report)
  for split in ("train", "validation"):
    part = index[split]
    print(
      f"{split}: {part['num_documents']:,} documents, "
      f"{part['num_tokens']:,} tokens, {part['num_segments']:,} segments, "
      f"unigram entropy {part['unigram_entropy']:.3f} nats"
    )
  print(f"segments are in {out}")
  return 0
