"""Metrics of answers to held-out examples during training."""

from collections.abc import Callable, Sequence
from typing import Any

from pausejax.config import TrainConfig
from pausejax.data.finetuning.sequences import TaskSequences
from pausejax.data.tokenizers import PauseTokenizer
from pausejax.evaluation.answers import Predictor
from pausejax.tasks import Example


def scorer(
  config: TrainConfig,
  held_out: Sequence[TaskSequences],
  tokenizer: PauseTokenizer,
) -> Callable[[Any, Callable[..., None]], dict[str, float]]:
  """Returns (model, show) -> metrics of its answers to held-out examples.

  The metrics are in percent; "score" is the mean over tasks of each task's
  primary metric. The result is empty without tasks, or if `eval.num_examples`
  is 0.

  Args:
    config: config of the run.
    held_out: the held-out examples of each task.
    tokenizer: tokenizer of the run.

  Raises:
    UsageError: pauses and answers do not fit the positions of the model.
  """
  if not (held_out and config.eval.num_examples):
    return lambda model, show: {}

  def predictor(task: TaskSequences) -> Predictor:
    return Predictor(
      format=task.format,
      tokenizer=tokenizer,
      batch_size=config.eval.batch_size,
    )

  def rows(task: TaskSequences) -> Sequence[Example]:
    return task.examples.rows[: config.eval.num_examples]

  for task in held_out:  # Refused now, not after the steps before it.
    predictor(task).check(rows(task), config.model["max_seq_len"])

  def score(model, show) -> dict[str, float]:
    metrics, primary = {}, []
    for task in held_out:
      answers = predictor(task).answer(model, rows(task), show)
      metrics |= {f"{task.name}_{n}": v for n, v in answers.metrics.items()}
      primary.append(answers.metrics[task.format.task.primary_metric])
    return {"score": sum(primary) / len(primary), **metrics}

  return score
