"""Muon against AdamW on real text: equal sweeps, three seeds, held-out loss.

  JAX_PLATFORMS=cpu python -m benchmarks.optimizers --picture=optimizers.svg

Both arms have the same decoder, text, batches, pauses, schedule and number of
steps. Each learning rate of an arm is trained with every seed; the one with the
lowest mean loss on the validation half of the held-out documents is chosen, and
the loss on the other half is reported. Text: that inside CPython
(`stdlib_docs`), or --files. Runs that are not finite count as infinite.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure
from pausejax import optimizer as optimizers
from pausejax import tasks, train_state
from pausejax.config import DataConfig, default, train_config
from pausejax.data import batch as batches
from pausejax.data import tokenizers
from pausejax.model import decoder
from pausejax.training import step as steps

SEEDS = (0, 1, 2)
_ROWS, _SEQ_LEN = 8, 64  # Of a batch.
_ADAM = dict(b1=0.9, b2=0.98, weight_decay=0.1)
_MUON = dict(beta=0.95, adam_b1=0.8, adam_b2=0.98, weight_decay=0.1)
_MUON |= dict(adam_weight_decay=0.1)
# The rate of Muon's Adam as a part of Muon's: 0.3, from configs/pretrain_c4.py.
_ADAM_PART = 0.3
_GRIDS = {
  "adamw": (1e-3, 3e-3, 1e-2, 3e-2),
  "muon": (1e-2, 3e-2, 1e-1, 3e-1),
}
_COLORS = {"adamw": "#1f77b4", "muon": "#d95f02"}
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 320, 56, 14, 600, 270


@dataclasses.dataclass(frozen=True)
class Text:
  """Segments of ids, int32 [N, T + 1], of three disjoint sets of documents."""

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
  """One training run.

  Attributes:
    curve: (step, validation loss in nats per token), the last at the end.
    test: loss on the test half after the last step.
    seconds: median time of a step.
  """

  curve: list[tuple[int, float]]
  test: float
  seconds: float


def main(argv: list[str] | None = None) -> None:
  """Trains all runs, prints the tables and draws the chosen ones."""
  parser = measure.parser(__doc__, rounds=1)
  add = parser.add_argument
  add("--files", default="", help="text files, in place of CPython's")
  add("--steps", type=int, default=250, help="steps of a run")
  add("--layers", type=int, default=2, help="blocks")
  add("--width", type=int, default=64, help="d_model")
  add("--picture", type=pathlib.Path, help="SVG file to write")
  options = parser.parse_args(argv)
  began = time.perf_counter()
  text = read_text(options.files)
  results = {
    (arm, rate, seed): train(arm, rate, seed, text, options)
    for arm, rates in _GRIDS.items()
    for rate in rates
    for seed in SEEDS
  }
  chosen = {arm: best_rate(arm, results) for arm in _GRIDS}
  print(*sweep_lines(results), *comparison(results, chosen), sep="\n")
  print(f"{time.perf_counter() - began:.0f} s for {len(results)} runs")
  if options.picture:
    options.picture.write_text(picture(results, chosen))
  rows = [
    {"arm": arm, "learning_rate": rate, "seed": seed, **dataclasses.asdict(r)}
    for (arm, rate, seed), r in results.items()
  ]
  measure.publish("optimizers", options, rows)


def read_text(files: str, seq_len: int = _SEQ_LEN) -> Text:
  """Returns segments of bytes; every tenth document is held out, in two halves.

  Args:
    files: the value of data.files; "" for the text inside CPython.
    seq_len: T, positions of a row.
  """

  fields = default().data.to_dict()
  fields |= {"task": "text" if files else "stdlib_docs", "files": files}
  data = DataConfig(**fields)
  source = tasks.pretraining(data.task).source(data)
  documents = [*source.documents("train"), *source.documents("validation")]
  tokenizer = tokenizers.load_tokenizer("bytes")
  sets: list[list[int]] = [[], [], []]
  for number, document in enumerate(documents):
    part = {0: 1, 5: 2}.get(number % 10, 0)
    sets[part] += [*tokenizer.encode([document])[0], tokenizer.eos_id]
  pieces = [
    np.asarray(ids[: len(ids) // seq_len * seq_len], np.int32) for ids in sets
  ]
  return Text(*(piece.reshape(-1, seq_len) for piece in pieces))


def train(
  arm: str, rate: float, seed: int, text: Text, options: argparse.Namespace
) -> Result:
  """Trains one run, evaluates it five times, and prints a line."""
  run, model_config, optimizer, step = made(
    arm, options.steps, options.layers, options.width
  )
  model = decoder.init(model_config, seed)
  state = train_state.fresh_state(model, optimizer)
  state = dataclasses.replace(
    state, opt_state=Scaled(jnp.asarray(rate), state.opt_state.state)
  )
  order = np.random.default_rng(seed)
  evaluate = jax.jit(
    functools.partial(
      steps.evaluate_batch, loss=run.loss, pause_id=model_config.vocab_size - 1
    )
  )
  curve, seconds = [], []
  for number in range(1, options.steps + 1):
    rows = order.integers(0, len(text.train), run.batch_size)
    batch = batch_of(text.train[rows], run, model_config, number)
    began = time.perf_counter()
    state, metrics = step(state, batch)
    float(metrics["loss"])
    seconds.append(time.perf_counter() - began)
    if number % max(options.steps // 5, 1) == 0:
      loss = held_out(evaluate, state.model, text.validation, run, model_config)
      curve.append((number, loss))
  test = held_out(evaluate, state.model, text.test, run, model_config)
  print(
    f"{arm:5} rate {rate:<6g} seed {seed}: validation {curve[-1][1]:.4f}, "
    f"test {test:.4f}",
    flush=True,
  )
  return Result(curve, test, statistics.median(seconds))


@functools.cache
def made(arm: str, num_steps: int, layers: int, width: int):
  """Returns (config, model, optimizer, jitted step), for all rates and seeds.

  The rate of the config is 1, and the state scales the updates: those of both
  arms are proportional to it, weight decay included.
  """
  c = default()
  c.model.update(num_layers=layers, d_model=width, num_heads=width // 16)
  c.model.update(dtype="float32", remat="none", max_seq_len=_SEQ_LEN)
  c.data.update(seq_len=_SEQ_LEN, pause_fraction=0.1)
  c.loss.num_chunks = 1
  c.update(batch_size=_ROWS, num_steps=num_steps)
  muon = _MUON | dict(adam_learning_rate=_ADAM_PART)
  c.optim.update(name=arm, learning_rate=1.0, schedule="linear")
  c.optim.update(warmup_steps=num_steps // 10, final_fraction=0.0)
  c.optim.kwargs = muon if arm == "muon" else _ADAM
  run = train_config(c.to_dict())
  model = run.model_config(tokenizers.load_tokenizer("bytes").vocab_size)
  transformation, schedule = optimizers.make_optimizer(run.optim, num_steps)
  transformation = scaled(transformation)
  function = functools.partial(
    steps.train_step,
    optimizer=transformation,
    schedule=schedule,
    loss=run.loss,
    num_microbatches=1,
    pause_id=model.vocab_size - 1,
  )
  return run, model, transformation, jax.jit(function, donate_argnums=0)


class Scaled(NamedTuple):
  """The learning rate, float32 [], and the optimizer's state at the rate 1."""

  rate: Any
  state: Any


