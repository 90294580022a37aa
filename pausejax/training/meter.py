"""Converts the metrics of steps to rows of metrics.jsonl and progress."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from pausejax.runtime import tables
from pausejax.runtime.device_memory import memory_row
from pausejax.runtime.goodput import Goodput
from pausejax.runtime.metric_writer import MetricWriter, Silent
from pausejax.runtime.progress import ProgressBar
from pausejax.training.held_out import Evaluation, Sums

# Metrics of a step that begin so are sums over the batch; rows hold means.
_SUMS = ("nll", "num_")


@dataclasses.dataclass
class Counters:
  """Exact counts, saved in every checkpoint."""

  total_tokens: int = 0  # Positions of text and of pauses.
  real_tokens: int = 0  # Positions of text, also of copies (repeat_token).
  displaced_tokens: int = 0  # Tokens of text that "insert_trim" cut off.
  skipped_in_a_row: int = 0  # Consecutive steps up to the last, not finite.
  skipped_spikes: int = 0  # Steps skipped because of `optim.skip_spikes`.


class Meter:
  """Writes one row of metrics per step (keys: docs/metrics.md).

  Attributes:
    counters: tokens and skipped steps so far.
  """

  def __init__(
    self,
    writer: MetricWriter | Silent,
    progress: ProgressBar,
    counters: Counters,
    *,
    every: int,
    trims: bool,
    unigram_entropy: float | None,
    flops_per_token: float,
    full_flops_per_token: float,
    peak_flops: float | None,
    goodput: Goodput,
    describe_batch: Callable[[int], str] = "batch {}".format,
    batch_of: Callable[[int], int] | None = None,
  ):
    """Makes a meter that continues from `counters`.

    Args:
      writer: writes the rows.
      progress: the progress bar to update.
      counters: counts so far; updated in place.
      every: steps between rows.
      trims: whether pauses displace text (`PauseSpec.displaces_text`).
      unigram_entropy: entropy of the held-out text in nats, printed with its
        loss; None prints nothing.
      flops_per_token: FLOPs of a training step per token.
      full_flops_per_token: the same with the whole square of the attention.
      peak_flops: peak FLOP/s of all devices together, if known.
      goodput: adds up the time of the steps.
      describe_batch: names the examples of the batch of a step.
      batch_of: the number of the batch of a step, if batches are left out.
    """
    self._writer = writer
    self._progress = progress
    self.counters = counters
    self._every = every
    self._trims = trims
    self._unigram_entropy = unigram_entropy
    self._flops_per_token = flops_per_token
    self._full_flops_per_token = full_flops_per_token
    self._peak_flops = peak_flops
    self._goodput = goodput
    self._describe_batch = describe_batch
    self._batch_of = batch_of
    self._num_steps = 0  # Without those that were compiled.
    self._seconds = self._num_tokens = self._excluded = 0.0
    self.restart_clock()

  def restart_clock(self) -> None:
    """Excludes the time since the last step from the next step's time."""
    self._last = time.perf_counter()

  def exclude(self, total: float) -> None:
    """Excludes seconds from the time of the next step that is recorded.

    Args:
      total: all seconds to exclude so far, also from the steps before.
    """
    self._last += total - self._excluded
    self._excluded = total

  def record(
    self, step: int, metrics: dict[str, jax.Array], data_wait: float
  ) -> None:
    """Waits for the metrics of a step, then writes and shows them.

    Args:
      step: number of the step, from 1.
      metrics: what `train_step` returned.
      data_wait: seconds that the loop waited for the batch.
    """
    m = {k: float(v) for k, v in jax.device_get(metrics).items()}
    now = time.perf_counter()
    seconds, self._last = now - self._last, now
    if not self._goodput.add_step(seconds):
      self._num_steps += 1
      self._seconds += seconds
      self._num_tokens += m["num_tokens"]
    counters = self.counters
    counters.total_tokens += int(m["num_tokens"])
    counters.real_tokens += int(m["num_tokens"] - m["num_pauses"])
    if self._trims:
      counters.displaced_tokens += int(m["num_pauses_in_full_rows"])
    speed = m["num_tokens"] / seconds
    self._progress.update(step, m["loss"], speed, seconds)
    is_spike = bool(m.get("spike", 0.0))
    counters.skipped_spikes += is_spike
    counters.skipped_in_a_row = (
      counters.skipped_in_a_row + 1 if m["skipped"] and not is_spike else 0
    )
    if m["skipped"]:
      self._print_skipped(step, m, is_spike)
    if step % self._every:
      return
    row = {
      "loss": m["loss"],
      **losses_by_class(m),
      **{name: x for name, x in m.items() if not name.startswith(_SUMS)},
      "pause_fraction": m["num_pauses"] / max(m["num_tokens"], 1.0),
      "num_targets": int(m["num_targets"]),
      **dataclasses.asdict(counters),
      "skipped": int(m["skipped"]),
      "step_seconds": seconds,
      "data_wait_seconds": data_wait,
      "tokens_per_second": speed,
      "model_flops_per_second": speed * self._flops_per_token,
    }
    if self._batch_of:
      row["batch"] = self._batch_of(step)
    row |= {**self._mfu(speed), **memory_row(), **self._goodput.row()}
    self._writer.write(step, row)

  def _print_skipped(self, step: int, m: dict[str, float], is_spike) -> None:
    why = "not finite"
    if is_spike:
      values = f"loss {m['loss']:.4g}, gradient norm {m['grad_norm']:.4g}"
      why = f"a spike ({values})"
    self._progress.print(
      f"step {step}: {why}, skipped; {self._describe_batch(step)}"
    )

  def _mfu(self, tokens_per_second: float) -> dict[str, float]:
    """Returns the utilization in both conventions; empty if not known."""
    if not self._peak_flops:
      return {}
    part = tokens_per_second / self._peak_flops
    return {
      "mfu": part * self._flops_per_token,
      "mfu_full_attention": part * self._full_flops_per_token,
    }

  def summary(self) -> list[str]:
    """Returns lines on the speed and the goodput of the run."""
    lines = [self._goodput.line()]
    if self._seconds:
      speed = self._num_tokens / self._seconds
      line = (
        f"{speed:,.0f} tokens/s on average over {self._num_steps:,} steps, "
        "without compilation"
      )
      if mfu := self._mfu(speed):
        line += (
          f", MFU {mfu['mfu']:.1%} ({mfu['mfu_full_attention']:.1%} counting "
          "the whole square of the attention)"
        )
      lines.insert(0, line)
    return lines

  def record_evaluation(self, step: int, evaluation: Evaluation) -> None:
    """Writes and shows the held-out loss, answers and samples.

    Args:
      step: number of the step.
      evaluation: its results.
    """
    sums, plain_sums = evaluation.sums, evaluation.plain_sums
    loss = sums["nll"] / max(sums["num_targets"], 1.0)
    row = {
      "loss": loss,
      **losses_by_class(sums),
      "num_targets": int(sums["num_targets"]),
      **evaluation.answers,
    }
    line = f"step {step}: held-out loss {loss:.3f} nats per token"
    if plain_sums is not None:
      plain = plain_sums["nll"] / max(plain_sums["num_targets"], 1.0)
      row["loss_without_pauses"] = plain
      row["num_targets_without_pauses"] = int(plain_sums["num_targets"])
      if plain_sums is not sums:
        line += f", {plain:.3f} without pauses"
    row = {f"eval_{k}": v for k, v in row.items()}
    self._writer.write(step, row | self._goodput.seconds_by_kind())
    self._writer.write_samples(step, evaluation.samples)
    if self._unigram_entropy is not None:
      line += f" (unigram entropy {self._unigram_entropy:.3f})"
    self._progress.print(
      f"{line}, over {row['eval_num_targets']:,} text targets"
    )
    if evaluation.answers:
      answers = "  ".join(
        f"{k} {tables.compact(v)}" for k, v in evaluation.answers.items()
      )
      self._progress.print(f"step {step}: {answers}")
    for sample in evaluation.samples:
      self._progress.print(_sample_line(step, sample))
    self.restart_clock()


def _sample_line(step: int, sample: Mapping[str, Any]) -> str:
  """Returns the start of a sample on one line."""
  m, text = sample["num_pauses"], sample["text"]
  return f"step {step}: {sample['prompt']!r:.40} M={m}: {text!r:.80}"


def losses_by_class(sums: Sums) -> dict[str, float]:
  """Returns perplexity, and the losses at text and at pause positions.

  A loss of no target is left out.

  Args:
    sums: the sums of `training.step.evaluate_batch`.
  """
  after_real = sums["num_targets"] - sums["num_after_pause"]
  loss = sums["nll"] / max(sums["num_targets"], 1.0)
  perplexity = math.exp(min(loss, 700.0)) if loss == loss else math.nan
  row = {"perplexity": perplexity}
  if after_real:  # Else the difference of sums is only rounding.
    nll_after_real = sums["nll"] - sums["nll_after_pause"]
    row["loss_after_real"] = nll_after_real / after_real
  if sums["num_after_pause"]:
    row["loss_after_pause"] = sums["nll_after_pause"] / sums["num_after_pause"]
  return row
