"""Finetuning from a store gives the batches of the published files."""

import json
import shutil

import numpy as np
import pytest
from etils import epath

from pausejax import cli, errors, metrics, tasks
from pausejax.config import load_config, train_config
from pausejax.config.batch_sizes import batch_sizes
from pausejax.data import pipeline, record_store, tokenizers
from pausejax.data.finetuning.source import FinetuneSource
from pausejax.data.pretraining.source import StepBatches
from pausejax.tasks import records, registry

BYTES = tokenizers.load_tokenizer("bytes")
TASKS = ("sums", "spelling")


def numbers(start, end):
  return lambda: iter(range(start, end))


def sum_of(n):
  yield tasks.Example(
    id=str(n), prefix=f"{n} + 1 =", target=str(n + 1), references=[str(n + 1)]
  )


def spelling_of(n):
  if n % 10 == 0:
    raise tasks.Unusable("a round number")
  options = ["odd \u20ac", "even"]
  yield tasks.Example(
    id=str(n),
    prefix=str(n),
    target=options[1 - n % 2],
    options=options,
    label=1 - n % 2,
  )


@pytest.fixture(scope="module", autouse=True)
def small_tasks():
  """Two tasks, one of them without held-out records of its own."""
  with pytest.MonkeyPatch.context() as patch:
    tasks.names()  # Imports those of the package.
    patch.setattr(registry, "_TASKS", dict(registry._TASKS))
    tasks.register(
      tasks.Task(
        name="sums",
        kind="decode",
        source=records.Generated(
          name="sums",
          make={"train": numbers(0, 90), "validation": numbers(90, 110)},
        ),
        examples=sum_of,
        metrics={"exact_match": metrics.exact_match},
      )
    )
    tasks.register(
      tasks.Task(
        name="spelling",
        kind="options",
        source=records.Generated(
          name="spelling", make={"train": numbers(0, 120)}
        ),
        examples=spelling_of,
      )
    )
    yield


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
  """Task -> a store of it, made by the command."""
  root = tmp_path_factory.mktemp("stores")
  for name in TASKS:
    config = f"--config=configs/finetune.py:task={name}"
    assert cli.main(["segments", config, f"--out={root / name}"]) == 0
  return {name: str(root / name) for name in TASKS}


def run_of(task, folder="", **changes):
  tree = load_config("finetune").to_dict()
  tree["data"] |= {"task": task, "segments_dir": folder, "seq_len": 256}
  tree["model"] |= {"max_seq_len": 256}
  tree["finetune"] |= changes
  return train_config(tree)


def source_of(config, split="train"):
  found = [
    pipeline.encode_split(config, BYTES, name, split)
    for name in config.data.task.replace("=1", "").split(",")
  ]
  return FinetuneSource(
    found,
    [1.0] * len(found),
    data=config.data,
    packing=True,
    tokenizer=BYTES,
    sizes=batch_sizes(4),
    seed=0,
  )


@pytest.mark.parametrize("num_pauses", [0, 7])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_store_gives_the_batches_of_the_files(stores, split, num_pauses):
  for task, folder in (
    ("sums", stores["sums"]),
    ("sums=1,spelling=1", ",".join(f"{k}={v}" for k, v in stores.items())),
  ):
    chosen = run_of(task, folder)
    pipeline.check_data(chosen.data, chosen.finetune)
    read, made = (
      source_of(run_of(task, f, num_pauses=num_pauses), split)
      for f in (folder, "")
    )
    # The same fingerprint: a run may go on from the other.
    assert read.fingerprint() == made.fingerprint()
    assert read.summary([0]) == made.summary([0])
    for step in (0, 3, 50):
      a, b = read.training_batch(step), made.training_batch(step)
      for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_a_rebuilt_store_has_the_same_bytes_and_verifies(stores, tmp_path):
  config = "--config=configs/finetune.py:task=sums"
  for _ in range(2):
    assert cli.main(["segments", config, f"--out={tmp_path / 'again'}"]) == 0
  for name in ("index.json", "train.array_record", "validation.array_record"):
    again = (tmp_path / "again" / name).read_bytes()
    with open(f"{stores['sums']}/{name}", "rb") as f:
      assert f.read() == again
  assert cli.main(["segments", f"--verify={tmp_path / 'again'}"]) == 0
  file = tmp_path / "again" / "train.array_record"
  file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(errors.UserError, match=r"train\.array_record has"):
    source_of(run_of("sums", str(tmp_path / "again")))


def test_a_store_of_another_task_or_of_segments_is_an_error(stores, tmp_path):
  with pytest.raises(errors.UserError, match="task is 'spelling', this run"):
    source_of(run_of("sums", stores["spelling"]))
  with pytest.raises(errors.UserError, match="no segments at"):
    source_of(run_of("sums", str(tmp_path)))
  with pytest.raises(errors.UsageError, match="a store for each task"):
    chosen = run_of("sums=1,spelling=1", stores["sums"])
    pipeline.check_data(chosen.data, chosen.finetune)


def test_training_takes_the_store(stores):
  source = source_of(run_of("sums", stores["sums"]))
  assert next(StepBatches(source))["tokens"].shape == (4, 256)


@pytest.mark.parametrize("field", ["prefix_ids", "target_ids"])
@pytest.mark.parametrize(
  "wrong", [259, 260, 65_535, -1, 2**40, 2**80, "7", 7.5, [7]]
)
def test_an_id_that_no_text_has_names_file_and_record(
  stores, tmp_path, field, wrong
):
  out = tmp_path / "out"
  shutil.copytree(stores["sums"], out)
  index = json.loads((out / "index.json").read_text())
  whole = record_store.open_records(epath.Path(out), index["train"]["shards"])
  writer = record_store.RecordWriter(out / "train.array_record")
  for number in range(len(whole)):
    record = json.loads(whole[number])
    if number == 3:
      record[field][0] = wrong
    writer.write(json.dumps(record).encode())
  index["train"]["shards"] = writer.close()
  (out / "index.json").write_text(json.dumps(index))
  with pytest.raises(errors.UserError) as raised:
    source_of(run_of("sums", str(out)))
  message = str(raised.value)
  assert "record 3 of train.array_record" in message and "\n" not in message
