"""The method on one page: where pauses go and which targets count.

Goyal et al., "Think before you speak: Training Language Models With Pause
Tokens" (ICLR 2024, arXiv 2310.02226). One new token, `<pause>`, gives the
model more positions to compute in before it has to answer.

  Pretraining (Algorithm 1)  `PauseSpec.insert` into the text
  Finetuning (Algorithm 2)   `PromptPauses.prompt` around the prefix
  Inference (Algorithm 3)    `PromptPauses.prompt`, then read after its last id;
                             `PauseSpec.behind_tokens` in prompt and answer
  Loss                       `PauseSpec.is_pause`, `answer_targets`

A `PauseSpec` defines the pauses in text, with the places in `pause_places.py`;
`PromptPauses` in `prompt_pauses.py` defines those in a prompt, and a
`Curriculum` in `curriculum.py` those that replace worked steps. Everything that
depends on the kind of pause is defined in these four files; data, training,
evaluation, checks and reports call them. A new way of pausing is one more class
in `pause_places.MODES`, or one more entry of `prompt_pauses.POSITIONS`.

Shapes: B segments, N text tokens of a segment, T positions.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pausejax import arguments, errors, pause_places
from pausejax.pause_places import MAX_RUN_LENGTH, MODES
from pausejax.prompt_pauses import TokenPauses


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
    num_ids: n, the ids of pauses. Pause j of a run, from 0, has the id
      `pause_id` + j modulo n.

  Raises:
    UsageError: an unknown mode, or impossible numbers.
  """

  fraction: float
  mode: str = "insert_trim"
  run_length: float = 1.0
  shares_positions: bool = False
  num_ids: int = 1

  def __post_init__(self):
    errors.require_one_of("pause_mode", self.mode, MODES)
    errors.require_in_range("pause_fraction", self.fraction, 0.0, 0.999)
    errors.require_in_range(
      "pause_run_length", self.run_length, 1, MAX_RUN_LENGTH
    )
    arguments.whole_number("num_pause_ids", self.num_ids, 1)
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
    # A subclass may have other places.
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
    longest = max(seq_len - 1, 1)
    errors.require(
      self.run_length <= longest,
      f"pause_run_length {self.run_length:g} leaves no position for text in "
      f"seq_len {seq_len}; choose at most {longest}",
    )
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
    rows_B: np.ndarray,
    ends_BN: np.ndarray | None = None,
  ) -> np.ndarray:
    """Inserts the pauses of each segment.

    Args:
      tokens_BN: int [B, num_text_tokens(T)], no pauses.
      seq_len: T, the length of the result.
      pause_id: id of the pauses, the first of `num_ids`.
      seed: any int; the same seed gives the same pauses.
      rows_B: int [B], number of each segment within the whole run.
      ends_BN: bool, True where a `unit` of the text ends, if there is one.

    Returns:
      [B, T] of the same dtype. Without its pauses it is a prefix of the input.

    Raises:
      UsageError: the segments are not `num_text_tokens` long, their number is
        not that of `rows_B`, or their dtype cannot hold the ids of the pauses.
    """
    self.check_segments(tokens_BN.shape[1], seq_len)
    last, largest = pause_id + self.num_ids - 1, np.iinfo(tokens_BN.dtype).max
    errors.require(
      last <= largest and len(rows_B) == len(tokens_BN),
      f"id {last} of a pause and rows_B {len(rows_B)} do not fit "
      f"{tokens_BN.dtype} ids, at most {largest}, of {len(tokens_BN)} segments",
    )
    is_pause_BT = self.mask(seed, rows_B, seq_len, ends_BN)
    # The index of a slot's text token is the number of text slots before it.
    source_BT = np.cumsum(~is_pause_BT, axis=1, dtype=np.int32) - 1
    self._check_mask(source_BT[:, -1] + 1, tokens_BN.shape[1])
    shown_BT = np.take_along_axis(tokens_BN, np.maximum(source_BT, 0), axis=1)
    if self.way.repeats_token:
      return shown_BT
    ids_BT = pause_id + _place_in_run(is_pause_BT) % self.num_ids
    return np.where(is_pause_BT, ids_BT.astype(tokens_BN.dtype), shown_BT)

  def _check_mask(self, num_text_B: np.ndarray, num_tokens: int) -> None:
    """Raises unless a mask leaves as many positions for text as promised."""
    least = 0 if self.displaces_text else num_tokens
    wrong = num_text_B[(num_text_B < least) | (num_text_B > num_tokens)]
    if wrong.size:
      raise errors.UsageError(
        f"pause_mode {self.mode!r}: its mask leaves {wrong[0]} positions of a "
        f"row for text, its num_text_tokens says {num_tokens}"
      )

  def mask(
    self,
    seed: int,
    rows_B: np.ndarray,
    seq_len: int,
    ends_BN: np.ndarray | None = None,
  ) -> np.ndarray:
    """Returns bool [B, T], True where `insert` puts a pause."""
    if not self.has_pauses:
      return np.zeros((len(rows_B), seq_len), bool)
    return self.way.mask(seed, rows_B, seq_len, ends_BN)

  def is_pause(self, ids_BT: np.ndarray, pause_id: int) -> np.ndarray:
    """Returns bool [B, T], True at the pauses of the results of `insert`.

    As targets they are not in the loss: the paper ignores position k when token
    k+1 is `<pause>` (section 3.1). A pause whose next token is text counts.
    """
    if not self.has_pauses or self.uses_pause_token:
      return is_pause_id(ids_BT, pause_id, self.num_ids)
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

  def behind_tokens(self, pause_id: int) -> TokenPauses:
    """Returns the pauses after every token of a prompt and its answer."""
    num = self.way.num_per_token * self.has_pauses
    ids = [pause_id + j % self.num_ids for j in range(num)]
    if self.way.repeats_token:
      ids = [TokenPauses.COPY] * num
    return TokenPauses(tuple(ids), self.shares_positions)

  def in_examples(self, pause_id: int) -> TokenPauses:
    """Returns the pauses inside the text of a finetuning's examples.

    Raises:
      UsageError: pauses after units of the prefix share positions.
    """
    if not self.unit:
      return self.behind_tokens(pause_id)
    errors.require(
      not self.shares_positions,
      f"data.pauses_share_positions: not with data.pause_mode={self.mode} in a "
      "finetuning; leave it out",
    )
    ids = [pause_id + j % self.num_ids for j in range(int(self.run_length))]
    return TokenPauses(tuple(ids), unit=self.unit)

  def in_evaluation(self, fraction: float) -> "PauseSpec":
    """Returns the pauses of a text of which no token may be displaced.

    Ways that displace text are replaced by uniformly random places.

    Args:
      fraction: pauses as a fraction of the positions.
    """
    if self.has_pauses and not self.displaces_text:
      return dataclasses.replace(self, fraction=fraction)
    return PauseSpec(fraction=fraction, mode="exact", num_ids=self.num_ids)

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
    if self.num_ids != 1:
      named["num_pause_ids"] = self.num_ids
    return named

  def __str__(self) -> str:
    return str(self.way) if self.has_pauses else "none"


