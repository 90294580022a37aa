"""Pauses in prompts: their places, masks, conditions and code."""

import dataclasses
import functools
import math
import re

import numpy as np
import pytest

from pausejax import errors, pause, prompt_pauses

PAUSE, BOS = 999, 998


def prompt(prefix, num_pauses, position):
  pauses = prompt_pauses.PromptPauses(num_pauses=num_pauses, position=position)
  return pauses.prompt(prefix, bos_id=BOS, pause_id=PAUSE)


@pytest.mark.parametrize("num_pauses", [0, 1, 10])
def test_pauses_stand_in_their_place_and_can_be_removed(num_pauses):
  prefix = np.array([3, 1, 4, 1, 5], np.int32)
  pauses = np.full(num_pauses, PAUSE)
  first, second = pauses[: num_pauses // 2], pauses[num_pauses // 2 :]
  ordered = {
    "append": [BOS, *prefix, *pauses],
    "prepend": [BOS, *pauses, *prefix],
    "both": [BOS, *first, *prefix, *second],
  }
  assert ordered.keys() == prompt_pauses.POSITIONS.keys()
  for position, expected in ordered.items():
    longer = prompt(prefix, num_pauses, position)
    np.testing.assert_array_equal(longer, expected)
    assert longer.dtype == prefix.dtype
    text = pause.remove_pauses(longer, PAUSE)
    np.testing.assert_array_equal(text, [BOS, *prefix])


def test_an_empty_prefix_with_pauses_is_pauses_only():
  empty = np.zeros(0, np.int32)
  np.testing.assert_array_equal(
    prompt(empty, 3, "append"), [BOS, PAUSE, PAUSE, PAUSE]
  )


@pytest.mark.parametrize("num_pauses", [-1, math.nan])
def test_an_impossible_number_of_pauses_is_an_error(num_pauses):
  with pytest.raises(errors.UsageError, match="num_pauses: must be"):
    prompt_pauses.PromptPauses(num_pauses=num_pauses)


def test_an_unknown_position_names_the_nearest():
  with pytest.raises(errors.UsageError, match="did you mean 'prepend'"):
    prompt_pauses.PromptPauses(num_pauses=1, position="preprend")


@pytest.mark.parametrize("in_prefix", [True, False])
@pytest.mark.parametrize("position", prompt_pauses.POSITIONS)
@pytest.mark.parametrize("num_pauses", [0, 1, 4])
def test_masks_of_a_prompt_say_where_its_pauses_are(
  num_pauses, position, in_prefix
):
  pauses = prompt_pauses.PromptPauses(
    num_pauses=num_pauses, position=position, in_prefix=in_prefix
  )
  prompt_N = pauses.prompt([3, 1, 4], bos_id=BOS, pause_id=PAUSE)
  n = len(prompt_N)
  np.testing.assert_array_equal(pauses.mask(n), prompt_N == PAUSE)
  assert pauses.mask(n).sum() == num_pauses
  inside_N = pauses.prefix_mask(n)
  np.testing.assert_array_equal(inside_N, in_prefix | (prompt_N != PAUSE))
  # Behind the prompt there may be anything that is outside.
  inside_T = np.concatenate([inside_N, np.zeros(5, bool)])
  assert pauses.num_prompt(inside_T) == n


def test_the_loss_is_on_the_answer_and_on_hints_just_before_it():
  ids = np.array([BOS, 3, 1, 4, 20, 21, 22], np.int32)
  for hints in ([], [8], [8, 9, 7]):
    targets, counts = prompt_pauses.answer_targets(ids, 4, hints)
    np.testing.assert_array_equal(
      targets, [*ids[1 : 4 - len(hints)], *hints, 20, 21, 22]
    )
    assert counts.tolist() == [False] * (3 - len(hints)) + [True] * (
      3 + len(hints)
    )
  np.testing.assert_array_equal(ids, [BOS, 3, 1, 4, 20, 21, 22])


@pytest.mark.parametrize("filler", ["", ".", "-u \n/", "<count>", "Wait. " * 9])
@pytest.mark.parametrize("position", prompt_pauses.POSITIONS)
def test_a_condition_is_read_back_as_saved(position, filler):
  pauses = prompt_pauses.PromptPauses(
    num_pauses=3, position=position, filler=filler
  )
  saved = pauses.condition()
  assert saved == {"num_pauses": 3, "position": position, "filler": filler}
  assert prompt_pauses.PromptPauses.from_saved(saved) == pauses
  named = saved | {"filler": pauses.token}  # As results name the filler.
  assert prompt_pauses.PromptPauses.from_saved(named) == pauses
  assert re.fullmatch(r"[a-z]+3(-u[0-9a-f]{4})*(-x[0-9a-f]{12})?", pauses.slug)


@pytest.mark.parametrize("position", prompt_pauses.POSITIONS)
def test_the_pauses_as_code_are_those_of_the_prompt(position):
  for m in range(6):
    pauses = prompt_pauses.PromptPauses(num_pauses=m, position=position)
    is_pause_N = pauses.mask(1 + 3 + m)
    num_before = int(np.argmin(is_pause_N[1:]))
    numbers = [_number(code, m) for code in pauses.code]
    assert numbers == [num_before, m - num_before]


def _number(code: str, m: int) -> int:
  """How often such a text as "'<pause>' * (M // 2)" repeats the pause."""
  known = {
    "": 0,
    "'<pause>' * M": m,
    "'<pause>' * (M // 2)": m // 2,
    "'<pause>' * (M - M // 2)": m - m // 2,
  }
  return known[code]


def test_the_name_of_the_pause_is_no_filler():
  with pytest.raises(errors.UsageError, match="leave it empty"):
    prompt_pauses.PromptPauses(num_pauses=1, filler="<pause>")


def test_conditions_are_equal_if_and_only_if_the_prompts_are():
  make = functools.partial(prompt_pauses.PromptPauses, num_pauses=2)
  assert make().is_like(make(in_prefix=True))
  for other in (make(position="prepend"), make(filler=".")):
    assert not make().is_like(other)
    assert other.changes_from(make(num_pauses=9)) == (
      ("prepend",) if other.position == "prepend" else ("filler '.'",)
    )
    none = dataclasses.replace(other, num_pauses=0)
    assert none.is_like(make(num_pauses=0))
    assert none.changes_from(make()) == ()
