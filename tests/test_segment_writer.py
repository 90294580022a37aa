"""Making a store: the bytes do not depend on who makes what, or on kills."""

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pausejax import errors, locks
from pausejax.data import batch, tokenizers
from pausejax.data.pretraining import prepare, segments
from pausejax.tasks import corpora, text_files
from tests.segment_stores import assert_one_line, contents

BYTES = tokenizers.load_tokenizer("bytes")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
  """Seven files, each a unit, one of them without a document to hold out."""
  monkeypatch.setattr(corpora, "_UNIT_BYTES", 1)
  folder = tmp_path / "corpus"
  folder.mkdir()
  rng = np.random.default_rng(0)
  for number in range(7):
    texts = ["x" * n for n in rng.integers(0, 200, 30)]
    texts = texts[:1] if number == 3 else texts
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / f"{number}.jsonl").write_text("".join(lines))
  return folder


@pytest.fixture
def data(corpus, data_config):
  return data_config(files=str(corpus), holdout_every=4)


@pytest.fixture
def whole(data, tmp_path):
  out = tmp_path / "whole"
  prepare.write_segments(data, BYTES, out)
  return out


def test_units_lose_no_token_and_leave_one_short_segment(data, whole):
  for split in corpora.SPLITS:
    store = segments.open_segments(whole, split, data, BYTES)
    rows = store.read(range(len(store)), batch.PADDING)
    is_short = (rows == batch.PADDING).any(axis=1)
    assert is_short.sum() <= 1 and not is_short[:-1].any()
    source = corpora.FileSource(
      train=data.files, validation="", field="text", holdout_every=4
    )
    texts = list(source.documents(split))
    ids = [i for doc in BYTES.encode(texts) for i in (*doc, BYTES.eos_id)]
    found = rows[rows != batch.PADDING]
    assert sorted(found) == sorted(ids)
    part = store.index[split]
    assert part["num_tokens"] == len(ids)
    assert part["num_documents"] == len(texts)
    assert part["num_segments"] == len(store)
    # The unit without documents of a split has no file at all.
    assert "validation-00003.array_record" not in str(part["shards"])


def test_shards_of_many_machines_make_one_store(data, whole, tmp_path):
  for count in (2, 3, 20):
    out = tmp_path / str(count)
    order = list(range(1, count + 1))
    random.Random(count).shuffle(order)
    made = [
      prepare.write_segments(data, BYTES, out, shard=(index, count))
      for index in order
    ]
    assert made[0] is None and made[-1] is not None
    assert contents(out) == contents(whole)


def test_one_process_reads_the_corpus_once(data, tmp_path, monkeypatch):
  opened = collections.Counter()
  opener = text_files._open_text

  def counting(path):
    opened[path] += 1
    return opener(path)

  monkeypatch.setattr(text_files, "_open_text", counting)
  prepare.write_segments(data, BYTES, tmp_path / "once")
  assert set(opened.values()) == {1} and len(opened) == 7
  # Another machine counts the files before its own, each once.
  opened.clear()
  prepare.write_segments(data, BYTES, tmp_path / "shared", shard=(2, 2))
  assert set(opened.values()) <= {1, 2} and opened.total() < 11
  opened.clear()
  prepare.write_segments(data, BYTES, tmp_path / "shared", shard=(1, 2))
  assert opened.total() == 4


class Killed(Exception):
  pass


@pytest.mark.parametrize("seed", range(3))
def test_an_interrupted_build_resumes_from_any_point(
  data, whole, tmp_path, seed
):
  out, rng, done = tmp_path / "out", random.Random(seed), 0
  for _ in range(100):
    left = rng.randrange(8)

    def report(progress):
      nonlocal left, done
      assert progress.num_done >= done
      done, left = progress.num_done, left - 1
      if left < 0:
        raise Killed

    try:
      prepare.write_segments(data, BYTES, out, report)
      break
    except Killed:
      assert not (out / "index.json").exists()
  assert done == 7
  assert contents(out) == contents(whole)


