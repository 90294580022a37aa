"""GSM8K: grade-school mathematics in words (Cobbe et al., 2021).

  {"question": "Natalia sold clips to 48 of her friends in April, and then ...",
   "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\\nNatalia sold
              48+24 = <<48+24=72>>72 clips altogether ...\\n#### 72"}

Published files: train.jsonl (7,473) and test.jsonl (1,319), from
https://github.com/openai/grade-school-math, license MIT; TFDS gsm8k:1.0.0.

The prompt is lm-evaluation-harness's. The paper does not say whether the
worked solution or the number alone is the target; here it is the solution, its
calculator annotations included, so that the answer follows "####". Each line of
it is a step, which a curriculum may replace by pauses. The longest
of the 8,792 solutions has 353 tokens of T5's vocabulary, 1 in 1,000 more than
311. The paper tried 10 and 50 pauses.

The metrics are the official one and lm-evaluation-harness's, which read digits,
commas, a dot and a minus. An answer that they cannot read, such as "$18.00",
"1/2" or "6 apples", is an error: no prediction could be right.
"""

import re
from collections.abc import Iterator

from pausejax import errors, metrics, tasks
from pausejax.tasks import records

METRICS = {
  "accuracy": metrics.gsm8k_accuracy,
  "flexible_accuracy": metrics.gsm8k_flexible,
}
_STEP = re.compile(r"\s*\S.*\n*")
_NUMBER = re.compile(r"-?[0-9,]*\.?[0-9]+\.?")


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a record."""
  answer = records.words(record, "answer")
  _require_readable(answer)
  yield tasks.Example(
    id="",
    prefix=f"Question: {records.words(record, 'question')}\nAnswer:",
    target=answer,
    references=(answer,),
    steps=_STEP.findall(answer.partition("####")[0]),
  )


def _require_readable(answer: str) -> None:
  """Raises UserError unless both metrics find the answer in itself."""
  _, *numbers = answer.split("####")
  if not numbers:
    raise errors.UserError("field 'answer': no number after '#### '")
  if len(numbers) > 1:
    raise errors.UserError(
      f"field 'answer': '####' occurs {len(numbers)} times, but a prediction "
      "is read at the first; keep only the one before the final number"
    )
  scores = [metric(answer, [answer]) for metric in METRICS.values()]
  if not _NUMBER.fullmatch(numbers[0].strip()) or min(scores) < 1:
    raise errors.UserError(
      f"field 'answer': {'####' + numbers[0]!r:.60} can never be matched; "
      "write '#### ' and digits, with at most commas, a dot and a leading "
      "minus, without unit, fraction or currency"
    )


tasks.register(
  tasks.Task(
    name="gsm8k",
    kind="decode",
    source=records.Files(
      files={"train": "train.jsonl", "test": "test.jsonl"},
      tfds="gsm8k:1.0.0",
    ),
    examples=examples,
    metrics=METRICS,
    num_pauses=10,
    max_target_len=384,
  )
)
