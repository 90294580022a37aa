"""Where the pauses of a text go: one class for each way, by name in `MODES`.

  insert_trim, exact   uniformly random places (Goyal et al., section 3.1)
  random_runs          random places, geometric runs (Open-Athena's MarinFold)
  after_sentences      after every sentence
  after_paragraphs     after every paragraph
  every_token          after every token (PonderLM-2's control)
  repeat_token         every token repeated (PHD-Transformer, arXiv 2504.14992)

The mask of a segment is a pure function of (seed, position, text), where the
position numbers the segments of a whole run. There is no generator state, so
the pauses do not depend on hosts, workers or restarts. Randomness comes from
one 64-bit key for each slot by SplitMix64 (Steele et al., OOPSLA 2014), in
integers only: every machine draws the same pauses.

Shapes: B segments, N text tokens of a segment, T positions of the result, J
slots of the lengthened sequence.
"""

import abc
import dataclasses
import itertools
import math
from typing import ClassVar

import numpy as np

from pausejax import errors

MAX_RUN_LENGTH = 2**20  # Longer than any row.

# Of SplitMix64.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclasses.dataclass(frozen=True)
class Way(abc.ABC):
  """A way of pausing in text.

  Attributes:
    words: the way in words, for help texts.
    displaces_text: whether pauses displace text at the end of a full segment.
    unit: the unit of text that pauses follow, a name in
      `data.text_units.UNITS`; "" if they do not depend on the text.
    repeats_token: whether a pause shows the token before it, not `<pause>`.
    fraction: pauses as a fraction of the T positions, above 0.
    run_length: pauses in a row, or their mean; at least 1.
  """

  words: ClassVar[str]
  displaces_text: ClassVar[bool] = True
  unit: ClassVar[str] = ""
  repeats_token: ClassVar[bool] = False

  fraction: float
  run_length: float

  def check(self) -> None:
    """Raises UsageError unless the settings are possible."""
    _require_whole(self.run_length)

  def num_text_tokens(self, seq_len: int) -> int:
    """Returns N, the text tokens of a segment of `seq_len` positions."""
    return seq_len

  def length(self, num_text: int) -> int:
    """Returns T for `num_text` tokens and, if no text is displaced, pauses."""
    return num_text

  @property
  def num_per_token(self) -> int:
    """The number of pauses after every token; 0 if not all have as many."""
    return 0

  @abc.abstractmethod
  def mask(
    self,
    seed: int,
    rows_B: np.ndarray,
    seq_len: int,
    ends_BN: np.ndarray | None,
  ) -> np.ndarray:
    """Returns bool [B, T], True at the pauses.

    Args:
      seed: any int.
      rows_B: int [B], the number of each segment within the whole run.
      seq_len: T.
      ends_BN: bool, True where a `unit` of the text ends; None without `unit`.
    """

  def expected_pauses(self, seq_len: int) -> tuple[float, float] | None:
    """Returns mean and variance of the pauses; None if the text decides."""
    return None

  def __str__(self) -> str:
    return f"{self.run_length:g} {self.words}"


