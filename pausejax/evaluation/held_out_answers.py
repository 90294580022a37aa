"""Metrics of answers to held-out examples during training."""

from collections.abc import Callable, Sequence
from typing import Any

from pausejax.config import TrainConfig
from pausejax.data.finetuning.source import TaskSequences
from pausejax.data.tokenizers import PauseTokenizer
from pausejax.evaluation.answers import Predictor


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
  """
  if not (held_out and config.eval.num_examples):
    return lambda model, show: {}

  def score(model, show) -> dict[str, float]:
    metrics, primary = {}, []
    for task in held_out:
      predictor = Predictor(
        format=task.format,
        tokenizer=tokenizer,
        batch_size=config.eval.batch_size,
      )
      rows = task.examples.rows[: config.eval.num_examples]
      answers = predictor.answer(model, rows, show)
      metrics |= {f"{task.name}_{n}": v for n, v in answers.metrics.items()}
      primary.append(answers.metrics[task.format.task.primary_metric])
    return {"score": sum(primary) / len(primary), **metrics}

  return score
