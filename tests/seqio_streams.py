"""What the tests of the SeqIO pipeline share: texts, corpora and streams."""

import gzip
import hashlib
import json

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

from pausejax import errors, pause  # noqa: E402
from pausejax.config import DataConfig, default  # noqa: E402
from pausejax.data import tokenizer_training, tokenizers  # noqa: E402
from pausejax.data.seqio import sources, stream  # noqa: E402
from pausejax.tasks import PretrainingTask, corpora, text  # noqa: E402

TASK = PretrainingTask("seqio_test", text.source)
UNIFORM = ("insert_trim", "exact")
TEXTS = (
  "Think before you speak: <pause> is text here, </s> and <extra_id_0> too.",
  "Ünïcödé, 日本語, emoji \U0001f600 and\ttabs\n\n  spaces  ",
  "",
  "a NUL at the end \x00",
  *(
    f"Document {i}: " + "the cat sat on the mat. " * (i % 7) for i in range(40)
  ),
)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory) -> str:
  path = tmp_path_factory.mktemp("tokenizer") / "bpe.model"
  path.write_bytes(tokenizer_training.train_tokenizer(TEXTS, vocab_size=330))
  return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
  """Files of every kind: 3 .txt, one .jsonl, one .json.gz."""
  root = tmp_path_factory.mktemp("corpus")
  for name, document in zip("abc", TEXTS, strict=False):
    (root / f"{name}.txt").write_text(document)
  texts = [text.replace("\x00", "") for text in TEXTS[3:]]
  lines = [json.dumps({"text": t, "url": "u"}) for t in texts]
  (root / "b1.jsonl").write_text("\n".join(lines[:20]) + "\n")
  compressed = [gzip.compress(f"{line}\n".encode()) for line in lines[20:]]
  (root / "b2.json.gz").write_bytes(b"".join(compressed))
  return str(root)


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory) -> str:
  """A prepared data set "tiny:1.0.0" of 2 splits."""
  root = str(tmp_path_factory.mktemp("tfds"))
  rows = [(i, {"text": t, "label": i}) for i, t in enumerate(TEXTS)]
  tfds.dataset_builders.store_as_tfds_dataset(
    name="tiny",
    version="1.0.0",
    data_dir=root,
    features=tfds.features.FeaturesDict(
      {"text": tfds.features.Text(), "label": np.int64}
    ),
    split_datasets={"train": rows, "validation": rows[:5]},
  )
  return root


def data_config(**changes) -> DataConfig:
  small = {
    "task": "text",
    "pipeline": "seqio",
    "tokenizer": "bytes",
    "seq_len": 32,
    "pause_fraction": 0.25,
    "pause_mode": "insert_trim",
    "files": "",
    "holdout_every": 5,
    "shuffle_buffer": 50,
  }
  tree = default().data.to_dict()
  return DataConfig(**{**tree, **small, **changes})


def open_stream(data, *, task=TASK, **changes) -> stream.SeqioBatches:
  return stream.SeqioBatches(
    data, task, **{"batch_size": 4, "seed": 7, **changes}
  )


def python_task(texts) -> PretrainingTask:
  return PretrainingTask(
    "seqio_python",
    lambda data: corpora.PythonSource(
      name="python", load=lambda: list(texts), holdout_every=data.holdout_every
    ),
  )


def tfds_source(tfds_dir, **changes) -> corpora.TfdsSource:
  known = {"name": "tiny:1.0.0", "data_dir": tfds_dir, "field": "text"}
  return corpora.TfdsSource(**{**known, **changes})


def file_source(files, **changes) -> corpora.FileSource:
  known = {"validation": "", "field": "text", "holdout_every": 5}
  return corpora.FileSource(train=files, **{**known, **changes})


def read(source, split, **options) -> list[str]:
  dataset = sources.data_source(source).get_dataset(
    split, shuffle=False, **options
  )
  return [e["text"].decode() for e in dataset.as_numpy_iterator()]


def all_ids(source, spec, split="train") -> np.ndarray:
  tokenizer = tokenizers.load_tokenizer(spec)
  ids = tokenizer.encode(list(source.documents(split)))
  return np.concatenate([[*i, tokenizer.eos_id] for i in ids])


def text_rows(batch, data) -> list[tuple[int, ...]]:
  """The rows without pauses and padding."""
  pause_id = tokenizers.load_tokenizer(data.tokenizer).pause_id
  rows = zip(batch["targets"], batch["segment_ids"], strict=True)
  return [tuple(pause.remove_pauses(t[s == 1], pause_id)) for t, s in rows]


def digest(batch) -> str:
  parts = b"".join(batch[name].tobytes() for name in sorted(batch))
  return hashlib.sha256(parts).hexdigest()


def message(function, *args, **kwargs) -> str:
  """What the one-line UserError that it must raise says."""
  with pytest.raises(errors.UserError) as caught:
    function(*args, **kwargs)
  said = str(caught.value)
  assert said and "\n" not in said
  return said


@pytest.fixture(params=["bytes", "bpe"])
def spec(request, bpe) -> str:
  return bpe if request.param == "bpe" else "bytes"


def task_of(data: dict) -> PretrainingTask:
  if data.get("tfds_name"):
    from pausejax.tasks import c4

    return PretrainingTask("seqio_tfds", c4.source)
  return TASK if data.get("files") else python_task(TEXTS)
