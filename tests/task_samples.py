"""Small records of the nine downstream tasks in their published formats."""

import json
import os
import pathlib

import pytest

from pausejax import errors, tasks
from pausejax.data.finetuning import examples

REAL = os.environ.get("PAUSEJAX_REAL_DATA", "")
DOCS = pathlib.Path(__file__).parent.parent / "docs"

GSM8K = {
  "question": "Two and two?",
  "answer": "2+2=<<2+2=4>>4\n#### 4",
}
SQUAD = {
  "title": "Paris",
  "paragraphs": [
    {
      "context": " Paris is the capital of France. ",
      "qas": [
        {
          "id": "q1",
          "question": "What is Paris? ",
          "answers": [
            {"text": "the capital", "answer_start": 9},
            {"text": "the capital of France", "answer_start": 9},
          ],
        },
        {"id": "q2", "question": "Whose?", "answers": [{"text": "France"}]},
      ],
    }
  ],
}
COQA = {
  "source": "mctest",
  "id": "s1",
  "story": "A white kitten named Cotton.\n",
  "questions": [
    {"input_text": "What color?", "turn_id": 1},
    {"input_text": "Whose name?", "turn_id": 2},
  ],
  "answers": [
    {"input_text": "white", "turn_id": 1},
    {"input_text": "Cotton", "turn_id": 2},
  ],
  "additional_answers": {
    "0": [{"input_text": "White"}, {"input_text": "a kitten"}],
    "1": [{"input_text": "it was white"}, {"input_text": "Cotton's"}],
  },
}
COMMONSENSE_QA = {
  "answerKey": "B",
  "id": "c1",
  "question": {
    "stem": "Where is a book?",
    "choices": [
      {"label": "A", "text": "sea"},
      {"label": "B", "text": "book  shop "},
    ],
  },
}
PIQA = {"goal": "cut wood", "sol1": "use a saw ", "sol2": "use a spoon"}
LAMBADA = {"text": '"Who is it?" he said.\n\n"It is\nAnna'}
HELLASWAG = {
  "ind": 24,
  "activity_label": "Roof",
  "ctx_a": "[header] A man sits.",
  "ctx_b": "he",
  "endings": ["skis.", "[title] sings.", "sleeps.", "eats."],
  "label": 1,
}
WEB_QUESTIONS = {
  "utterance": "what do they speak?",
  "targetValue": '(list (description "Patois (a)") (description English))',
}
NATURAL_QUESTIONS = {"question": "who went", "answer": ["Neil\xa0A", "Buzz"]}

# Task -> split -> file name -> what is in it; a list is a line a record.
FILES = {
  "gsm8k": {
    "train": {"train.jsonl": [GSM8K], "train_socratic.jsonl": ["not ours"]},
    "test": {"test.jsonl": [GSM8K]},
  },
  "squad": {
    "train": {"train-v1.1.json": {"version": "1.1", "data": [SQUAD]}},
    "validation": {"dev-v1.1.json": {"data": [SQUAD]}},
  },
  "coqa": {
    "train": {"coqa-train-v1.0.json": {"version": "1.0", "data": [COQA]}},
    "validation": {"coqa-dev-v1.0.json": {"data": [COQA]}},
  },
  "commonsense_qa": {
    "train": {"train_rand_split.jsonl": [COMMONSENSE_QA]},
    "validation": {"dev_rand_split.jsonl": [COMMONSENSE_QA]},
  },
  "piqa": {
    "train": {"train.jsonl": [PIQA, PIQA], "train-labels.lst": "0\n1\n"},
    "validation": {"dev.jsonl": [PIQA], "dev-labels.lst": "1\n"},
  },
  "lambada": {
    "train": {"lambada_development_plain_text.txt": "he said to anna\n\n"},
    "test": {"lambada_test.jsonl": [LAMBADA]},
  },
  "hellaswag": {
    "train": {"hellaswag_train.jsonl": [HELLASWAG]},
    "validation": {"hellaswag_val.jsonl": [HELLASWAG]},
  },
  "web_questions": {
    "train": {"webquestions.examples.train.json": json.dumps([WEB_QUESTIONS])},
    "test": {"blobtest": json.dumps([WEB_QUESTIONS])},
  },
  "natural_questions": {
    "train": {"NQ-open.train.jsonl": [NATURAL_QUESTIONS]},
    "validation": {"NQ-open.dev.jsonl": [NATURAL_QUESTIONS]},
  },
}
COUNTS = {
  "gsm8k": {"train": 7473, "test": 1319},
  "squad": {"train": 11877, "validation": 10570},
  "coqa": {"validation": 4905},
  "commonsense_qa": {"train": 9741, "validation": 1221},
  "piqa": {"train": 16113, "validation": 1838},
  "lambada": {"test": 5153},
  "hellaswag": {"validation": 1000},
  "web_questions": {"train": 3778, "test": 2032},
  "natural_questions": {"train": 8757, "validation": 3610},
}


def write(folder: pathlib.Path, files: dict) -> None:
  for name, content in files.items():
    if isinstance(content, list):
      content = "".join(f"{json.dumps(record)}\n" for record in content)
    if isinstance(content, dict):
      content = json.dumps(content)
    (folder / name).write_text(content)


def load(data_config, task: str, split: str, folder) -> examples.Examples:
  """The published split, without holding anything out."""
  data = data_config(local_dir=str(folder))
  read, unusable = examples._read(tasks.downstream(task), split, data)
  rows = [row for made in read for row in made]
  return examples.Examples(split, rows, unusable, sha256="")


def message(data_config, task, split, folder) -> str:
  with pytest.raises(errors.UserError) as caught:
    load(data_config, task, split, folder)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def real_folder(name: str) -> pathlib.Path:
  return next(p for p in sorted(pathlib.Path(REAL).glob(f"{name}*")))
