"""3SUM: do three of ten vectors add up to zero, digit by digit, modulo 10?

  match3      prefix  "a481b730c..."    ten letters, each with three digits
              target  "T" or "F"        after 90 pauses
  match3_cot  the same prefix
              target  "a2bacd..." "T"   90 characters of work, then the answer
  match3_small, match3_small_cot        for a CPU: do three of four vectors of
                                        two digits from 0 to 4 add up to 6?

Pfau, Merrill and Bowman (2024, arXiv 2404.15758) find that fillers help a
small decoder on this task only if half of the training examples show the work
that the fillers stand for: train on `match3=1,match3_cot=1`. The work
names, for each pair of vectors, one of the two at random and then either a
random digit of their sum or the letter of a third vector that completes the
triple. Half of the examples contain a triple. The others change digits in one
to three vectors of such a triple, and are drawn again while any triple is left.
A checksum of the digits decides the one in ten that is held out of training.
Their model reads one vector per position, as a multi-hot; here every digit is a
token, and the work is as long as the pauses. The small size is not theirs: its
sums are those of integers, and nothing of its work is random: for each pair of
vectors the letter of a third one that completes the triple, or else the first
digit of their sum, and then the last digit. A small model learns both in fewer
steps.
"""

import dataclasses
import functools
import itertools
import random
from collections.abc import Iterator

from pausejax import tasks
from pausejax.tasks import records

_HOLDOUT_EVERY = 10
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

Vector = tuple[int, ...]
Vectors = list[Vector]


@dataclasses.dataclass(frozen=True)
class Size:
  """What is drawn, and what three vectors have to add up to.

  Attributes:
    num_vectors: of an example.
    num_digits: of a vector.
    num_values: of a digit, which is at least 0; at most 10.
    total: what the digits of a triple add up to, at each place.
    modulus: of the sums; if it is greater than all of them, they are those of
      integers. A sum of two digits, reduced, is at most 9.
    is_random: whether the work names one vector of a pair, and one digit of the
      sum, at random.
    num_examples: by split.
  """

  num_vectors: int
  num_digits: int
  num_values: int
  total: int
  modulus: int
  is_random: bool
  num_examples: dict[str, int]

  @property
  def num_pauses(self) -> int:
    """The characters of the work: two for each pair of vectors."""
    return self.num_vectors * (self.num_vectors - 1)

  def third(self, a: Vector, b: Vector) -> Vector:
    """Returns the vector that completes a triple; it may not be in range."""
    rest = zip(a, b, strict=True)
    return tuple((self.total - x - y) % self.modulus for x, y in rest)


SIZES = {
  "match3": Size(
    num_vectors=10,
    num_digits=3,
    num_values=10,
    total=0,
    modulus=10,
    is_random=True,
    num_examples={"train": 200_000, "validation": 2_000},
  ),
  "match3_small": Size(
    num_vectors=4,
    num_digits=2,
    num_values=5,
    total=6,
    modulus=13,
    is_random=False,
    num_examples={"train": 50_000, "validation": 2_000},
  ),
}


def instances(split: str, name: str = "match3") -> Iterator[dict]:
  """Yields {"vectors", "answer", "work"}, from a seed of the split."""
  rng = random.Random(f"{name} {split}")
  size = SIZES[name]
  for number in range(size.num_examples[split]):
    has_triple = number % 2 == 0
    vectors = next(
      drawn
      for drawn in _draws(rng, size, is_planted=has_triple)
      if _is_held_out(drawn) == (split == "validation")
      and (find_triple(drawn, size) is not None) == has_triple
    )
    yield {
      "vectors": vectors,
      "answer": "TF"[number % 2],
      "work": _work(rng, vectors, size),
    }


def find_triple(vectors: Vectors, size: Size) -> tuple[int, int, int] | None:
  """Returns the indices of a triple, or None."""
  places = {v: k for k, v in enumerate(vectors)}
  for i, j in itertools.combinations(range(len(vectors)), 2):
    k = places.get(size.third(vectors[i], vectors[j]), -1)
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


def _draws(
  rng: random.Random, size: Size, *, is_planted: bool
) -> Iterator[Vectors]:
  """Yields vectors among which a triple was planted, or one that is spoilt."""
  while True:
    vectors = [_vector(rng, size) for _ in range(size.num_vectors)]
    planted = rng.sample(range(size.num_vectors), 3)
    a, b, c = planted
    vectors[c] = size.third(vectors[a], vectors[b])
    if max(vectors[c]) >= size.num_values:
      continue
    if not is_planted:
      for place in planted[: _num_changed(rng)]:
        vectors[place] = _changed(rng, vectors[place], size)
    yield vectors


def _is_held_out(vectors: Vectors) -> bool:
  digits = "".join(map(str, itertools.chain.from_iterable(vectors)))
  return records.is_held_out(digits, _HOLDOUT_EVERY)


def _num_changed(rng: random.Random) -> int:
  """Returns min(geometric of mean 4/3, 3)."""
  count = 1
  while count < 3 and rng.random() < 0.25:
    count += 1
  return count


def _changed(rng: random.Random, vector: Vector, size: Size) -> Vector:
  """Returns the vector with one digit changed."""
  digits, n = list(vector), size.num_values
  place = rng.randrange(size.num_digits)
  digits[place] = (digits[place] + rng.randrange(1, n)) % n
  return tuple(digits)


def _work(rng: random.Random, vectors: Vectors, size: Size) -> str:
  """Returns two characters for each pair of vectors."""
  work = []
  for i, j in itertools.combinations(range(size.num_vectors), 2):
    a, b = vectors[i], vectors[j]
    sums = [str((x + y) % size.modulus) for x, y in zip(a, b, strict=True)]
    third = [
      _LETTERS[k]
      for k, vector in enumerate(vectors)
      if vector == size.third(a, b) and k not in (i, j)
    ][-1:]
    if size.is_random:
      work.append(_LETTERS[rng.choice((i, j))])
      work += third or [rng.choice(sums)]
    else:
      work += [*(third or sums[:1]), sums[-1]]
  return "".join(work)


def _vector(rng: random.Random, size: Size) -> Vector:
  return tuple(rng.randrange(size.num_values) for _ in range(size.num_digits))


def _register(name: str, size: Size, *, with_work: bool) -> None:
  tasks.register(
    tasks.Task(
      name=f"{name}_cot" if with_work else name,
      kind="decode",
      source=records.Generated(
        name="3SUM instances",
        make={
          split: functools.partial(instances, split, name)
          for split in size.num_examples
        },
      ),
      examples=functools.partial(examples, with_work=with_work),
      metrics={"accuracy": accuracy},
      num_pauses=0 if with_work else size.num_pauses,
      max_target_len=size.num_pauses + 1 if with_work else 1,
      delimiter="",
    )
  )


for _name, _size in SIZES.items():
  _register(_name, _size, with_work=False)
  _register(_name, _size, with_work=True)
