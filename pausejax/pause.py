"""The method on one page: where pauses go and which targets count.

Goyal et al., "Think before you speak: Training Language Models With Pause
Tokens" (ICLR 2024, arXiv 2310.02226). One new token, `<pause>`, gives the
model more positions to compute in before it has to answer.

  Pretraining (Algorithm 1)  `PauseSpec.insert` into the text
  Finetuning (Algorithm 2)   `PromptPauses.prompt` around the prefix
  Inference (Algorithm 3)    `PromptPauses.prompt`, then read after its last id
  Loss                       `PauseSpec.is_pause`, `answer_targets`

A `PauseSpec` defines the pauses in text, `PromptPauses` those in a prompt.
Everything that depends on the kind of pause is defined here and, for the places
in text, in `pause_places.py`; data, training, evaluation, checks and reports
call it. A new way of pausing is one more class in `pause_places.MODES`, or one
more entry of `POSITIONS`.

Shapes: B segments, N text tokens of a segment or ids of a prompt, T positions.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pausejax import arguments, errors, pause_places
from pausejax.pause_places import MODES

TOKEN = "<pause>"  # How texts and saved results name the token.

# Fields that name the condition of an answer in saved files.
_CONDITION = ("num_pauses", "position", "filler")

_MAX_FILLER_SLUG = 16  # Characters of a filler that a file name spells out.


@dataclasses.dataclass(frozen=True, kw_only=True)
class PauseSpec:
  """The pauses in text (section 3.1, and later ways of pausing).

  The paper's 10% has two readings. With k = round(fraction T),

  * "insert_trim", as in the paper: k pauses go to a uniformly random k-subset
    of the T + k slots and the result is trimmed to T. Every pause that stays
    displaces one text token at the end of the segment.
  * "exact": a uniformly random k-subset of the T output positions are pauses.
    The segment has T - k text tokens, and all of them are kept.

  `pause_places.py` has the others.

  Attributes:
    fraction: pauses as a fraction of the T positions, in [0, 0.999]; 0 is
      standard pretraining. Where the text or `run_length` determines their
      number, any fraction above 0 means that there are pauses.
    mode: where the pauses are, a name in `MODES`.
    run_length: pauses in a row, or their mean, at least 1; 1 where places are
      uniformly random.
    shares_positions: whether a pause has the position of the text token before
      it, not one of its own.

  Raises:
    UsageError: an unknown mode, or impossible numbers.
  """

  fraction: float
  mode: str = "insert_trim"
  run_length: float = 1.0
  shares_positions: bool = False

  def __post_init__(self):
    errors.require_one_of("pause_mode", self.mode, MODES)
    errors.require_in_range("pause_fraction", self.fraction, 0.0, 0.999)
    errors.require_in_range("pause_run_length", self.run_length, 1)
    if self.has_pauses:
      self.way.check()

  @property
  def way(self) -> pause_places.Way:
    """Where the pauses go."""
    return MODES[self.mode](self.fraction, self.run_length)

  @property
  def has_pauses(self) -> bool:
    """Whether any position of the text is a pause."""
    return self.fraction > 0

  @property
  def uses_pause_token(self) -> bool:
    """Whether the text holds `<pause>`: pauses that are not copies of text."""
    return self.has_pauses and not self.way.repeats_token

  @property
  def is_uniform(self) -> bool:
    """Whether places are uniformly random, if there are pauses."""
    return type(self.way).mask is pause_places.InsertTrim.mask

  @property
  def displaces_text(self) -> bool:
    """Whether pauses displace text at the end of a full segment."""
    return self.way.displaces_text

  @property
  def unit(self) -> str:
    """The unit of text whose ends `mask` needs; "" for none."""
    return self.way.unit if self.has_pauses else ""

  def num_text_tokens(self, seq_len: int) -> int:
    """Returns the number of text tokens in a segment of `seq_len` positions.

    Raises:
      UsageError: the pauses leave no position for text.
    """
    if not self.has_pauses:
      return seq_len
    num_text = self.way.num_text_tokens(seq_len)
    errors.require(
      num_text >= 1,
      f"pause_fraction {self.fraction} leaves no position for text in seq_len "
      f"{seq_len}; lower it, or choose pause_mode 'insert_trim'",
    )
    return num_text

  def check_segments(self, num_tokens: int, seq_len: int) -> None:
    """Raises UsageError unless segments of `num_tokens` fill `seq_len`."""
    num_text = self.num_text_tokens(seq_len)
    errors.require(
      num_tokens == num_text,
      f"pause_mode {self.mode!r} with pause_fraction {self.fraction} fills "
      f"{seq_len} positions from {num_text} tokens, got segments of "
      f"{num_tokens}",
    )

  def insert(
    self,
    tokens_BN: np.ndarray,
    *,
    seq_len: int,
    pause_id: int,
    seed: int,
    positions_B: np.ndarray,
    ends_BN: np.ndarray | None = None,
  ) -> np.ndarray:
    """Inserts the pauses of each segment.

    Args:
      tokens_BN: int [B, num_text_tokens(T)], no pauses.
      seq_len: T, the length of the result.
      pause_id: id written at the pauses.
      seed: any int; the same seed gives the same pauses.
      positions_B: int [B], number of each segment within the whole run.
      ends_BN: bool, True where a `unit` of the text ends, if there is one.

    Returns:
      [B, T] of the same dtype. Without its pauses it is a prefix of the input.

    Raises:
      UsageError: the segments are not `num_text_tokens` long.
    """
    self.check_segments(tokens_BN.shape[1], seq_len)
    is_pause_BT = self.mask(seed, positions_B, seq_len, ends_BN)
    # The index of a slot's text token is the number of text slots before it.
    source_BT = np.cumsum(~is_pause_BT, axis=1, dtype=np.int32) - 1
    shown_BT = np.take_along_axis(tokens_BN, np.maximum(source_BT, 0), axis=1)
    if self.way.repeats_token:
      return shown_BT
    return np.where(is_pause_BT, tokens_BN.dtype.type(pause_id), shown_BT)

  def mask(
    self,
    seed: int,
    positions_B: np.ndarray,
    seq_len: int,
    ends_BN: np.ndarray | None = None,
  ) -> np.ndarray:
    """Returns bool [B, T], True where `insert` puts a pause."""
    if not self.has_pauses:
      return np.zeros((len(positions_B), seq_len), bool)
    return self.way.mask(seed, positions_B, seq_len, ends_BN)

  def is_pause(self, ids_BT: np.ndarray, pause_id: int) -> np.ndarray:
    """Returns bool [B, T], True at the pauses of the results of `insert`.

    As targets they are not in the loss: the paper ignores position k when token
    k+1 is `<pause>` (section 3.1). A pause whose next token is text counts.
    """
    if not self.has_pauses or self.uses_pause_token:
      return ids_BT == pause_id
    return self.mask(0, np.arange(len(ids_BT)), ids_BT.shape[1])

  def positions(self, is_pause_BT: np.ndarray) -> np.ndarray:
    """Returns int32 [B, T], the positions of inputs, given their pauses.

    The first input is BOS, at position 0.
    """
    if self.shares_positions:
      return np.cumsum(~is_pause_BT, axis=1, dtype=np.int32) - 1
    row_T = np.arange(is_pause_BT.shape[1], dtype=np.int32)
    return np.broadcast_to(row_T, is_pause_BT.shape)

  def expected_pauses(self, seq_len: int) -> tuple[float, float] | None:
    """Returns mean and variance of the pauses; None if the text decides."""
    if not self.has_pauses:
      return 0.0, 0.0
    return self.way.expected_pauses(seq_len)

  def length(self, num_text: int) -> int:
    """Returns T for `num_text` tokens and, if no text is displaced, pauses."""
    return self.way.length(num_text) if self.has_pauses else num_text

  def in_evaluation(self, fraction: float) -> "PauseSpec":
    """Returns the pauses of a text of which no token may be displaced.

    Ways that displace text are replaced by uniformly random places.

    Args:
      fraction: pauses as a fraction of the positions.
    """
    if self.has_pauses and not self.displaces_text:
      return dataclasses.replace(self, fraction=fraction)
    return PauseSpec(fraction=fraction, mode="exact")

  def fingerprint(self) -> dict[str, str | float]:
    """Returns what must be the same when a run resumes."""
    named: dict[str, str | float] = {
      "pause_mode": self.mode,
      "pause_fraction": self.fraction,
    }
    # Versions without these fields wrote none.
    if self.run_length != 1:
      named["pause_run_length"] = self.run_length
    if self.shares_positions:
      named["pauses_share_positions"] = True
    return named

  def __str__(self) -> str:
    return str(self.way) if self.has_pauses else "none"


@dataclasses.dataclass(frozen=True)
class Place:
  """A place for the pauses of a prompt.

  Attributes:
    words: the place in words, for help texts, checks and reports.
    mask: (index of each id [N], N, M) -> bool [N], True on the M pauses. The
      first id is BOS, never a pause.
    code: their numbers before and after the prefix as code, in M, that Python
      and Jinja can read; "" for none.
  """

  words: str
  mask: Callable[[np.ndarray, int, int], np.ndarray]
  code: tuple[str, str]


POSITIONS = {
  "append": Place(
    "after the prefix", lambda i_N, n, m: i_N >= n - m, ("", "M")
  ),
  "prepend": Place(
    "before the prefix", lambda i_N, n, m: (i_N > 0) & (i_N <= m), ("M", "")
  ),
  "both": Place(
    "half before the prefix, rounded down, half after it",
    lambda i_N, n, m: ((i_N > 0) & (i_N <= m // 2)) | (i_N >= n - m + m // 2),
    ("(M // 2)", "(M - M // 2)"),
  ),
}

_COUNT, _QUESTION = "<count>", "<question>"
# Fillers with a name: name -> what stands at the M pauses, in words.
FILLERS = {_COUNT: "1 2 3 ...", _QUESTION: "the prefix, repeated"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptPauses:
  """The pauses in a prompt: the condition of finetuning or of an answer.

    append    BOS  prefix  <pause> x M | target  EOS     (sections 3.2 and 3.3)
    prepend   BOS  <pause> x M  prefix | target  EOS     (section 4.4)
    both      half of the pauses before the prefix, half after it

  The prompt is everything before the bar. Its last id, which is the last pause
  if pauses are appended, predicts the first target token.

  Attributes:
    num_pauses: M, the positions of the pauses, at least 0; equal M is equal
      computation, whatever the filler.
    position: "append", "prepend" or "both", a name in `POSITIONS`.
    filler: "" for `<pause>`; or a text, such as ".", whose tokens are repeated
      until they fill the M positions; or a name in `FILLERS`.
    in_prefix: whether a bidirectional prefix includes the pauses.

  Raises:
    UsageError: an impossible number, or an unknown position.
  """

  num_pauses: int
  position: str = "append"
  filler: str = ""
  in_prefix: bool = False

  def __post_init__(self):
    num_pauses = arguments.whole_number("num_pauses", self.num_pauses)
    object.__setattr__(self, "num_pauses", num_pauses)  # May be of NumPy.
    errors.require_one_of("pause position", self.position, POSITIONS)
    errors.require(
      self.filler != TOKEN, f"filler: {TOKEN!r} is the default, leave it empty"
    )

  @classmethod
  def from_saved(cls, saved: Mapping[str, Any]) -> "PromptPauses":
    """Returns the condition that a result or its run was saved with."""
    num_pauses, position, filler = map(saved.__getitem__, _CONDITION)
    filler = "" if filler == TOKEN else filler
    return cls(num_pauses=num_pauses, position=position, filler=filler)

  def condition(self) -> dict[str, Any]:
    """Returns the fields that name the condition in saved files."""
    return {name: getattr(self, name) for name in _CONDITION}

  @property
  def num_pause_tokens(self) -> int:
    """The number of `<pause>` tokens: 0 with a filler."""
    return 0 if self.filler else self.num_pauses

  @property
  def repeats_prefix(self) -> bool:
    """Whether the ids at the pauses are those of the prefix."""
    return self.filler == _QUESTION

  @property
  def filler_text(self) -> str:
    """The text of the filler; of "<count>", at least M tokens."""
    if self.filler != _COUNT:
      return self.filler
    return "".join(f" {n}" for n in range(1, self.num_pauses + 2))

  @property
  def token(self) -> str:
    """The text of a pause: the filler, or "<pause>"."""
    return self.filler or TOKEN

  def prompt(
    self,
    prefix_ids: Sequence[int],
    *,
    bos_id: int,
    pause_id: int | Sequence[int] | np.ndarray,
  ) -> np.ndarray:
    """Returns the prompt of a prefix, int32 [N]: BOS, prefix and pauses.

    Args:
      prefix_ids: the ids of the prefix.
      bos_id: the first id.
      pause_id: the id of every pause, or one id for each of the M pauses.
    """
    num_prompt = 1 + len(prefix_ids) + self.num_pauses
    is_pause_N = self.mask(num_prompt)
    ids_N = np.empty(num_prompt, np.int32)
    ids_N[is_pause_N] = pause_id
    ids_N[~is_pause_N] = [bos_id, *prefix_ids]
    return ids_N

  def mask(self, num_prompt: int) -> np.ndarray:
    """Returns bool [N], True where a prompt of N ids has its pauses."""
    place = POSITIONS[self.position]
    return place.mask(np.arange(num_prompt), num_prompt, self.num_pauses)

  @property
  def code(self) -> tuple[str, str]:
    """The text of the pauses before and after the prefix, as code in M."""
    before, after = POSITIONS[self.position].code
    pauses = f"'{TOKEN}' * "
    return before and pauses + before, after and pauses + after

  def prefix_mask(self, num_prompt: int) -> np.ndarray:
    """Returns bool [N], True inside a bidirectional prefix."""
    return self.in_prefix | ~self.mask(num_prompt)

  def num_prompt(self, prefix_mask_T: np.ndarray) -> int:
    """Returns N, given a `prefix_mask` that is padded on the right."""
    num_outside = 0 if self.in_prefix else self.num_pauses
    return int(np.count_nonzero(prefix_mask_T)) + num_outside

  @property
  def place(self) -> str:
    """The place of the pauses, as text for the user."""
    return POSITIONS[self.position].words

  @property
  def slug(self) -> str:
    """The condition as part of a file name.

    A filler is written as its code points, so that any text makes a name, or,
    if it is long, as a digest.
    """
    return f"{self.position}{self.num_pauses}{self._filler_slug}"

  @property
  def series(self) -> str:
    """The condition without M, as part of a name: one series of a sweep."""
    return f"{self.position}{self._filler_slug}"

  @property
  def _filler_slug(self) -> str:
    if len(self.filler) > _MAX_FILLER_SLUG:
      return "-x" + hashlib.sha256(self.filler.encode()).hexdigest()[:12]
    return "".join(f"-u{ord(c):04x}" for c in self.filler)

  @property
  def options(self) -> list[str]:
    """The options of `pausejax evaluate` for this condition."""
    words = [f"--pauses={self.num_pauses}", f"--position={self.position}"]
    return words + ([f"--filler={self.filler}"] if self.filler else [])

  def is_like(self, other: "PromptPauses") -> bool:
    """Whether the prompts are equal; without pauses, only M matters."""
    same = self.condition() == other.condition()
    return same or self.num_pauses == other.num_pauses == 0

  def changes_from(self, other: "PromptPauses") -> tuple[str, ...]:
    """Returns what differs besides M, as texts; nothing if M is 0."""
    if not self.num_pauses:
      return ()
    position = (self.position,) * (self.position != other.position)
    filler = (f"filler {self.token!r}",) * (self.filler != other.filler)
    return position + filler

  def __str__(self) -> str:
    return f"{self.position} {self.num_pauses} x {self.token}"


def draw_num_pauses(
  numbers: Sequence[int], *, seed: int, draws_N: np.ndarray
) -> np.ndarray:
  """Returns int64 [N], the M of each draw, each number equally likely.

  Args:
    numbers: the numbers to draw from.
    seed: any int.
    draws_N: int [N], the draws, numbered over the whole run.
  """
  keys_N = pause_places.slot_keys(seed, draws_N, 1)[:, 0].view(np.uint64)
  return np.asarray(numbers, np.int64)[keys_N % np.uint64(len(numbers))]


def answer_targets(
  ids_T: np.ndarray, num_prompt: int, hint_ids: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the targets of a prompt with its answer, and which of them count.

  The loss is on the answer only (section 3.2). Hints are additional targets of
  the positions just before the one that predicts the answer.

  Args:
    ids_T: int [N + 1], the prompt, then the answer and EOS.
    num_prompt: ids of the prompt.
    hint_ids: fewer than `num_prompt`.

  Returns:
    int and bool [N].
  """
  targets_N = ids_T[1:].copy()
  last = num_prompt - 1
  first = last - len(hint_ids)
  targets_N[first:last] = hint_ids
  return targets_N, np.arange(len(targets_N)) >= first


def remove_pauses(
  tokens_T: np.ndarray | Sequence[int], pause_id: int
) -> np.ndarray:
  """Returns the text tokens of one sequence, in order.

  >>> pausejax.remove_pauses([99, 5, 99, 6], pause_id=99)
  array([5, 6])

  Args:
    tokens_T: int [T], ids with pauses; T may be 0.
    pause_id: id of the pauses.

  Returns:
    Array [number of text tokens] of the same dtype.

  Raises:
    UsageError: another shape or dtype, or a negative id. Rows of a batch may
      keep different numbers of tokens: call it for each row.
  """
  pause_id = arguments.whole_number("pause_id", pause_id)
  tokens_T = arguments.id_array(
    "tokens", tokens_T, shape="[T]", may_be_empty=True
  )
  return tokens_T[tokens_T != pause_id]
