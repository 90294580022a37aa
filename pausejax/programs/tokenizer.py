"""Trains a BPE SentencePiece vocabulary on the training split of a task.

  pausejax tokenizer train --config=configs/smoke.py --vocab_size=2048 \\
    --out=tokenizer.model

The same text gives the same bytes. `<pause>` is not a piece: its id follows the
last piece, and no text can produce it.
"""

import pathlib

from pausejax import commandline, errors, files, tasks
from pausejax.config import train_config
from pausejax.data import opening, tokenizer_training, tokenizers
from pausejax.tasks import file_lists

# The fields that determine the text; all others are for other verbs.
_FIELDS = (
  "tasks_module",
  "data.task",
  "data.files",
  "data.validation_files",
  "data.field",
  "data.holdout_every",
  "data.tfds_name",
  "data.tfds_data_dir",
)


def main(argv: list[str]) -> int:
  """Trains and writes the model."""
  if argv and not argv[0].startswith("-"):
    errors.require_one_of("tokenizer", argv[0], ["train"])
    argv = argv[1:]
  options, tree = parser().parse(argv)
  errors.require_in_range("--vocab_size", options.vocab_size, 260)
  out = pathlib.Path(options.out)
  files.require_writable_file("--out", out)
  config = train_config(tree.to_dict())
  tasks.import_module(config.tasks_module)
  source = tasks.pretraining(config.data.only_task).source(config.data)
  documents = list(opening.documents(source, "train"))
  model = tokenizer_training.train_tokenizer(
    documents, vocab_size=options.vocab_size
  )
  out.parent.mkdir(parents=True, exist_ok=True)
  files.write(out, model)
  tokenizer = tokenizers.load_tokenizer(str(out))
  print(
    f"{out}: {options.vocab_size:,} pieces from {len(documents):,} documents, "
    f"<pause> is id {tokenizer.pause_id}"
  )
  for line in file_lists.left_out_reasons(source.left_out()):
    print(line)
  return 0


def parser() -> commandline.Parser:
  """Returns the parser of the arguments after `tokenizer train`."""
  made = commandline.Parser(
    "tokenizer train", __doc__, config=True, uses=_FIELDS
  )
  made.add_argument("--out", required=True, help="file to write (.model)")
  made.add_argument(
    "--vocab_size", type=int, default=32_000, help="pieces (default: 32000)"
  )
  return made