def _place_in_run(is_pause_BT: np.ndarray) -> np.ndarray:
  """Returns int64 [B, T], the number of each pause in its run, from 0."""
  places_T = np.arange(is_pause_BT.shape[1])
  text_BT = np.where(is_pause_BT, -1, places_T)
  return places_T - np.maximum.accumulate(text_BT, axis=1) - 1


def is_pause_id(ids: Any, pause_id: int, num_pause_ids: int) -> Any:
  """Returns bool, of the shape of `ids`, True at the ids of pauses."""
  return (ids >= pause_id) & (ids < pause_id + num_pause_ids)


def remove_pauses(
  tokens_T: np.ndarray | Sequence[int],
  pause_id: int,
  num_pause_ids: int = 1,
) -> np.ndarray:
  """Returns the text tokens of one sequence, in order.

  >>> pausejax.remove_pauses([99, 5, 99, 6], pause_id=99)
  array([5, 6])

  Args:
    tokens_T: int [T], ids with pauses; T may be 0.
    pause_id: id of the pauses; with several, the first of them.
    num_pause_ids: number of such ids, which follow one another.

  Returns:
    Array [number of text tokens] of the same dtype.

  Raises:
    UsageError: another shape or dtype, or a negative id. Rows of a batch may
      keep different numbers of tokens: call it for each row.
  """
  pause_id = arguments.whole_number("pause_id", pause_id)
  num_pause_ids = arguments.whole_number("num_pause_ids", num_pause_ids, 1)
  tokens_T = arguments.id_array(
    "tokens", tokens_T, shape="[T]", may_be_empty=True
  )
  return tokens_T[~is_pause_id(tokens_T, pause_id, num_pause_ids)]
