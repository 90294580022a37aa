"""Pretraining tasks as SeqIO tasks.

vocabulary = vocabulary.vocabulary(data.tokenizer)
pretraining.register_pretraining(task, data, vocabulary, seed=0)
seqio.get_mixture_or_task("c4_pause").get_dataset({"targets": 2048})
"""

import functools

import seqio

from pausejax.config import DataConfig
from pausejax.data.seqio import preprocessors, sources
from pausejax.data.seqio.vocabulary import PauseVocabulary
from pausejax.tasks import PretrainingTask


def register_pretraining(
  task: PretrainingTask,
  data: DataConfig,
  vocabulary: PauseVocabulary,
  *,
  seed: int,
  shard: tuple[int, int] = (0, 1),
) -> tuple[str, str]:
  """Registers two tasks with SeqIO, replacing tasks of the same names.

  Args:
    task: the task; its name is that of the SeqIO task without pauses.
    data: the source and the pauses, which "<name>_pause" inserts.
    vocabulary: the vocabulary.
    seed: seed of the pauses.
    shard: (h, H), host h of H, as in `preprocessors.pause_segments`.

  Returns:
    Both names, first that of the task without pauses.
  """
  built = (
    segments_task(task, data, vocabulary),
    pause_task(task, data, vocabulary, seed=seed, shard=shard),
  )
  for seqio_task in built:
    seqio.TaskRegistry.remove(seqio_task.name)
    seqio.TaskRegistry.add_provider(seqio_task.name, seqio_task)
  return built[0].name, built[1].name


def segments_task(
  task: PretrainingTask, data: DataConfig, vocabulary: PauseVocabulary
) -> seqio.Task:
  """Returns the task of segments without pauses, not registered."""
  return seqio.Task(
    task.name,
    source=sources.data_source(task.source(data)),
    output_features={"targets": seqio.Feature(vocabulary, add_eos=True)},
    preprocessors=[
      preprocessors.tokenize,
      preprocessors.concat_and_split,
    ],
    shuffle_buffer_size=data.shuffle_buffer,
  )


def pause_task(
  task: PretrainingTask,
  data: DataConfig,
  vocabulary: PauseVocabulary,
  *,
  seed: int,
  shard: tuple[int, int] = (0, 1),
) -> seqio.Task:
  """Returns the task of segments with pauses, not registered."""
  pauses = data.pauses
  cut = functools.partial(preprocessors.concat_and_split, pauses=pauses)
  insert = functools.partial(
    preprocessors.pause_segments, pauses=pauses, seed=seed, shard=shard
  )
  return segments_task(task, data, vocabulary).replace(
    name=f"{task.name}_pause",
    preprocessors=[preprocessors.tokenize, cut, insert],
  )
