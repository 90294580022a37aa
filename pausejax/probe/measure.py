"""Every lesion of every example: whole, by layer, by pause, and by both.

The pause at which the answer is read (the last one, if pauses are appended)
has no lesion: it is where the output comes from, with or without pauses. All
others are probed.

N examples, L layers, M pauses, P of them probed, A heads, S depths (the input
of every layer, and the output), B batch, D d_model, K lesions, O options,
C ids of the answer.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pausejax.data.finetuning.prompts import Format
from pausejax.model.decoder import Decoder
from pausejax.probe import forward, sequences
from pausejax.probe.results import AXES, LESIONS
from pausejax.tasks import Example

Show = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Spec:
  """A lesion: its kind, and where it is.

  Attributes:
    kind: a name in `LESIONS`.
    is_on_LM: bool, the layers and pauses that it changes.
  """

  kind: str
  is_on_LM: np.ndarray


@dataclasses.dataclass(frozen=True)
class Values:
  """What the examples score; of several lesions [K, N].

  Attributes:
    is_right: 1.0 if greedy decoding gives the answer, or the right option is
      the most likely one, else 0.0.
    log_likelihood: nats: of the answer, per id; or of the right option among
      the options.
  """

  is_right: np.ndarray
  log_likelihood: np.ndarray


@dataclasses.dataclass(frozen=True)
class Unchanged:
  """What passes without a lesion show.

  Attributes:
    values: of the examples, [N].
    means_LMD: the mean vector of each pause as it enters each layer.
    mass_LAM: the mean attention of the reading position to each pause.
    even_LM: the same if all positions that it sees had equal shares.
    lens_right_SM: how often the first id of the right answer is the most
      likely one in the logit lens.
    lens_nats_SM: its mean log-likelihood there.
    lens_top_SM: the id that is most often the most likely one there.
  """

  values: Values
  means_LMD: np.ndarray
  mass_LAM: np.ndarray
  even_LM: np.ndarray
  lens_right_SM: np.ndarray
  lens_nats_SM: np.ndarray
  lens_top_SM: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prober:
  """Runs the examples of a task through a model, with and without lesions.

  Attributes:
    model: the decoder, sharded on the mesh in scope.
    format: task, tokenizer and pauses.
    examples: N examples.
    pause_id: the id of `<pause>`.
    batch_size: rows at a time.
  """

  model: Decoder
  format: Format
  examples: Sequence[Example]
  pause_id: int
  batch_size: int

  @functools.cached_property
  def encoded(self) -> sequences.Sequences:
    """The examples as rows."""
    limit = self.model.config.max_seq_len
    return sequences.encode(self.format, self.examples, limit)

  @property
  def num_probed(self) -> int:
    """P: the probed pauses are the first ones."""
    is_read = self.format.pauses.is_read
    return self.format.pauses.num_pauses - is_read

  def unchanged(self, show: Show) -> Unchanged:
    """Runs all examples without a lesion."""
    rows, is_first = self.encoded.rows, self._is_right_option()
    scores, lenses, streams, masses, evens = [], [], 0.0, 0.0, 0.0
    for start, batch in self._batches():
      count = len(rows[start : start + self.batch_size])
      done = forward.run_rows(self.model, batch, self._none(), self.pause_id)
      seen = forward.lens(
        self.model, done.stream_SBMD, batch.answers_BC[:, 0], self.pause_id
      )
      # Once per example: of the options, the right one.
      chosen_B = np.flatnonzero(is_first[start : start + count])
      stream_SBMD = _host(done.stream_SBMD)[:-1, chosen_B]
      streams += stream_SBMD.astype(np.float64).sum(axis=1)
      masses += _host(done.mass_LBNM)[:, chosen_B].sum(axis=1)
      evens += _host(done.even_LBM)[:, chosen_B].sum(axis=1)
      lenses.append([_host(x)[:, :, chosen_B] for x in seen])
      scores.append(self._scores(done, count))
      show(start + count, len(rows))
    nats, is_top, top = (
      np.concatenate(x, axis=2) for x in zip(*lenses, strict=True)
    )
    found = self._values(np.concatenate(scores, axis=1)[:, None])
    values = Values(found.is_right[0], found.log_likelihood[0])
    return Unchanged(
      values,
      streams / len(self.examples),
      masses / len(self.examples),
      evens / len(self.examples),
      is_top.mean(axis=2),
      nats.mean(axis=2),
      _modes(top),
    )

  def lesioned(
    self, specs: Sequence[Spec], means_LMD: np.ndarray, show: Show
  ) -> Values:
    """Runs all examples under each lesion; returns values [K, N]."""
    rows, donors = self.encoded.rows, self.encoded.donors
    scores = []
    for start, batch in self._batches():
      chosen = rows[start : start + self.batch_size]
      lenders = self._arrays([donors[row.example] for row in chosen])
      lent = forward.run_rows(self.model, lenders, self._none(), self.pause_id)
      vectors = _vectors(lent.stream_SBMD[:-1], means_LMD)
      of_batch = []
      for k, spec in enumerate(specs):
        lesion = _lesion(spec, vectors[spec.kind])
        done = forward.run_rows(self.model, batch, lesion, self.pause_id)
        of_batch.append(self._scores(done, len(chosen)))
        show(start * len(specs) + (k + 1) * len(chosen), len(rows) * len(specs))
      scores.append(np.stack(of_batch, axis=1))
    return self._values(np.concatenate(scores, axis=2))

  def _batches(self) -> Iterator[tuple[int, forward.Rows]]:
    for start in range(0, len(self.encoded.rows), self.batch_size):
      chosen = self.encoded.rows[start : start + self.batch_size]
      yield start, self._arrays(chosen)

  def _arrays(self, rows: Sequence[sequences.Answered]) -> forward.Rows:
    return sequences.to_rows(
      rows,
      self.format,
      batch_size=self.batch_size,
      width=sequences.width(rows, self.model.config.max_seq_len),
      num_ids=max(len(row.answer) for row in self.encoded.rows),
    )

  def _none(self) -> forward.Lesion:
    c = self.model.config
    num_pauses = self.format.pauses.num_pauses
    return forward.no_lesion(c, self.batch_size, num_pauses)

  def _scores(self, done: forward.Pass, count: int) -> np.ndarray:
    """Returns [2, rows]: log-likelihoods and whether they are greedy."""
    both = done.log_prob_B, done.is_greedy_B
    return np.stack([_host(x)[:count].astype(np.float64) for x in both])

  def _is_right_option(self) -> np.ndarray:
    """Returns bool [rows]: True once for each example."""
    has_options = self.format.task.kind == "options"
    seen, is_right = [0] * len(self.examples), []
    for row in self.encoded.rows:
      label = self.examples[row.example].label if has_options else 0
      is_right.append(seen[row.example] == label)
      seen[row.example] += 1
    return np.array(is_right)

  def _values(self, scores: np.ndarray) -> Values:
    """Returns values [K, N] from the scores [2, K, rows]."""
    rows = self.encoded.rows
    places: list[list[int]] = [[] for _ in self.examples]
    for place, row in enumerate(rows):
      places[row.example].append(place)
    if self.format.task.kind == "decode":
      of_example = [place for (place,) in places]
      num_ids = np.array([len(rows[place].answer) for place in of_example])
      log_prob_KN, is_greedy_KN = scores[:, :, of_example]
      return Values(is_greedy_KN, log_prob_KN / num_ids)
    pairs = [
      _among_options(scores[0][:, own], example.label)
      for own, example in zip(places, self.examples, strict=True)
    ]
    is_right, nats = zip(*pairs, strict=True)
    return Values(np.stack(is_right, axis=1), np.stack(nats, axis=1))


def specs_of(
  num_layers: int,
  num_pauses: int,
  num_probed: int,
  maps: Sequence[str],
  by: Sequence[str] = AXES,
) -> dict[tuple, Spec]:
  """Returns every lesion by what it is.

  The keys are (kind,), (kind, "layer", l) and (kind, "pause", m) for the axes
  in `by`, (kind, "place", l, m) for the kinds in `maps`, and ("kept", j): all
  pauses after the first j are cut.
  """
  layers, pauses = range(num_layers), range(num_probed)
  made = {}

  def add(key: tuple, kind: str, at_layers, at_pauses) -> None:
    is_on_LM = np.zeros((num_layers, num_pauses), bool)
    is_on_LM[np.ix_(at_layers, at_pauses)] = True
    made[key] = Spec(kind, is_on_LM)

  for kind in LESIONS:
    add((kind,), kind, layers, pauses)
    for layer in layers if "layer" in by else ():
      add((kind, "layer", layer), kind, [layer], pauses)
    for pause in pauses if "pause" in by else ():
      add((kind, "pause", pause), kind, layers, [pause])
  for kind in maps:
    for layer in layers:
      for pause in pauses:
        add((kind, "place", layer, pause), kind, [layer], [pause])
  for kept in pauses:
    add(("kept", kept), "cut", layers, pauses[kept:])
  return made


def _vectors(lent_LBMD: jax.Array, means_LMD: np.ndarray) -> dict[str, Any]:
  """Returns the vectors of each kind of lesion, all placed in the same way."""
  zero_LBMD = jnp.zeros_like(lent_LBMD)
  mean_LBMD = zero_LBMD + means_LMD[:, None].astype(lent_LBMD.dtype)
  made = {"zero": zero_LBMD, "mean": mean_LBMD, "transplant": lent_LBMD}
  return {
    k: forward.put_vectors(x) for k, x in (made | {"cut": zero_LBMD}).items()
  }


def _lesion(spec: Spec, vectors_LBMD: jax.Array) -> forward.Lesion:
  nowhere_LM = np.zeros_like(spec.is_on_LM)
  on = lambda *kinds: spec.is_on_LM if spec.kind in kinds else nowhere_LM
  return forward.Lesion(
    on("cut"), on("zero", "mean"), on("transplant"), vectors_LBMD
  )


def _among_options(
  log_prob_KO: np.ndarray, label: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns [K]: whether the right option wins, and its nats among all."""
  is_right_K = np.argmax(log_prob_KO, axis=1) == label
  most_K1 = log_prob_KO.max(axis=1, keepdims=True)
  total_K = most_K1[:, 0] + np.log(np.exp(log_prob_KO - most_K1).sum(axis=1))
  return is_right_K.astype(np.float64), log_prob_KO[:, label] - total_K


def _modes(top_SMN: np.ndarray) -> np.ndarray:
  """Returns [S, M], the most frequent id of each place."""
  flat = top_SMN.reshape(-1, top_SMN.shape[2])
  modes = [int(np.bincount(ids_N).argmax()) for ids_N in flat]
  return np.array(modes).reshape(top_SMN.shape[:2])


def _host(x: jax.Array) -> np.ndarray:
  return np.asarray(x, np.float32 if x.dtype == jnp.bfloat16 else x.dtype)
