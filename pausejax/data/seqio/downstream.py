"""Downstream tasks as SeqIO tasks and mixtures.

vocabulary = vocabulary.vocabulary(data.tokenizer)
downstream.register_downstream(task, data, vocabulary, prompt_pauses)
seqio.get_mixture_or_task("squad").get_dataset({"inputs": 512, "targets": 64})

Elements, for SeqIO's feature converters and evaluators:

  inputs      int32 [T]   ids of the prefix and its pauses; no BOS
  targets     int32 [T]   ids of the target, then EOS
  id          string []   of the example
  references  string [R]  the answers that the metrics accept

Prefixes that are too long are truncated on the left, which keeps the pauses;
SeqIO itself would truncate on the right. The right option is the target, and
`pausejax evaluate` ranks options. SeqIO's features cannot represent hints and
the mask of a bidirectional prefix (`PromptPauses.in_prefix`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from pausejax import metrics, tasks
from pausejax.config import DataConfig
from pausejax.data import tokenizers
from pausejax.data.finetuning import examples, prompts
from pausejax.data.seqio import preprocessors
from pausejax.data.seqio.vocabulary import PauseVocabulary
from pausejax.prompt_pauses import PromptPauses


def register_downstream(
  task: tasks.Task,
  data: DataConfig,
  vocabulary: PauseVocabulary,
  pauses: PromptPauses,
) -> str:
  """Registers a task with SeqIO, replacing any of the same name.

  Args:
    task: the task; the SeqIO task has the same name.
    data: the location of the records, and the tokenizer.
    vocabulary: the vocabulary of `data.tokenizer`.
    pauses: the pauses of the inputs.

  Returns:
    The name.

  Raises:
    UsageError: the filler has no token, or is an unknown name.
  """
  tokenizer = tokenizers.load_for(data)
  delimiter = prompts.delimiter(task, tokenizer)
  filler = prompts.Filler(tokenizer, pauses)
  built = seqio.Task(
    task.name,
    source=seqio.FunctionDataSource(
      functools.partial(_dataset, task, data, delimiter),
      splits=examples.splits(task),
    ),
    output_features={
      "inputs": seqio.Feature(vocabulary, add_eos=False),
      "targets": seqio.Feature(vocabulary, add_eos=True),
    },
    preprocessors=[functools.partial(encode_examples, filler=filler)],
    postprocess_fn=functools.partial(postprocess, task.stop),
    metric_fns=[_mean(name, fn) for name, fn in task.metrics.items()],
  )
  seqio.TaskRegistry.remove(task.name)
  seqio.TaskRegistry.add_provider(task.name, built)
  return task.name


def register_mixture(name: str, rates: Mapping[str, float]) -> str:
  """Registers a mixture of registered tasks with SeqIO; returns its name.

  Args:
    name: name of the mixture.
    rates: task -> relative number of examples, as in `DataConfig.rates`.
  """
  seqio.MixtureRegistry.remove(name)
  seqio.MixtureRegistry.add(name, list(rates.items()))
  return name


def encode_examples(
  dataset: tf.data.Dataset,
  output_features: preprocessors.Features,
  sequence_length: Mapping[str, int] | None,
  *,
  filler: prompts.Filler,
) -> tf.data.Dataset:
  """Replaces the texts "inputs" and "targets" by ids, including the pauses."""
  vocabulary = output_features["inputs"].vocabulary
  lengths = sequence_length or {}

  def prompt(inputs_T: np.ndarray) -> np.ndarray:
    return filler.prompt(inputs_T)[1:]  # BOS is the feature converter's.

  def to_ids(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    inputs_T = vocabulary.encode_tf(example["inputs"])
    targets_T = vocabulary.encode_tf(example["targets"])
    if lengths.get("inputs"):
      kept = tf.maximum(lengths["inputs"] - filler.pauses.num_pauses, 0)
      inputs_T = inputs_T[tf.maximum(tf.size(inputs_T) - kept, 0) :]
    if lengths.get("targets"):
      targets_T = targets_T[: lengths["targets"] - 1]
    return {
      **example,
      "inputs": tf.ensure_shape(
        tf.numpy_function(prompt, [inputs_T], tf.int32), [None]
      ),
      "targets": tf.concat([targets_T, [vocabulary.eos_id]], axis=0),
    }

  return dataset.map(to_ids, num_parallel_calls=tf.data.AUTOTUNE)


def postprocess(
  stop: str, text: str, *, example: Mapping[str, Any], is_target: bool = False
) -> str | list[str]:
  """Returns the references of a target, or the answer in a model's output."""
  if is_target:
    return [reference.decode() for reference in example["references"]]
  return prompts.until_stop(text, stop)


def _mean(name: str, metric: tasks.Metric) -> Callable:
  """Returns a metric for SeqIO: the mean over all examples, in percent."""

  def mean(
    targets: Sequence[Sequence[str]], predictions: Sequence[str]
  ) -> dict[str, float]:
    answers = {str(i): text for i, text in enumerate(predictions)}
    references = {str(i): refs for i, refs in enumerate(targets)}
    scores = metrics.score_predictions(answers, references, {name: metric})
    return {name: scores[name]}

  return mean


def _dataset(
  task: tasks.Task,
  data: DataConfig,
  delimiter: str,
  split: str,
  shuffle_files: bool,
  seed: int | None = None,
) -> tf.data.Dataset:
  """Returns the examples as texts, all in memory; no files to shuffle."""
  del shuffle_files, seed
  loaded = examples.read_split(task, split, data)
  rows = loaded.rows
  print(f"{task.name} {loaded.summary()}", flush=True)
  return tf.data.Dataset.from_tensor_slices(
    {
      "id": [row.id for row in rows],
      "inputs": [row.prefix for row in rows],
      "targets": [delimiter + row.target for row in rows],
      "references": tf.ragged.constant(
        [list(row.references) for row in rows], tf.string, ragged_rank=1
      ),
    }
  )
