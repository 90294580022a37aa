"""The last word of a sentence in books: a folder of .txt files, one a book.

  prefix  "Prince Vasili always spoke languidly, like an actor repeating a
           stale"
  target  "part"

LAMBADA's idea (Paperno et al., 2016) on books that you name with
`data.local_dir`, such as plain-text files of Project Gutenberg
(https://www.gutenberg.org, in the public domain in the US). A passage is the
end of a paragraph, at most 24 words, up to the last word of its last sentence;
at most 500 passages, evenly spaced, are taken of each book.

The books that the corpus `text` holds out with the same folder and
`data.holdout_every` are the validation split: no model is pretrained on them.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from pausejax import errors, metrics, tasks
from pausejax.config import DataConfig
from pausejax.tasks import corpora, records

_MIN_WORDS, _MAX_WORDS = 8, 24
_PER_BOOK = 500
_LAST_WORD = re.compile(r"([A-Za-z]+)[.!?]\W*")


@dataclasses.dataclass(frozen=True)
class Books:
  """The passages of the books in `data.local_dir`."""

  splits: Sequence[str] = corpora.SPLITS

  def describe(self, data: DataConfig) -> str:
    """Returns the folder."""
    return f"books in {data.local_dir!r}"

  def records(
    self, split: str, data: DataConfig
  ) -> Iterator[records.LocatedRecord]:
    """Yields (where, passage) of a split."""
    errors.require_one_of("split", split, self.splits)
    errors.require(
      bool(data.local_dir),
      "data.local_dir: task 'book_words' needs a folder of .txt files, one a "
      "book, got ''; set --config.data.local_dir=",
    )
    books = corpora.FileSource(
      train=data.local_dir,
      validation="",
      field=data.field,
      holdout_every=data.holdout_every,
    )
    for number, text in enumerate(books.documents(split)):
      for passage in book_passages(text):
        yield f"{split} book {number}", passage


def book_passages(text: str) -> list[list[str]]:
  """Returns the words of the passages of a book."""
  paragraphs = [paragraph.split() for paragraph in text.split("\n\n")]
  usable = [
    words[-_MAX_WORDS:]
    for words in paragraphs
    if len(words) >= _MIN_WORDS and _LAST_WORD.fullmatch(words[-1])
  ]
  step = max(1, len(usable) // _PER_BOOK)
  return usable[::step][:_PER_BOOK]


def examples(words: list[str]) -> Iterator[tasks.Example]:
  """Yields the one example of a passage."""
  *before, last = words
  matched = _LAST_WORD.fullmatch(last)
  assert matched is not None  # `book_passages` chose it.
  target = matched[1]
  yield tasks.Example(
    id="", prefix=" ".join(before), target=target, references=(target,)
  )


tasks.register(
  tasks.Task(
    name="book_words",
    kind="decode",
    source=Books(),
    examples=examples,
    metrics={"em": metrics.last_word_em},
    num_pauses=8,
    max_target_len=12,
    perplexity=True,
  )
)