def test_progress_counts_what_this_call_read(data, tmp_path):
  seen = []

  def report(progress):
    seen.append(
      (progress.num_done, progress.num_documents, progress.num_tokens)
    )

  index = prepare.write_segments(data, BYTES, tmp_path / "out", report)
  totals = [
    sum(index[split][name] for split in corpora.SPLITS)
    for name in ("num_documents", "num_tokens")
  ]
  assert seen[0] == (0, 0, 0) and seen[-1] == (7, *totals)
  seen.clear()
  prepare.write_segments(data, BYTES, tmp_path / "out", report)
  assert seen == [(7, 0, 0)]


def test_only_units_of_changed_files_are_rebuilt(data, corpus, whole, tmp_path):
  with (corpus / "5.jsonl").open("a") as f:
    f.write('{"text": "one more"}\n')
  done = []
  prepare.write_segments(data, BYTES, whole, lambda p: done.append(p.num_done))
  # A document more moves the places of those after it.
  assert done[0] == 5
  prepare.write_segments(data, BYTES, tmp_path / "fresh")
  assert contents(whole) == contents(tmp_path / "fresh")


def test_a_bad_document_stops_the_build_and_finished_units_are_kept(
  data, corpus, tmp_path
):
  out, bad = tmp_path / "out", corpus / "4.jsonl"
  good = bad.read_text()
  bad.write_text(good + '{"text": \n')
  with pytest.raises(errors.UserError, match=r"4\.jsonl:31"):
    prepare.write_segments(data, BYTES, out)
  with pytest.raises(errors.UserError, match="no segments at"):
    segments.open_segments(out, "train", data, BYTES)
  bad.write_text(good)
  done = []
  prepare.write_segments(data, BYTES, out, lambda p: done.append(p.num_done))
  assert done[0] == 4 and done[-1] == 7


def test_two_jobs_in_one_folder_are_an_error(data, data_config, tmp_path):
  out = tmp_path / "out"
  prepare.write_segments(data, BYTES, out, shard=(1, 2))
  other = data_config(files=data.files, holdout_every=4, seq_len=64)
  with pytest.raises(errors.UserError) as raised:
    prepare.write_segments(other, BYTES, out)
  assert_one_line(raised, str(out), "segment_len is 32, this run needs 64")
  with locks.hold(out / "units" / "lock-1-of-1", ""):
    with pytest.raises(errors.UserError, match="another process is building"):
      prepare.write_segments(data, BYTES, out)
    prepare.write_segments(data, BYTES, out, shard=(2, 2))


def command(data, out, tmp_path, *more):
  """Returns a command that makes `data`, a unit of each file."""
  (tmp_path / "small_units.py").write_text(
    "from pausejax.tasks import corpora\ncorpora._UNIT_BYTES = 1\n"
  )
  fields = {
    "tasks_module": "small_units",
    "data.task": "text",
    "data.files": data.files,
    "data.holdout_every": 4,
    "data.seq_len": 32,
    "loss.num_chunks": 1,
  }
  words = [f"--config.{name}={value}" for name, value in fields.items()]
  words += ["--config=configs/smoke.py", f"--out={out}", *more]
  environment = {
    **os.environ,
    "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
  }
  return subprocess.Popen(
    [sys.executable, "-m", "pausejax", "segments", *words],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env=environment,
  )


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_bytes(data, whole, tmp_path):
  for num_workers in (2, 3):
    out = tmp_path / f"of-{num_workers}"
    run = command(data, out, tmp_path, f"--num_workers={num_workers}")
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    assert "segments are in" in output
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_a_build_killed_at_any_time_resumes(data, whole, tmp_path):
  out, rng = tmp_path / "killed", random.Random(1)
  for _ in range(3):
    run = command(data, out, tmp_path, "--num_workers=2")
    time.sleep(rng.uniform(0.8, 2.5))
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=60)  # Workers hold the pipe: they ended, too.
  run = command(data, out, tmp_path, "--num_workers=2")
  assert run.communicate(timeout=120) and run.returncode == 0
  assert contents(out) == contents(whole)


@pytest.mark.slow
def test_an_error_in_a_worker_is_reported_as_a_user_error(
  data, corpus, tmp_path
):
  (corpus / "4.jsonl").write_text("nonsense\n" * 9)
  run = command(data, tmp_path / "out", tmp_path, "--num_workers=2")
  output, _ = run.communicate(timeout=120)
  assert run.returncode == 1
  assert "4.jsonl:1: malformed JSON" in output and "Traceback" not in output