class InsertTrim(Way):
  """k = round(fraction T) pauses in T + k slots, of which the first T stay.

  Of 205 in 2048, 186.3 survive on average (hypergeometric mean k T / (T + k)).
  """

  words: ClassVar[str] = "lengthen, then trim (the paper)"

  def check(self) -> None:
    """Raises UsageError if run_length is set: runs are random here."""
    errors.require(
      self.run_length == 1,
      f"pause_run_length {self.run_length:g}: places are uniformly random "
      "with this pause_mode; set it to 1, or pause_mode to 'random_runs'",
    )

  def num_inserted(self, seq_len: int) -> int:
    """Returns k, halves rounded up: 205 for 0.1 of 2048."""
    return math.floor(self.fraction * seq_len + 0.5)

  def num_slots(self, seq_len: int) -> int:
    """Returns J, the slots, k of them pauses; the first `seq_len` are kept."""
    return seq_len + self.num_inserted(seq_len) * self.displaces_text

  def num_text_tokens(self, seq_len: int) -> int:
    """Returns the slots without a pause."""
    return self.num_slots(seq_len) - self.num_inserted(seq_len)

  def mask(self, seed, rows_B, seq_len, ends_BN=None):
    """Returns the mask: the k slots with the smallest keys are pauses."""
    k = self.num_inserted(seq_len)
    if k == 0:
      return np.zeros((len(rows_B), seq_len), bool)
    keys_BJ = slot_keys(seed, rows_B, self.num_slots(seq_len))
    largest_B1 = np.partition(keys_BJ, k - 1, axis=1)[:, k - 1 : k]
    return keys_BJ[:, :seq_len] <= largest_B1

  def expected_pauses(self, seq_len: int) -> tuple[float, float]:
    """Returns mean and variance of the hypergeometric distribution."""
    k, num_slots = self.num_inserted(seq_len), self.num_slots(seq_len)
    p = k / num_slots
    trimmed = (num_slots - seq_len) / max(num_slots - 1, 1)
    return seq_len * k / num_slots, seq_len * p * (1 - p) * trimmed

  def __str__(self) -> str:
    return f"{self.fraction:.0%} of positions"


class Exact(InsertTrim):
  """k pauses in the T positions; the T - k text tokens are all kept."""

  words: ClassVar[str] = "no text displaced"
  displaces_text: ClassVar[bool] = False

  def length(self, num_text: int) -> int:
    """Returns the smallest T with that many slots for text."""
    lengths = itertools.count(num_text)
    return next(n for n in lengths if self.num_text_tokens(n) == num_text)


class RandomRuns(Way):
  """Runs of geometric length L at random places.

  The first slot is a pause with probability `fraction`. Slot by slot, a pause
  follows text with probability p and another pause with q = 1 - 1/L. With p =
  fraction / (L (1 - fraction)), every slot is a pause with probability
  `fraction`.
  """

  words: ClassVar[str] = "random places, runs of geometric length"

  def check(self) -> None:
    """Raises UsageError unless p is a probability."""
    least = math.ceil(round(1e3 * self.run_length * self._start, 6)) / 1e3
    errors.require(
      self._start <= 1,
      f"pause_run_length {self.run_length:g} is too short for pause_fraction "
      f"{self.fraction}: at least {least:g} is needed",
    )

  def mask(self, seed, rows_B, seq_len, ends_BN=None):
    """Returns the mask, one slot after the other."""
    # A key is uniform in [-2**63, 2**63): below the threshold with probability.
    probabilities = self.fraction, self._start, self._more
    first, start, more = map(_threshold, probabilities)
    keys_BT = slot_keys(seed, rows_B, seq_len)
    is_pause_TB = np.empty(keys_BT.T.shape, bool)
    is_pause_TB[0] = keys_BT[:, 0] < first
    for t in range(1, seq_len):
      limit_B = np.where(is_pause_TB[t - 1], more, start)
      is_pause_TB[t] = keys_BT[:, t] < limit_B
    return np.ascontiguousarray(is_pause_TB.T)

  def expected_pauses(self, seq_len: int) -> tuple[float, float]:
    """Returns mean and variance of the two-state chain over T slots."""
    f, decay = self.fraction, self._more - self._start
    # Slots d apart have the covariance f (1 - f) decay^d.
    apart = np.arange(1, seq_len)
    covariances = np.sum((seq_len - apart) * decay**apart)
    return seq_len * f, f * (1 - f) * (seq_len + 2 * float(covariances))

  @property
  def _start(self) -> float:
    return self.fraction / (self.run_length * (1 - self.fraction))

  @property
  def _more(self) -> float:
    return 1 - 1 / self.run_length

  def __str__(self) -> str:
    return (
      f"{self.fraction:.0%} of positions, in runs of {self.run_length:g} on "
      "average"
    )


