"""Answers of a model to the examples of a task, and their metrics.

Kind "decode": one forward pass reads the prompt with its pauses, then an answer
is decoded greedily and scored by the task's metrics. Kind "options": every
option is scored after the same prompt, and the most likely one is the answer.

Batches have prompts of similar length, so few shapes are compiled. The last
batch is padded with copies of its last row, which no metric counts.

B batch, T prompt positions, N new ids, O options, C ids of an option.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from pausejax import sharding
from pausejax.config import ModelConfig
from pausejax.data.finetuning import prompts
from pausejax.data.tokenizers import PauseTokenizer
from pausejax.inference import batches, decode, score
from pausejax.model.decoder import Decoder
from pausejax.runtime import flops
from pausejax.tasks import ACCURACIES, Example

Show = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Answers:
  """The answers of a model to all examples.

  Attributes:
    metrics: name -> percent over all examples ("perplexity" is not scaled).
    rows: one dict per example, in order: id, group, prediction, the `values` of
      each metric in [0, 1], and the references or options.
    num_cut: number of prompts that were truncated on the left.
    num_cut_tokens: number of tokens truncated in all.
    flops_per_example: mean FLOPs of the forward pass over prompt, pauses and
      answer, see `flops.of_answer`; of the rows' `num_positions` and `num_new`.
    seconds_per_example: median over batches of the time of a batch divided by
      its examples; None for fewer than three, as the first ones compile.
  """

  metrics: dict[str, float]
  rows: list[dict]
  num_cut: int
  num_cut_tokens: int
  flops_per_example: float
  seconds_per_example: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictor:
  """Computes answers and metrics of models.

  Attributes:
    format: task, tokenizer and pauses.
    tokenizer: the ids of padding, EOS and `<pause>`.
    batch_size: examples per batch, over all hosts.
  """

  format: prompts.Format
  tokenizer: PauseTokenizer
  batch_size: int

  def answer(
    self, model: Decoder, examples: Sequence[Example], show: Show
  ) -> Answers:
    """Answers all examples.

    Args:
      model: the decoder, sharded on the mesh.
      examples: examples of the format's task.
      show: called with (number of examples answered, number in all).

    Raises:
      UsageError: pauses and answer do not fit the model's positions.
    """
    decodes = self.format.task.kind == "decode"
    answer = self._decode if decodes else self._choose
    limit = self._max_prompt_len(examples, model.config.max_seq_len)
    encoded = self.format.prompts(examples, [limit] * len(examples))
    rows: list[dict] = [{} for _ in examples]
    seconds = []
    for places in self._batches(encoded.rows):
      began = time.perf_counter()
      chosen = [examples[i] for i in places]
      ids = [encoded.rows[i] for i in places]
      for i, row in zip(places, answer(model, chosen, ids), strict=True):
        rows[i] = row
      seconds.append((time.perf_counter() - began) / len(places))
      show(sum(map(bool, rows)), len(rows))
    return Answers(
      metrics=_means(rows),
      rows=rows,
      num_cut=encoded.num_cut,
      num_cut_tokens=encoded.num_cut_tokens,
      flops_per_example=_mean_flops(model.config, rows),
      seconds_per_example=(
        statistics.median(seconds) if len(seconds) > 2 else None
      ),
    )

  def check(self, examples: Sequence[Example], max_seq_len: int) -> None:
    """Raises UsageError unless pauses and answers fit a model's positions."""
    limit = self._max_prompt_len(examples, max_seq_len)
    self.format.prompts(examples[:1], [limit])

  def _max_prompt_len(
    self, examples: Sequence[Example], max_seq_len: int
  ) -> int:
    """Returns how many positions the longest answer leaves to a prompt."""
    if self.format.task.kind == "decode":
      longest = self.format.task.max_target_len
    else:
      longest = max(map(len, self._options(examples)))
    return max_seq_len - longest * self.format.filler.behind.period

  def _batches(self, rows: Sequence[np.ndarray]) -> Iterator[list[int]]:
    """Yields the indices of rows of similar length, the longest first."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    for start in range(0, len(order), self.batch_size):
      yield order[start : start + self.batch_size]

  def _decode(self, model, examples, ids) -> list[dict]:
    task, tokenizer = self.format.task, self.tokenizer
    ids_BN = decode.generate(
      model,
      **self._prompt_arrays(ids),
      key=jax.random.key(0),  # Greedy: never used.
      num_new=task.max_target_len,
      temperature=0.0,
      top_k=0,
      top_p=1.0,
      eos_id=tokenizer.eos_id,
      pause_id=tokenizer.pause_id,
      behind=self.format.filler.behind,
    )
    rows = []
    num_answer = self.format.filler.num_answer
    decoded = sharding.fetch_rows(ids_BN)[: len(ids)]
    for example, prompt_N, ids_N in zip(examples, ids, decoded, strict=True):
      num_new = _num_new(ids_N, tokenizer.eos_id)
      answer = self.format.answer(ids_N)
      values = {
        name: float(metric(answer, example.references))
        for name, metric in task.metrics.items()
      }
      references = list(example.references)
      rows.append(
        {
          "id": example.id,
          "group": example.group or example.id,
          "prediction": answer,
          "references": references,
          "num_new": num_new,
          "num_positions": len(prompt_N) + num_answer(num_new),
          "values": values,
        }
      )
    if task.perplexity:
      self._add_likelihoods(model, examples, ids, rows)
    return rows

  def _add_likelihoods(self, model, examples, ids, rows) -> None:
    """Adds to each row the log-likelihood of its target, in nats."""
    targets = self.format.continuations([e.target for e in examples])
    log_prob_BO = self._score(model, ids, [[t] for t in targets])
    for row, log_prob_O in zip(rows, log_prob_BO, strict=True):
      row["log_likelihood"] = float(log_prob_O[0])

  def _choose(self, model, examples, ids) -> list[dict]:
    """Scores the options of each example under the three normalizations."""
    flat = self._options(examples)
    options = [[flat.pop(0) for _ in e.options] for e in examples]
    rows = []
    num_answer = self.format.filler.num_answer
    scores_BO = self._score(model, ids, options)
    for example, prompt_N, ids_O, scores_O in zip(
      examples, ids, options, scores_BO, strict=True
    ):
      scores_O = scores_O[: len(ids_O)]
      characters = example.num_characters or [*map(len, example.options)]
      sizes = np.array([*map(len, ids_O)]), np.array(characters)
      chosen = {
        name: int(np.argmax(score.normalize(how, scores_O, *sizes)))
        for name, how in ACCURACIES.items()
      }
      rows.append(
        {
          "id": example.id,
          "group": example.group or example.id,
          "prediction": example.options[chosen["accuracy"]],
          "label": example.label,
          "options": list(example.options),
          "log_likelihoods": [float(s) for s in scores_O],
          "num_new": sum(map(len, ids_O)),
          "num_positions": len(prompt_N)
          + sum(num_answer(len(x)) for x in ids_O),
          "values": {n: float(c == example.label) for n, c in chosen.items()},
        }
      )
    return rows

  def _options(self, examples: Sequence[Example]) -> list[list[int]]:
    """Returns the ids of all options of all examples, as one list."""
    return self.format.continuations([o for e in examples for o in e.options])

  def _score(self, model, ids, options) -> np.ndarray:
    """Returns the log-likelihood [B, O] of each option's ids, in nats."""
    log_prob_BO, _ = score.score_options(
      model,
      **self._prompt_arrays(ids),
      **batches.batch_of_options(
        options,
        batch_size=self.batch_size,
        num_options=max(map(len, options)),
      ),
      pause_id=self.tokenizer.pause_id,
      behind=self.format.filler.behind,
    )
    found_BO = sharding.fetch_rows(log_prob_BO)[: len(ids)]
    score.require_numbers(found_BO)
    return found_BO

  def _prompt_arrays(self, ids: Sequence[np.ndarray]) -> dict[str, jax.Array]:
    """Returns the prompts of a batch, padded to `batch_size` rows."""
    return batches.batch_of_prompts(
      ids,
      [self.format.pauses.prefix_mask(len(row)) for row in ids],
      [self.format.filler.moves(len(row)) for row in ids],
      batch_size=self.batch_size,
      pad_id=self.tokenizer.pad_id,
    )


def _num_new(ids_N: np.ndarray, eos_id: int) -> int:
  """Returns the number of decoded ids up to EOS, which counts."""
  (ends,) = np.nonzero(ids_N == eos_id)
  return int(ends[0]) + 1 if len(ends) else len(ids_N)


def _mean_flops(config: ModelConfig, rows: Sequence[dict]) -> float:
  return statistics.fmean(
    flops.of_answer(config, row["num_positions"], row["num_new"])
    for row in rows
  )


def _means(rows: Sequence[dict]) -> dict[str, float]:
  """Returns percent over all rows, and the perplexity if rows have it."""
  names = rows[0]["values"]
  means = {
    n: 100.0 * float(np.mean([row["values"][n] for row in rows])) for n in names
  }
  if "log_likelihood" in rows[0]:
    nll = -float(np.mean([row["log_likelihood"] for row in rows]))
    means["perplexity"] = math.exp(min(nll, 700.0))
  return means
