"""Your own text: a folder, a glob or a list of files.

books/Moby-Dick.txt                      one document per file
{"text": "Call me Ishmael. Some ..."}    one document per line of .jsonl(.gz),
                                         the text in `data.field`
"""

from pausejax import errors, tasks
from pausejax.config import DataConfig
from pausejax.tasks import corpora


def source(data: DataConfig) -> corpora.CorpusSource:
  """Returns the files that `data.files` and `data.validation_files` name."""
  errors.require(
    bool(data.files),
    "data.files: task 'text' needs a folder, glob or file, got ''; set "
    "--config.data.files=",
  )
  return corpora.FileSource(
    train=data.files,
    validation=data.validation_files,
    field=data.field,
    holdout_every=data.holdout_every,
  )


tasks.register(tasks.PretrainingTask("text", source))
