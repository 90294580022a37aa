"""Tasks: the source of the data, its examples, and the metrics of answers."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pausejax import errors, metrics
from pausejax.config import DataConfig
from pausejax.tasks import corpora, records

KINDS = ("decode", "options")
# Metric of kind "options" -> how the log-likelihoods are normalized.
ACCURACIES = {
  "accuracy": "sum",
  "accuracy_per_token": "per_token",
  "accuracy_per_character": "per_character",
}

Metric = metrics.TextMetric
Unusable = records.Unusable


@dataclasses.dataclass(frozen=True)
class PretrainingTask:
  """A name and the source that the data settings select for it."""

  name: str
  source: Callable[[DataConfig], corpora.CorpusSource]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """One example as text, for training and for evaluation.

  Examples that no answer can get right are left out and counted when they are
  loaded: an empty prefix, an empty answer or option, no published label, fewer
  than two different options, the right option twice.

  Attributes:
    id: name of the example in files of predictions; "" stands for the index
      of its record in the split, from 0 ("INDEX#1", "INDEX#2", ... where a
      record has several examples).
    prefix: the text before the pauses.
    target: the text to predict; training appends EOS.
    references: the correct answers, for the metrics; kind "decode" only.
    options: texts to choose from; kind "options" only.
    label: index of the right option, -1 if it is not published.
    hints: one text for each of the last positions before the one that predicts
      the target, to be predicted there; each is a single token. With pauses
      appended, these positions are pauses: the pauses themselves have targets.
    group: name of the text that several examples share, such as a paragraph.
      Their answers are not independent, so intervals count the group as one
      sample. Several examples of one record are a group by default.
    steps: the worked steps at the start of the target, one text each, which
      joined are the target up to its answer; a curriculum replaces them by
      pauses.
    num_characters: divisor of each option's log-likelihood in
      `accuracy_per_character`; the lengths of `options` if empty.
  """

  id: str
  prefix: str
  target: str
  references: Sequence[str] = ()
  options: Sequence[str] = ()
  label: int = -1
  hints: Sequence[str] = ()
  group: str = ""
  num_characters: Sequence[int] = ()
  steps: Sequence[str] = ()


def without_steps(example: Example, count: int) -> Example:
  """Returns an example whose target lacks its first `count` steps."""
  done = sum(map(len, example.steps[:count]))
  return dataclasses.replace(
    example, target=example.target[done:], steps=example.steps[count:]
  )


def option(options: Sequence[str], label: int) -> str:
  """Returns the target of an example with options: "" if there is none."""
  return options[label] if 0 <= label < len(options) else ""


def predictions_by_id(document: Any) -> Mapping[str, str]:
  """Returns an object from id to text; raises UserError for other values."""
  if not isinstance(document, dict):
    raise errors.UserError(
      f"expected a JSON object from id to text, got {document!r:.60}"
    )
  return document


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A downstream task.

  Attributes:
    name: the value of `data.task`.
    kind: "decode" generates an answer, "options" chooses the most likely one.
    source: reads the records of each split.
    examples: record -> its examples (several for a conversation). Raises
      `Unusable` for a record to leave out; any other error stops the program
      with a message that names the record.
    metrics: name -> (prediction, references) -> a value in [0, 1]. Kind
      "options" needs none: it reports accuracies.
    primary_metric: the metric that tables show and that chooses the best
      checkpoint; by default the first of `metrics`, or "accuracy".
    num_pauses: default number of pauses, M.
    max_target_len: maximum number of tokens of a decoded answer.
    delimiter: text between prefix and target; " " lets the tokenizer treat
      the target as a new word.
    stop: text at which an answer ends, besides EOS; "" for none.
    perplexity: whether to report the perplexity of the target; kind "decode".
    read_predictions: a file of predictions as JSON -> {id: text}; raises
      UserError for another shape. Kind "options": text or index of an option.
  """

  name: str
  kind: str
  source: records.RecordSource
  examples: Callable[[Any], Iterable[Example]]
  metrics: Mapping[str, Metric] = dataclasses.field(default_factory=dict)
  primary_metric: str = ""
  num_pauses: int = 10
  max_target_len: int = 32
  delimiter: str = " "
  stop: str = ""
  perplexity: bool = False
  read_predictions: Callable[[Any], Mapping[str, str]] = predictions_by_id

  @property
  def metric_names(self) -> list[str]:
    """Returns the names of all reported metrics, in the order of the report."""
    names = list(self.metrics or ACCURACIES)
    return [*names, "perplexity"] if self.perplexity else names

  def __post_init__(self):
    errors.require(
      re.fullmatch(r"[\w.-]+", self.name) is not None,
      f"task {self.name!r}: a name is letters, digits and _ . - only",
    )
    errors.require_one_of(f"task {self.name}: kind", self.kind, KINDS)
    errors.require(
      hasattr(self.source, "records"),
      f"task {self.name}: source must be records.Files or records.Generated, "
      f"got {self.source!r:.60}",
    )
    errors.require(
      self.kind == "decode" or not self.metrics,
      f"task {self.name}: kind 'options' reports accuracies, leave out metrics",
    )
    errors.require(
      self.kind == "options" or bool(self.metrics),
      f"task {self.name}: kind 'decode' needs at least one metric",
    )
    names = list(self.metrics or ACCURACIES)
    primary = self.primary_metric or names[0]
    errors.require_one_of(f"task {self.name}: primary_metric", primary, names)
    object.__setattr__(self, "primary_metric", primary)
