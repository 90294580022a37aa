"""The values of all lesions as numbers with intervals, for JSON.

S depths, G groups of pauses, P of them probed, L layers, A heads.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from pausejax.evaluation import intervals
from pausejax.probe import verdict
from pausejax.probe.measure import Unchanged, Values
from pausejax.probe.results import LESIONS


def summarize(
  unchanged: Unchanged,
  keys: Sequence[tuple],
  lesioned: Values,
  groups: Sequence[Hashable],
  text_of: Callable[[int], str],
) -> dict[str, Any]:
  """Returns the result of a probe, without its condition.

  Args:
    unchanged: the passes without a lesion.
    keys: what each lesion is, from `measure.specs_of`.
    lesioned: the values under each of them.
    groups: the group of each example.
    text_of: id -> its text.
  """
  drops = _effects(unchanged.values, lesioned, groups)
  effects = dict(zip(keys, drops, strict=True))
  whole = {kind: effects[kind,] for kind in LESIONS}
  words, reason = verdict.decide(whole)
  as_json = lambda effect: {n: dataclasses.asdict(d) for n, d in effect.items()}
  along = lambda kind, axis: [
    as_json(effects[key]) for key in keys if key[:2] == (kind, axis)
  ]
  by = lambda axis: {k: along(k, axis) for k in LESIONS if along(k, axis)}
  kept = {key: k for k, key in enumerate(keys) if key[0] == "kept"}
  return {
    **_level(unchanged.values, groups),
    "lesions": {kind: as_json(effect) for kind, effect in whole.items()},
    "by_layer": by("layer"),
    "by_pause": by("pause"),
    "by_layer_and_pause": {
      kind: _rows(flat, len(kept)) for kind, flat in by("place").items()
    },
    "kept": [
      *(
        {"num_kept": j} | _level(_at(lesioned, k), groups)
        for (_, j), k in kept.items()
      ),
      {"num_kept": len(kept)} | _level(unchanged.values, groups),
    ],
    "lens": {
      "accuracy": (100 * unchanged.lens_right_SG).tolist(),
      "log_likelihood": unchanged.lens_nats_SG.tolist(),
      "top": [[*map(text_of, row)] for row in unchanged.lens_top_SG.tolist()],
    },
    "attention": {
      "by_head": unchanged.mass_LAP.tolist(),
      "even": unchanged.even_LP.tolist(),
    },
    "verdict": words,
    "reason": reason,
    "rule": verdict.RULE,
  }


def _effects(
  before: Values, after: Values, groups: Sequence[Hashable]
) -> list[dict[str, verdict.Drop]]:
  """Returns the drops of each lesion by metric."""
  accuracy = verdict.drops(
    before.is_right, after.is_right, groups, scale=100.0, is_binary=True
  )
  nats = verdict.drops(before.log_likelihood, after.log_likelihood, groups)
  return [
    {"accuracy": a, "log_likelihood": b}
    for a, b in zip(accuracy, nats, strict=True)
  ]


def _level(values: Values, groups: Sequence[Hashable]) -> dict[str, Any]:
  """Returns accuracy in percent, with its interval, and mean nats."""
  low, high = intervals.of_score(values.is_right, groups)
  mean = float(values.is_right.mean())
  return {
    "accuracy": {"mean": 100 * mean, "low": 100 * low, "high": 100 * high},
    "log_likelihood": float(values.log_likelihood.mean()),
  }


def _at(values: Values, k: int) -> Values:
  return Values(values.is_right[k], values.log_likelihood[k])


def _rows(flat: list[Any], size: int) -> list[list[Any]]:
  return [flat[i : i + size] for i in range(0, len(flat), size)]