def scaled(optimizer: optax.GradientTransformation):
  """Returns the optimizer at the learning rate in its state."""

  def update(updates: Any, state: Scaled, params: Any) -> tuple[Any, Scaled]:
    updates, inner = optimizer.update(updates, state.state, params)
    updates = jax.tree.map(lambda u: state.rate * u, updates)
    return updates, Scaled(state.rate, inner)

  return optax.GradientTransformation(
    lambda params: Scaled(jnp.ones(()), optimizer.init(params)), update
  )


def batch_of(text_BT: np.ndarray, run, model, number: int) -> dict[str, Any]:
  """Returns the batch of some segments, with pauses inserted."""
  tokenizer = tokenizers.load_tokenizer("bytes")
  pauses = run.data.pauses
  rows_B = number * len(text_BT) + np.arange(len(text_BT))
  targets_BT = pauses.insert(
    text_BT,
    seq_len=run.data.seq_len,
    pause_id=model.vocab_size - 1,
    seed=0,
    rows_B=rows_B,
  )
  return batches.language_model_batch(
    targets_BT,
    pauses=pauses,
    bos_id=tokenizer.bos_id,
    pad_id=tokenizer.pad_id,
    pause_id=tokenizer.pause_id,
  )


def held_out(evaluate, model, text: np.ndarray, run, model_config) -> float:
  """Returns the loss in nats per target on at most 256 segments."""
  total = np.zeros(2)
  for start in range(0, min(len(text), 256), _ROWS):
    batch = batch_of(text[start : start + _ROWS], run, model_config, start)
    sums = evaluate(model, batch)
    total += float(sums["nll"]), float(sums["num_targets"])
  loss = total[0] / total[1]
  return float(loss) if math.isfinite(loss) else math.inf


def best_rate(arm: str, results: Mapping[tuple, Result]) -> float:
  """Returns the learning rate with the lowest mean validation loss."""
  loss = lambda rate: sum(results[arm, rate, s].curve[-1][1] for s in SEEDS)
  return min(_GRIDS[arm], key=loss)


