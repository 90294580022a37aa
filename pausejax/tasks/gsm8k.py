"""GSM8K: grade-school mathematics in words (Cobbe et al., 2021).

  {"question": "Natalia sold clips to 48 of her friends in April, and then ...",
   "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\\nNatalia sold
              48+24 = <<48+24=72>>72 clips altogether ...\\n#### 72"}

Published files: train.jsonl (7,473) and test.jsonl (1,319), from
https://github.com/openai/grade-school-math, licence MIT; TFDS gsm8k:1.0.0.

The prompt is lm-evaluation-harness's. The paper does not say whether the
worked solution or the number alone is the target; here it is the solution, its
calculator annotations included, so that the answer follows "####". The longest
of the 8,792 solutions has 353 tokens of T5's vocabulary, 1 in 1,000 more than
311. The paper tried 10 and 50 pauses.
"""

from collections.abc import Iterator

from pausejax import errors, metrics, tasks
from pausejax.data import records


def examples(record: dict) -> Iterator[tasks.Example]:
  """Yields the one example of a record."""
  answer = records.text(record, "answer")
  if "#### " not in answer:
    raise errors.UserError("field 'answer': no number behind '#### '")
  yield tasks.Example(
    id="",
    prefix=f"Question: {records.text(record, 'question')}\nAnswer:",
    target=answer,
    references=(answer,),
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
    metrics={
      "accuracy": metrics.gsm8k_accuracy,
      "flexible_accuracy": metrics.gsm8k_flexible,
    },
    num_pauses=10,
    max_target_len=384,
  )
)
