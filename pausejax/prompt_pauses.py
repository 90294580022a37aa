"""The pauses of a prompt, and the targets of its answer.

Finetuning (Algorithm 2) and inference (Algorithm 3) put M pauses around a
prefix; `pause.py` explains the method. `TokenPauses` are those inside its text:
after every token of a prompt and of its answer, or after every sentence or
paragraph of the prefix.

N ids of a prompt, T positions of a prompt with its answer, P slots of a token
with its pauses.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from pausejax import arguments, errors, pause_places

TOKEN = "<pause>"  # How texts and saved results name the token.

# Fields that name the condition of an answer in saved files.
_CONDITION = ("num_pauses", "position", "filler")
BEHIND_TOKENS = "pauses_behind_tokens"  # The field of `TokenPauses`.

_MAX_FILLER_SLUG = 16  # Characters of a filler that a file name spells out.


@dataclasses.dataclass(frozen=True)
class Place:
  """A place for the pauses of a prompt.

  Attributes:
    words: the place in words, for help texts, checks and reports.
    mask: (index of each id [N], N, M) -> bool [N], True on the M pauses. The
      first id is BOS, never a pause.
    code: two expressions, valid in Python and in Jinja: the numbers of pauses
      before and after the prefix, in terms of M; "" where there are none.
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

# Where all pauses stand between the prefix and the target.
BEHIND_PREFIX = "append"

_COUNT, _QUESTION = "<count>", "<question>"
# Fillers with a name: name -> what stands at the M pauses, in words.
FILLERS = {_COUNT: "1 2 3 ...", _QUESTION: "the prefix, repeated"}


@dataclasses.dataclass(frozen=True)
class TokenPauses:
  """The pauses after every token of a prompt and of its answer.

  The next token is read at the last one. BOS has none, as in pretraining.

  Attributes:
    ids: the ids after a token, `COPY` for a copy of it; none by default.
    share_positions: whether they have the position of their token.
    unit: "" for all tokens; a name in `data.text_units.UNITS` for the last one
      of each such unit of the prefix, and none of the answer.
  """

  COPY: ClassVar[int] = -1

  ids: tuple[int, ...] = ()
  share_positions: bool = False
  unit: str = ""

  @property
  def period(self) -> int:
    """P, the slots of any token with its pauses; 1 if only units have them."""
    return 1 + self.num_per_token

  @property
  def num_per_token(self) -> int:
    """The number of pauses after every token."""
    return 0 if self.unit else len(self.ids)

  @property
  def uses_pause_token(self) -> bool:
    """Whether some are `<pause>`, not copies."""
    return any(id_ != self.COPY for id_ in self.ids)

  def spread(self, ids: Any) -> Any:
    """Returns int [..., N P] for ids [..., N] of NumPy or JAX."""
    own_P = np.array([self.COPY, *self.ids[: self.num_per_token]], np.int32)
    shown = ids[..., None] * (own_P < 0) + np.maximum(own_P, 0)
    return shown.reshape(*ids.shape[:-1], -1)

  def moves(self, num_tokens: int) -> np.ndarray:
    """Returns bool [N P], True where a slot has a position of its own."""
    own_P = np.arange(self.period) == 0
    return np.tile(own_P | (not self.share_positions), num_tokens)

  def __str__(self) -> str:
    count = len(self.ids)
    names = ("pause", "pauses") if self.uses_pause_token else ("copy", "copies")
    place = f"{self.unit} of the prefix" if self.unit else "token"
    return f"{count} {names[count != 1]} after every {place}"

  def note(self) -> dict[str, str]:
    """Returns what results say of pauses after units; nothing without them."""
    return {"pauses_after_units": str(self)} if self.unit and self.ids else {}

  def fingerprint(self) -> dict[str, Any]:
    """Returns what a finetuning saves of them; nothing if there are none."""
    fields = {**dataclasses.asdict(self), "ids": [*self.ids]}
    if not self.unit:
      del fields["unit"]  # Versions without this field wrote none.
    return {BEHIND_TOKENS: fields} if self.ids else {}


NO_TOKEN_PAUSES = TokenPauses()


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
  def is_read(self) -> bool:
    """Whether the answer is read at a pause, the last one."""
    return bool(self.mask(2 + self.num_pauses)[-1])

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
  ids: np.ndarray,
  num_prompt: int,
  hint_ids: Sequence[int] = (),
  behind: TokenPauses = NO_TOKEN_PAUSES,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the targets of a prompt with its answer, and which of them count.

  The loss is on the answer only (section 3.2), of which the pauses after its
  tokens are no part. Hints are additional targets of the positions just before
  the one that predicts the answer.

  Args:
    ids: int [T + 1], the prompt, then the answer with its pauses, and EOS.
    num_prompt: ids of the prompt.
    hint_ids: fewer than `num_prompt`.
    behind: the pauses after every token.

  Returns:
    int and bool [T].
  """
  targets_T = ids[1:].copy()
  last = num_prompt - 1
  targets_T[last - len(hint_ids) : last] = hint_ids
  places_T = np.arange(len(targets_T)) - last
  is_hint_T = (places_T >= -len(hint_ids)) & (places_T < 0)
  # The last pause after a token predicts the next one.
  is_answer_T = (places_T >= 0) & (places_T % behind.period == 0)
  return targets_T, is_hint_T | is_answer_T