def sweep_lines(results: Mapping[tuple, Result]) -> list[str]:
  """Returns a table: validation and test loss of each arm and rate."""
  lines = ["", "| optimizer | learning rate | validation | test |", "|---" * 4]
  lines[-1] += "|"
  for arm, rates in _GRIDS.items():
    for rate in rates:
      runs = [results[arm, rate, seed] for seed in SEEDS]
      validation = _mean_and_sd([r.curve[-1][1] for r in runs])
      test = _mean_and_sd([r.test for r in runs])
      lines.append(f"| {arm} | {rate:g} | {validation} | {test} |")
  return lines


def comparison(
  results: Mapping[tuple, Result], chosen: Mapping[str, float]
) -> list[str]:
  """Returns lines that compare the chosen runs, seed by seed."""
  runs = {
    arm: [results[arm, rate, seed] for seed in SEEDS]
    for arm, rate in chosen.items()
  }
  lines = [""]
  for arm, rate in chosen.items():
    at_edge = rate in (_GRIDS[arm][0], _GRIDS[arm][-1])
    seconds = statistics.median(r.seconds for r in runs[arm])
    lines.append(
      f"{arm}: rate {rate:g}{' (an end of its grid)' * at_edge}, test "
      f"{_mean_and_sd([r.test for r in runs[arm]])}, {seconds * 1e3:.1f} ms a "
      "step"
    )
  pairs = zip(runs["muon"], runs["adamw"], strict=True)
  differences = [a.test - b.test for a, b in pairs]
  reached = [
    _steps_to(a.curve, b.curve[-1][1])
    for a, b in zip(runs["muon"], runs["adamw"], strict=True)
  ]
  lines.append(
    f"muon minus adamw, test: {_mean_and_sd(differences)} (by seed "
    f"{', '.join(f'{d:+.4f}' for d in differences)})"
  )
  lines.append(
    "steps at which muon has adamw's last validation loss: "
    + ", ".join(f"{n:.0f}" if n else "never" for n in reached)
  )
  return lines


def _steps_to(curve: Sequence[tuple[int, float]], loss: float) -> float | None:
  """Returns where a curve first reaches a loss, by linear interpolation."""
  for (s, a), (t, b) in itertools.pairwise(curve):
    if b <= loss < a:
      return s + (t - s) * (a - loss) / (a - b)
  return None


def _mean_and_sd(values: Sequence[float]) -> str:
  if not all(map(math.isfinite, values)):
    return "not finite"
  return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def picture(
  results: Mapping[tuple, Result], chosen: Mapping[str, float]
) -> str:
  """Returns an SVG: validation loss against steps, a line per arm and seed."""
  curves = {
    (arm, seed): results[arm, rate, seed].curve
    for arm, rate in chosen.items()
    for seed in SEEDS
  }
  points = [p for curve in curves.values() for p in curve]
  last = max(step for step, _ in points)
  losses = [loss for _, loss in points if math.isfinite(loss)]
  low, high = min(losses), max(losses)
  x = lambda step: _LEFT + (_RIGHT - _LEFT) * step / last
  y = lambda loss: _TOP + (_BOTTOM - _TOP) * (high - loss) / (high - low)
  marks = []
  for loss in np.linspace(low, high, 5):
    marks.append(
      f'<path d="M{_LEFT} {y(loss):.1f}H{_RIGHT}" stroke="#ddd"/>'
      + _label(_LEFT - 6, y(loss) + 4, f"{loss:.2f}", "end")
    )
  for (arm, seed), curve in curves.items():
    line = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in curve)
    marks.append(
      f'<polyline points="{line}" fill="none" stroke="{_COLORS[arm]}">'
      f"<title>{arm}, seed {seed}</title></polyline>"
    )
  for place, (arm, rate) in enumerate(chosen.items()):
    top = _TOP + 18 * (place + 1)
    marks.append(
      f'<path d="M430 {top - 4}h24" stroke="{_COLORS[arm]}"/>'
      + _label(460, top, f"{arm}, rate {rate:g}", "start")
    )
  for step in range(0, last + 1, max(last // 5, 1)):
    marks.append(_label(x(step), _BOTTOM + 18, f"{step}", "middle"))
  middle = (_LEFT + _RIGHT) / 2
  marks.append(_label(middle, _BOTTOM + 38, "training steps", "middle"))
  title = "Validation loss in nats per token, three seeds"
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
    f'font-family="sans-serif" font-size="12"><title>{title}</title>\n'
    + "\n".join(marks)
    + "\n</svg>\n"
  )


def _label(x: float, y: float, text: str, anchor: str) -> str:
  return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


if __name__ == "__main__":
  main()
