"""Downstream tasks as SeqIO tasks, and TFDS as a source of their records."""

import json
import pathlib
from unittest import mock

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tfds = pytest.importorskip("tensorflow_datasets")

from pausejax import errors, tasks  # noqa: E402
from pausejax.data import tokenizer_training, tokenizers  # noqa: E402
from pausejax.data.finetuning import examples, prompts  # noqa: E402
from pausejax.data.seqio import downstream, sources, vocabulary  # noqa: E402
from pausejax.prompt_pauses import POSITIONS, PromptPauses  # noqa: E402
from pausejax.tasks import records  # noqa: E402

NUM_PAUSES = 3
GSM8K = [
  {"question": f"What is {i} and {i}?", "answer": f"{2 * i}\n#### {2 * i}"}
  for i in range(7)
]
PIQA = {"goal": "cut wood", "sol1": "use a saw ", "sol2": "use a spoon"}
LENGTHS = {"inputs": 200, "targets": 100}
# Task -> the features that `from_tfds` or `examples` reads.
FEATURES = {
  "gsm8k": ["question", "answer"],
  "squad": ["id", "context", "question", "answers"],
  "coqa": ["story", "questions", "answers"],
  "commonsense_qa": ["id", "question", "choices", "answer"],
  "piqa": ["goal", "sol1", "sol2", "label"],
  "lambada": ["passage"],
  "hellaswag": ["context", "endings", "activity_label", "label"],
  "web_questions": ["question", "answers"],
  "natural_questions": ["question", "answer"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("data")
  lines = "".join(f"{json.dumps(row)}\n" for row in GSM8K)
  (root / "train.jsonl").write_text(lines)
  (root / "test.jsonl").write_text(lines)
  (root / "valid.jsonl").write_text(f"{json.dumps(PIQA)}\n" * 2)
  (root / "valid-labels.lst").write_text("0\n1\n")
  return root


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def tokenizer(request, tmp_path_factory) -> str:
  if request.param == "bytes":
    return "bytes"
  path = tmp_path_factory.mktemp("tokenizer") / "bpe.model"
  texts = [f"{row['question']} {row['answer']}" for row in GSM8K]
  path.write_bytes(tokenizer_training.train_tokenizer(texts, vocab_size=290))
  return str(path)


def register(name: str, data, **changes) -> str:
  vocab = vocabulary.vocabulary(data.tokenizer)
  pauses = PromptPauses(**{"num_pauses": NUM_PAUSES} | changes)
  return downstream.register_downstream(
    tasks.downstream(name), data, vocab, pauses
  )


def read(name: str, split: str, lengths=LENGTHS) -> list[dict]:
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    lengths, split, shuffle=False
  )
  return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize(
  "name, split, filler",
  [
    ("gsm8k", "train", ""),
    ("gsm8k", "validation", "."),
    ("piqa", "validation", "<count>"),
    ("piqa", "validation", "<question>"),
    ("piqa", "validation", ""),
  ],
)
@pytest.mark.parametrize("position", POSITIONS)
def test_ids_equal_those_of_the_plain_tokenizer(
  name, split, filler, position, folder, tokenizer, data_config
):
  pauses = {"position": position, "filler": filler}
  data = data_config(tokenizer=tokenizer, local_dir=str(folder))
  loaded = examples.read_split(tasks.downstream(name), split, data)
  plain = prompts.Format(
    tasks.downstream(name),
    tokenizers.load_tokenizer(tokenizer),
    PromptPauses(num_pauses=NUM_PAUSES, **pauses),
  )
  lengths = [LENGTHS["inputs"] + 1] * len(loaded.rows)
  expected = plain.prompts(loaded.rows, lengths).rows
  found = read(register(name, data, **pauses), split)
  assert [e["id"].decode() for e in found] == [row.id for row in loaded.rows]
  for row, prompt_T, target in zip(
    found, expected, plain.targets(loaded.rows), strict=True
  ):
    # BOS is the feature converter's affair.
    np.testing.assert_array_equal(row["inputs"], prompt_T[1:])
    np.testing.assert_array_equal(row["targets"], target)


def test_a_long_prefix_is_cut_on_the_left_and_keeps_its_pauses(
  folder, data_config
):
  data = data_config(local_dir=str(folder))
  name = register("gsm8k", data)
  pause_id = tokenizers.load_tokenizer("bytes").pause_id
  whole = read(name, "test")
  short = read(name, "test", {"inputs": 12, "targets": 4})
  for long, cut in zip(whole, short, strict=True):
    np.testing.assert_array_equal(cut["inputs"], long["inputs"][-12:])
    assert (cut["inputs"][-NUM_PAUSES:] == pause_id).all()
    np.testing.assert_array_equal(cut["targets"][:3], long["targets"][:3])
    assert cut["targets"][-1] == tokenizers.load_tokenizer("bytes").eos_id
  uncut = read(name, "test", None)
  np.testing.assert_array_equal(uncut[0]["inputs"], whole[0]["inputs"])


def test_metrics_and_postprocessing_come_from_the_task(folder, data_config):
  name = register("gsm8k", data_config(local_dir=str(folder)))
  task = seqio.get_mixture_or_task(name)
  row = read(name, "test")[3]
  references = task.postprocess_fn("", example=row, is_target=True)
  assert references == ["6\n#### 6"]
  answers = ["is\n#### 6", "6"]
  answers = [task.postprocess_fn(a, example=row) for a in answers]
  found = {}
  for metric in task.metric_fns:
    found |= metric([references] * 2, answers)
  assert found == {"accuracy": 50.0, "flexible_accuracy": 100.0}


def test_tasks_mix_by_rate(folder, data_config):
  data = data_config(local_dir=str(folder))
  rates = {"gsm8k": 1.0, "piqa": 3.0}
  for name in rates:
    register(name, data)
  name = downstream.register_mixture("downstream_test", rates)
  mixture = seqio.get_mixture_or_task(name)
  shares = [mixture.get_rate(seqio.TaskRegistry.get(n)) for n in rates]
  assert shares == [1.0, 3.0]
  dataset = mixture.get_dataset(LENGTHS, "validation", num_epochs=1, seed=0)
  found = {bytes(row["targets"]) for row in dataset.as_numpy_iterator()}
  alone = [row for n in rates for row in read(n, "validation")]
  assert found <= {bytes(row["targets"]) for row in alone} and len(found) > 1


@pytest.mark.parametrize("name", FEATURES)
def test_the_builders_have_the_features_that_are_read(name, tmp_path):
  source = tasks.downstream(name).source
  assert isinstance(source, records.Files)
  builder = tfds.builder(source.tfds, data_dir=str(tmp_path))
  assert set(FEATURES[name]) <= set(builder.info.features)


def test_prepared_tfds_data_gives_the_examples_of_the_files(
  folder, tmp_path, data_config
):
  builder = tfds.builder("gsm8k:1.0.0", data_dir=str(tmp_path))
  local = {
    name: str(folder / "train.jsonl")
    for name in ("train", "test", "train_socratic", "test_socratic")
  }
  with mock.patch.object(
    tfds.download.DownloadManager, "download_and_extract", return_value=local
  ):
    builder.download_and_prepare()
  task = tasks.downstream("gsm8k")
  prepared = data_config(tfds_data_dir=str(tmp_path))
  from_tfds = examples.read_split(task, "test", prepared).rows
  from_files = examples.read_split(
    task, "test", data_config(local_dir=str(folder))
  ).rows
  by_prefix = {row.prefix: row.target for row in from_tfds}
  assert by_prefix == {row.prefix: row.target for row in from_files}


@pytest.mark.parametrize("name", ["squad", "coqa", "hellaswag"])
def test_nested_features_come_as_plain_values(name, tmp_path, data_config):
  """A prepared data set of one example, with the builder's own features."""
  source = tasks.downstream(name).source
  assert isinstance(source, records.Files)
  builder = tfds.builder(source.tfds, data_dir=str(tmp_path / "unused"))
  rows = {
    "squad": {
      "id": "q1",
      "title": "Paris",
      "context": "Paris is the capital.",
      "question": "What?",
      "answers": {"text": ["the capital", "capital"], "answer_start": [9, 13]},
    },
    "coqa": {
      "source": "mctest",
      "story": "A kitten.",
      "questions": ["What?", "Whose?"],
      "answers": {
        "input_text": ["a kitten", "unknown"],
        "answer_start": [0, -1],
        "answer_end": [8, -1],
      },
    },
    "hellaswag": {
      "context": "A man sits. he",
      "endings": ["a.", "b.", "c.", "d."],
      "activity_label": "Roof",
      "label": 2,
      "split_type": "indomain",
      "source_id": "x",
    },
  }
  tfds.dataset_builders.store_as_tfds_dataset(
    name="tiny",
    version="1.0.0",
    data_dir=str(tmp_path),
    features=builder.info.features,
    split_datasets={"train": [(0, rows[name])]},
  )
  (example,) = sources.tfds_examples("tiny:1.0.0", str(tmp_path), "train")
  row = list(tasks.downstream(name).examples(source.from_tfds(example)))[-1]
  expected = {
    "squad": ["the capital", "capital"],
    "coqa": ["unknown"],
    "hellaswag": ["a.", "b.", "c.", "d."],
  }
  assert list(row.options or row.references) == expected[name]


def test_tfds_data_that_is_not_prepared_is_one_line(tmp_path, data_config):
  data = data_config(tfds_data_dir=str(tmp_path))
  with pytest.raises(errors.UserError, match=r"gsm8k:1\.0\.0 is not prepared"):
    examples.read_split(tasks.downstream("gsm8k"), "test", data)
