"""3SUM: do three of ten vectors add up to zero, digit by digit, modulo 10?

  match3      prefix  "a481b730c..."    ten letters, each with three digits
              target  "T" or "F"        after 90 pauses
  match3_cot  the same prefix
              target  "a2bacd..." "T"   90 characters of work, then the answer

Pfau, Merrill and Bowman (2024, arXiv 2404.15758) find that fillers help a
small decoder on this task only if half of the training examples show the work
that the fillers stand for: train on `match3=1,match3_cot=1`. The work
names, for each pair of vectors, one of the two at random and then either a
random digit of their sum or the letter of a third vector that completes the
triple. Half of the examples contain a triple. The others change digits in one
to three vectors of such a triple, and are drawn again while any triple is left.
Their model reads one vector per position, as a multi-hot; here every digit is a
token, and the work is as long as the pauses.
"""

import functools
import itertools
import random
from collections.abc import Iterator

from pausejax import tasks
from pausejax.tasks import records

_NUM_VECTORS, _NUM_DIGITS = 10, 3
_NUM_PAUSES = _NUM_VECTORS * (_NUM_VECTORS - 1)
_NUM_EXAMPLES = {"train": 200_000, "validation": 2_000}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

Vectors = list[tuple[int, ...]]


def instances(split: str) -> Iterator[dict]:
  """Yields {"vectors", "answer", "work"}, from a seed of the split."""
  rng = random.Random(f"match3 {split}")
  for number in range(_NUM_EXAMPLES[split]):
    vectors = _draw(rng, has_triple=number % 2 == 0)
    yield {
      "vectors": vectors,
      "answer": "TF"[number % 2],
      "work": _work(rng, vectors),
    }


def find_triple(vectors: Vectors) -> tuple[int, int, int] | None:
  """Returns the indices of three vectors that add up to zero, or None."""
  places = {v: k for k, v in enumerate(vectors)}
  for i, j in itertools.combinations(range(len(vectors)), 2):
    k = places.get(_negative_sum(vectors[i], vectors[j]), -1)
    if k > j:
      return i, j, k
  return None


def examples(record: dict, *, with_work: bool) -> Iterator[tasks.Example]:
  """Yields the one example of an instance."""
  answer = record["answer"]
  yield tasks.Example(
    id="",
    prefix="".join(
      letter + "".join(map(str, vector))
      for letter, vector in zip(_LETTERS, record["vectors"], strict=False)
    ),
    target=record["work"] + answer if with_work else answer,
    references=(answer,),
  )


def accuracy(prediction: str, references) -> float:
  """Returns whether the last character is the answer."""
  return float(prediction[-1:] == references[0])


def _draw(rng: random.Random, *, has_triple: bool) -> Vectors:
  while True:
    vectors = [_vector(rng) for _ in range(_NUM_VECTORS)]
    planted = rng.sample(range(_NUM_VECTORS), 3)
    a, b, c = planted
    vectors[c] = _negative_sum(vectors[a], vectors[b])
    if not has_triple:
      for place in planted[: _num_changed(rng)]:
        vectors[place] = _changed(rng, vectors[place])
    if (find_triple(vectors) is not None) == has_triple:
      return vectors


def _num_changed(rng: random.Random) -> int:
  """Returns min(geometric of mean 4/3, 3)."""
  count = 1
  while count < 3 and rng.random() < 0.25:
    count += 1
  return count


def _changed(rng: random.Random, vector: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the vector with one digit changed."""
  place = rng.randrange(_NUM_DIGITS)
  digits = list(vector)
  digits[place] = (digits[place] + rng.randrange(1, 10)) % 10
  return tuple(digits)


def _work(rng: random.Random, vectors: Vectors) -> str:
  places = {v: k for k, v in enumerate(vectors)}
  work = []
  for i, j in itertools.combinations(range(len(vectors)), 2):
    rest = _negative_sum(vectors[i], vectors[j])
    third = places.get(rest, i)
    is_triple = third not in (i, j)
    shown = _LETTERS[third] if is_triple else str(-rest[rng.randrange(3)] % 10)
    work.append(_LETTERS[rng.choice((i, j))] + shown)
  return "".join(work)


def _vector(rng: random.Random) -> tuple[int, ...]:
  return tuple(rng.randrange(10) for _ in range(_NUM_DIGITS))


def _negative_sum(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(-(x + y) % 10 for x, y in zip(a, b, strict=True))


for _name, _with_work in (("match3", False), ("match3_cot", True)):
  tasks.register(
    tasks.Task(
      name=_name,
      kind="decode",
      source=records.Generated(
        name="3SUM instances",
        make={s: functools.partial(instances, s) for s in _NUM_EXAMPLES},
      ),
      examples=functools.partial(examples, with_work=_with_work),
      metrics={"accuracy": accuracy},
      num_pauses=0 if _with_work else _NUM_PAUSES,
      max_target_len=_NUM_PAUSES + 1 if _with_work else 1,
      delimiter="",
    )
  )
