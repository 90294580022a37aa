"""Every lesion of every example: whole, by layer, by pause, and by both.

The pause at which the answer is read (the last one of the prompt, unless pauses
stand only before the prefix) has no lesion: it is where the output comes from,
with or without pauses. Which others are probed, and in which groups:
`sequences.py`. A lesion changes all pauses of a group.

N examples, L layers, M pauses, G groups of pauses, J pauses of a group in a row
(M = J G), P probed groups, A heads, S depths (the input of every layer, and the
output), B batch, D d_model, K lesions, O options, C ids of the answer.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pausejax.data.finetuning.prompts import Format
from pausejax.inference import score
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
    is_on_LG: bool, the layers and groups of pauses that it changes.
  """

  kind: str
  is_on_LG: np.ndarray


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
    means_LGD: the mean vector of each group as it enters each layer; zero for
      the pause at which the answer is read.
    mass_LAP: the mean attention of the reading position to each group.
    even_LP: the same if all positions that it sees had equal shares.
    lens_right_SG: how often the first id of the right answer is the most
      likely one in the logit lens of the last pause of each group.
    lens_nats_SG: its mean log-likelihood there.
    lens_top_SG: the id that is most often the most likely one there.
  """

  values: Values
  means_LGD: np.ndarray
  mass_LAP: np.ndarray
  even_LP: np.ndarray
  lens_right_SG: np.ndarray
  lens_nats_SG: np.ndarray
  lens_top_SG: np.ndarray


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
  def num_groups(self) -> int:
    """G."""
    return sequences.num_groups(self.format)

  @property
  def num_probed(self) -> int:
    """P: the probed groups are the first ones."""
    return self.num_groups - self.format.pauses.is_read

  def unchanged(self, show: Show) -> Unchanged:
    """Runs all examples without a lesion."""
    rows, is_first = self.encoded.rows, self._is_right_option()
    scores, lenses, sums = [], [], []
    for start, of_batch in self._batches():
      batch = self._arrays(of_batch, self._width(of_batch))
      none = self._none(batch)
      done = forward.run_rows(self.model, batch, none, self.pause_id)
      end = start + len(of_batch)
      # Once per example: of the options, the right one.
      chosen_B = np.flatnonzero(is_first[start:end])
      sums.append(self._sums(done, batch, chosen_B))
      lenses.append(self._lenses(done, batch, chosen_B))
      scores.append(self._scores(done, len(of_batch)))
      show(end, len(rows))
    nats, is_top, top = (
      np.concatenate(x, axis=2) for x in zip(*lenses, strict=True)
    )
    found = self._values(np.concatenate(scores, axis=1)[:, None])
    streams_LGD, masses_LAG, evens_LG, counts_G = (
      np.stack(x).sum(axis=0, dtype=np.float64) for x in zip(*sums, strict=True)
    )
    return Unchanged(
      Values(found.is_right[0], found.log_likelihood[0]),
      streams_LGD / np.maximum(counts_G, 1)[:, None],
      masses_LAG[..., : self.num_probed] / len(self.examples),
      evens_LG[..., : self.num_probed] / len(self.examples),
      is_top.mean(axis=2),
      nats.mean(axis=2),
      _modes(top),
    )

  def _sums(
    self, done: forward.Pass, batch: forward.Rows, chosen_B: np.ndarray
  ) -> list[np.ndarray]:
    is_chosen_B = np.isin(np.arange(self.batch_size), chosen_B)
    return [*map(_host, _group_sums(done, batch, is_chosen_B, self.num_groups))]

  def _lenses(
    self, done: forward.Pass, batch: forward.Rows, chosen_B: np.ndarray
  ) -> list[np.ndarray]:
    """Returns what `forward.lens` sees at the last pause of each group."""
    stream_SBGD = done.stream_SBMD[:, :, -self.num_groups :]
    first_B = batch.answers_BC[:, 0]
    seen = forward.lens(self.model, stream_SBGD, first_B, self.pause_id)
    return [_host(x)[:, :, chosen_B] for x in seen]

  def lesioned(
    self, specs: Sequence[Spec], means_LGD: np.ndarray, show: Show
  ) -> Values:
    """Runs all examples under each lesion; returns values [K, N]."""
    rows, donors = self.encoded.rows, self.encoded.donors
    scores = []
    for start, chosen in self._batches():
      lending = [donors[row.example] for row in chosen]
      width = self._width([*chosen, *lending])
      batch, lenders = (self._arrays(x, width) for x in (chosen, lending))
      none = self._none(lenders)
      lent = forward.run_rows(self.model, lenders, none, self.pause_id)
      vectors = _vectors(lent.stream_SBMD[:-1], means_LGD)
      of_batch = []
      for k, spec in enumerate(specs):
        lesion = _lesion(spec, vectors[spec.kind])
        done = forward.run_rows(self.model, batch, lesion, self.pause_id)
        of_batch.append(self._scores(done, len(chosen)))
        show(start * len(specs) + (k + 1) * len(chosen), len(rows) * len(specs))
      scores.append(np.stack(of_batch, axis=1))
    return self._values(np.concatenate(scores, axis=2))

  def _batches(self) -> Iterator[tuple[int, list[sequences.Answered]]]:
    """Yields the index of the first row of a batch, and its rows."""
    for start in range(0, len(self.encoded.rows), self.batch_size):
      yield start, self.encoded.rows[start : start + self.batch_size]

  def _width(self, rows: Sequence[sequences.Answered]) -> int:
    return sequences.width(rows, self.format, self.model.config.max_seq_len)

  def _arrays(
    self, rows: Sequence[sequences.Answered], width: int
  ) -> forward.Rows:
    return sequences.to_rows(
      rows,
      self.format,
      batch_size=self.batch_size,
      width=width,
      num_ids=max(len(row.answer) for row in self.encoded.rows),
    )

  def _none(self, batch: forward.Rows) -> forward.Lesion:
    return forward.no_lesion(self.model.config, *batch.pauses_BM.shape)

  def _scores(self, done: forward.Pass, count: int) -> np.ndarray:
    """Returns [2, rows]: log-likelihoods and whether they are greedy."""
    both = done.log_prob_B, done.is_greedy_B
    found = np.stack([_host(x)[:count].astype(np.float64) for x in both])
    score.require_numbers(found)
    return found

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
  num_groups: int,
  num_probed: int,
  maps: Sequence[str],
  by: Sequence[str] = AXES,
) -> dict[tuple, Spec]:
  """Returns every lesion by what it is.

  The keys are (kind,), (kind, "layer", l) and (kind, "pause", g) for the axes
  in `by`, (kind, "place", l, g) for the kinds in `maps`, and ("kept", j): all
  groups of pauses after the first j are cut.
  """
  layers, pauses = range(num_layers), range(num_probed)
  made = {}

  def add(key: tuple, kind: str, at_layers, at_pauses) -> None:
    is_on_LG = np.zeros((num_layers, num_groups), bool)
    is_on_LG[np.ix_(at_layers, at_pauses)] = True
    made[key] = Spec(kind, is_on_LG)

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


def _vectors(lent_LBMD: jax.Array, means_LGD: np.ndarray) -> dict[str, Any]:
  """Returns the vectors of each kind of lesion, all placed in the same way."""
  zero_LBMD = jnp.zeros_like(lent_LBMD)
  num_each = lent_LBMD.shape[2] // means_LGD.shape[1]
  means_LMD = np.tile(means_LGD, (1, num_each, 1)).astype(lent_LBMD.dtype)
  mean_LBMD = zero_LBMD + means_LMD[:, None]
  made = {"zero": zero_LBMD, "mean": mean_LBMD, "transplant": lent_LBMD}
  return {
    k: forward.put_vectors(x) for k, x in (made | {"cut": zero_LBMD}).items()
  }


def _lesion(spec: Spec, vectors_LBMD: jax.Array) -> forward.Lesion:
  num_each = vectors_LBMD.shape[2] // spec.is_on_LG.shape[1]
  is_on_LM = np.tile(spec.is_on_LG, (1, num_each))
  on = lambda *kinds: is_on_LM & (spec.kind in kinds)
  return forward.Lesion(
    on("cut"), on("zero", "mean"), on("transplant"), vectors_LBMD
  )


@functools.partial(jax.jit, static_argnames="num_groups")
def _group_sums(
  done: forward.Pass,
  batch: forward.Rows,
  is_chosen_B: np.ndarray,
  num_groups: int,
) -> tuple[jax.Array, ...]:
  """Returns float32 sums over the probed pauses of a group in chosen rows.

  Returns:
    (streams_LGD, masses_LAG, evens_LG, counts_G): their vectors as they enter
    each layer, the attention on them, the same if it was even, their number.
  """
  is_on_BM = batch.is_probed_BM & is_chosen_B[:, None]
  split = lambda x: x.reshape(*x.shape[:-1], -1, num_groups)
  is_on_BJG = split(is_on_BM).astype(jnp.float32)
  stream_LBMD = done.stream_SBMD[:-1].astype(jnp.float32)
  einsum = functools.partial(jnp.einsum, precision="highest")
  return (
    einsum("ldbjg,bjg->lgd", split(jnp.moveaxis(stream_LBMD, 3, 1)), is_on_BJG),
    einsum("lbajg,bjg->lag", split(done.mass_LBNM), is_on_BJG),
    einsum("lbjg,bjg->lg", split(done.even_LBM), is_on_BJG),
    is_on_BJG.sum(axis=(0, 1)),
  )


def _among_options(
  log_prob_KO: np.ndarray, label: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns [K]: whether the right option wins, and its nats among all."""
  is_right_K = np.argmax(log_prob_KO, axis=1) == label
  most_K1 = log_prob_KO.max(axis=1, keepdims=True)
  total_K = most_K1[:, 0] + np.log(np.exp(log_prob_KO - most_K1).sum(axis=1))
  return is_right_K.astype(np.float64), log_prob_KO[:, label] - total_K


def _modes(top_SGN: np.ndarray) -> np.ndarray:
  """Returns [S, G], the most frequent id of each place."""
  flat = top_SGN.reshape(-1, top_SGN.shape[2])
  modes = [int(np.bincount(ids_N).argmax()) for ids_N in flat]
  return np.array(modes).reshape(top_SGN.shape[:2])


def _host(x: jax.Array) -> np.ndarray:
  return np.asarray(x, np.float32 if x.dtype == jnp.bfloat16 else x.dtype)
