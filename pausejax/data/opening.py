"""Opens the source of a task: files, functions, or TensorFlow Datasets.

A task only describes its source (`pausejax/tasks`). TFDS data needs TensorFlow,
which is imported here when such data is read.
"""

from collections.abc import Iterator

from pausejax import errors
from pausejax.config import DataConfig
from pausejax.tasks import corpora, records


def units(source: corpora.CorpusSource) -> list[corpora.Unit]:
  """Returns the parts of a corpus, in order."""
  if isinstance(source, corpora.TfdsSource):
    from pausejax.data.seqio import sources

    return sources.tfds_units(source)
  return source.units()


def documents(source: corpora.CorpusSource, split: str) -> Iterator[str]:
  """Yields the text of each document of a split.

  Raises:
    UserError: there are no documents, or the corpus cannot be read.
  """
  count = 0
  for text in corpora.read_documents(units(source), split):
    count += 1
    yield text
  if not count:
    raise corpora.no_documents(source, split)


def read_records(
  source: records.RecordSource, split: str, data: DataConfig
) -> Iterator[records.LocatedRecord]:
  """Yields (where, record) of a split; local files take precedence over TFDS.

  Raises:
    UserError: no such split, or data that is missing or cannot be read.
  """
  if data.local_dir or not isinstance(source, records.Files) or not source.tfds:
    yield from source.records(split, data)
    return
  from pausejax.data.seqio import sources

  errors.require_one_of("split", split, source.files)
  name = source.tfds_splits.get(split, split)
  examples = sources.tfds_examples(source.tfds, data.tfds_data_dir, name)
  for number, example in enumerate(examples):
    yield f"{source.tfds} {name} {number}", source.from_tfds(example)
