"""Errors of the SeqIO pipeline are one line that names the cause."""

import gzip
import json
import os
import pathlib
import subprocess
import sys

import pytest

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")

from pausejax.tasks import corpora  # noqa: E402
from tests import seqio_streams  # noqa: E402
from tests.seqio_streams import data_config, digest, message, open_stream  # noqa: E402

# Fixtures that several test files share.
folder = seqio_streams.folder


def drain(data, *, num_batches=50, **options) -> None:
  batches = open_stream(data, **options)
  for _ in range(num_batches):
    next(batches)


@pytest.mark.parametrize("suffix", [".jsonl", ".json.gz"])
def test_a_bad_line_is_named(tmp_path, suffix):
  good = [json.dumps({"text": "x" * 50})] * 21
  for bad, problem in (
    ("{oops", "malformed JSON"),
    ('{"txt": "a"}', "did you mean"),
    ('{"text": 3}', "field 'text' is not a string: 3"),
  ):
    content = "\n".join([*good, bad, *good]).encode()
    path = tmp_path / f"é {problem[:3]}{suffix}"
    path.write_bytes(gzip.compress(content) if "gz" in suffix else content)
    said = message(drain, data_config(files=str(path)))
    assert said.startswith(f"{path}:22: ") and problem in said


@pytest.mark.slow
def test_a_process_ends_when_its_stream_fails(tmp_path):
  lines = [json.dumps({"text": "x" * 50})] * 400
  (tmp_path / "a.jsonl").write_text(
    "\n".join([*lines, lines[0], "no json", *lines])
  )
  command = [sys.executable, "-m", "pausejax", "train"]
  command += ["--config=configs/smoke.py", "--config.data.pipeline=seqio"]
  command += ["--config.data.task=text", f"--config.data.files={tmp_path}"]
  run = subprocess.run(
    [*command, f"--workdir={tmp_path / 'run'}"],
    cwd=pathlib.Path(__file__).parent.parent,
    capture_output=True,
    text=True,
    timeout=150,  # Its threads can keep an interpreter from ending.
  )
  assert run.returncode == 1, run.stderr
  assert "a.jsonl:402: malformed JSON at column 1" in run.stderr
  assert 'File "' not in run.stderr


def test_text_that_is_not_utf_8_is_named(tmp_path):
  for name in ("a.txt", "b.txt"):
    (tmp_path / name).write_bytes(b"one\ntwo \xff three")
  said = message(drain, data_config(files=str(tmp_path)))
  assert f"{tmp_path}/b.txt:2:" in said and "not UTF-8" in said


def test_a_truncated_gz_is_refused_before_its_text_repeats(tmp_path):
  lines = [json.dumps({"text": os.urandom(50).hex()}) for _ in range(200)]
  whole = gzip.compress("\n".join(lines).encode())
  path = tmp_path / "cut.jsonl.gz"
  for content in (whole[:-5], whole[: len(whole) // 2], b"no gzip\n"):
    path.write_bytes(content)
    data = data_config(files=str(path))
    assert str(path) in message(drain, data, num_batches=300)


def test_missing_files_are_one_line_errors(tmp_path):
  data = data_config(files=str(tmp_path / "nothing"))
  assert "nothing to read at" in message(open_stream, data)


def test_a_split_without_documents_ends_immediately(tmp_path):
  (tmp_path / "only.txt").write_text("held out")
  data = data_config(files=str(tmp_path))
  assert "no document in split 'train'" in message(open_stream, data)
  (tmp_path / "only.txt").rename(tmp_path / "only.jsonl")
  (tmp_path / "only.jsonl").write_text("\n")
  for split in corpora.SPLITS:
    assert split in message(open_stream, data, split=split)


@pytest.mark.slow
def test_every_seed_of_the_settings_works(folder):
  data = data_config(files=f"{folder}/b1.jsonl")
  seeds = (-(2**63), -1, 0, 2**31 - 1, 2**63 - 1)
  assert len({digest(next(open_stream(data, seed=s))) for s in seeds}) == 5


def test_fewer_documents_than_hosts_end_immediately(folder):
  data = data_config(files=f"{folder}/a.txt,{folder}/b.txt", holdout_every=2)
  said = message(open_stream, data, shard=(3, 4))
  assert "host 3 of 4" in said
  assert "divisible" in message(open_stream, data, batch_size=6, shard=(0, 4))


@pytest.mark.slow
def test_the_missing_extra_is_a_one_line_error():
  script = (
    "import sys; sys.modules['seqio'] = None\n"
    "from pausejax import errors\n"
    "try:\n  import pausejax.data.seqio\n"
    "except errors.UserError as e:\n  print(e)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, check=True
  )
  assert "install '.[seqio]'" in done.stdout