class AfterSentences(Way):
  """`run_length` pauses after every sentence, trimmed to T."""

  words: ClassVar[str] = "after every sentence"
  unit: ClassVar[str] = "sentence"

  def mask(self, seed, rows_B, seq_len, ends_BN):
    """Returns the mask: text token i moves by the pauses before it.

    Raises:
      UsageError: no ends are given.
    """
    if ends_BN is None:
      raise errors.UsageError(
        f"pauses stand {self.words}: `ends_BN` must say where each ends"
      )
    num_before_BN = np.cumsum(ends_BN, axis=1) - ends_BN
    token_N = np.arange(ends_BN.shape[1])
    places_BN = token_N + int(self.run_length) * num_before_BN
    rows_B1 = np.arange(len(ends_BN))[:, None]
    # Column T receives the tokens that do not fit, and is dropped.
    is_pause_BT = np.ones((len(ends_BN), seq_len + 1), bool)
    is_pause_BT[rows_B1, np.minimum(places_BN, seq_len)] = False
    return is_pause_BT[:, :seq_len]


class AfterParagraphs(AfterSentences):
  """`run_length` pauses after every paragraph, trimmed to T."""

  words: ClassVar[str] = "after every paragraph"
  unit: ClassVar[str] = "paragraph"


class EveryToken(Way):
  """`run_length` pauses after every token; the last one may have fewer.

  The last pause predicts the next token; no other position does.
  """

  words: ClassVar[str] = "after every token"
  displaces_text: ClassVar[bool] = False

  def num_text_tokens(self, seq_len: int) -> int:
    """Returns T / (run_length + 1), rounded up."""
    return -(-seq_len // self._period)

  def length(self, num_text: int) -> int:
    """Returns T with all pauses of the last token."""
    return num_text * self._period

  def mask(self, seed, rows_B, seq_len, ends_BN=None):
    """Returns the mask, the same for every segment."""
    is_pause_T = np.arange(seq_len) % self._period != 0
    return np.tile(is_pause_T, (len(rows_B), 1))

  def expected_pauses(self, seq_len: int) -> tuple[float, float]:
    """Returns the number of pauses, which is always the same."""
    return seq_len - self.num_text_tokens(seq_len), 0.0

  @property
  def num_per_token(self) -> int:
    """The number of pauses after every token."""
    return int(self.run_length)

  @property
  def _period(self) -> int:
    return self.num_per_token + 1


class RepeatToken(EveryToken):
  """Every token `run_length` more times; the last copy predicts the next."""

  words: ClassVar[str] = "copies of every token in place of pauses"
  repeats_token: ClassVar[bool] = True


MODES: dict[str, type[Way]] = {
  "insert_trim": InsertTrim,
  "exact": Exact,
  "random_runs": RandomRuns,
  "after_sentences": AfterSentences,
  "after_paragraphs": AfterParagraphs,
  "every_token": EveryToken,
  "repeat_token": RepeatToken,
}


def _require_whole(run_length: float) -> None:
  errors.require(
    run_length == int(run_length),
    f"pause_run_length {run_length:g}: a whole number with this pause_mode",
  )


def _threshold(probability: float) -> np.int64:
  """Returns the int64 below which a key is with a probability.

  Exact to 2^-53; a probability of 1 leaves out one key in 2^64.
  """
  return np.int64(min(int(probability * 2**64) - 2**63, 2**63 - 1))


def _mix64(x: np.ndarray) -> np.ndarray:
  """SplitMix64's finalizer; uint64 arithmetic wraps around."""
  with np.errstate(over="ignore"):
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
  return x ^ (x >> np.uint64(31))


def slot_keys(seed: int, rows_B: np.ndarray, num_slots: int) -> np.ndarray:
  """Returns int64 [B, J]: the random key of each slot of each segment."""
  rows_B = np.asarray(rows_B).astype(np.uint64)
  with np.errstate(over="ignore"):
    seed_key = _mix64(np.uint64(seed % 2**64) + GOLDEN)
    keys_B = _mix64(seed_key ^ (rows_B * GOLDEN + np.uint64(1)))
    counter_J = np.arange(1, num_slots + 1, dtype=np.uint64) * GOLDEN
    return _mix64(keys_B[:, None] + counter_J).view(np.int64)
