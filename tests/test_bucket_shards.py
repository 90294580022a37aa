"""Stores in a bucket that several machines build, or one builds again."""

import contextlib
import json
import os

import pytest

from pausejax import cli
from pausejax.buckets import lease
from pausejax.buckets.objects import Objects
from pausejax.data.pretraining import prepare
from pausejax.tasks import corpora
from tests import test_buckets

pytestmark = pytest.mark.slow  # They start servers.
store, url = test_buckets.store, test_buckets.url
fast_lease = test_buckets.fast_lease


def write_unit(folder, number: int, count: int) -> None:
  lines = [json.dumps({"text": f"{number} {i} " * 20}) for i in range(count)]
  (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
  """Five files, each a unit."""
  monkeypatch.setattr(corpora, "_UNIT_BYTES", 1)
  folder = tmp_path / "corpus"
  folder.mkdir()
  for number in range(5):
    write_unit(folder, number, 10 + number)
  return folder


@pytest.fixture
def build(corpus, tmp_path, monkeypatch):
  """Runs `pausejax segments` on a machine with a folder of its own."""

  def run(out, machine: str, *words: str) -> int:
    monkeypatch.setenv("PAUSEJAX_STAGING", str(tmp_path / machine))
    fields = {"task": "text", "files": corpus, "holdout_every": 4}
    argv = [f"--config.data.{k}={v}" for k, v in fields.items()]
    argv += ["--config=configs/smoke.py", f"--out={out}", *words]
    return cli.main(["segments", *argv])

  return run


def in_bucket(url) -> dict[str, bytes]:
  """Returns what a store has, without the notes on its units."""
  objects = Objects(url)
  names = [n for n in objects.sizes() if not n.startswith("units/")]
  return {name: objects.read(name) for name in names}


def on_disk(folder) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_machines_that_share_only_the_bucket_make_the_same_store(
  url, build, tmp_path, capsys
):
  assert build(tmp_path / "whole", "here") == 0
  for number in (2, 3):
    capsys.readouterr()
    assert build(url, f"machine{number}", f"--shard={number}/3") == 0
    said = capsys.readouterr().out
    assert f"shard {number}/3 is done; others are not" in said
    assert "index.json" not in Objects(url).sizes()
  assert build(url, "machine1", "--shard=1/3") == 0
  assert f"segments are in {url}" in capsys.readouterr().out
  assert in_bucket(url) == on_disk(tmp_path / "whole")
  # It downloaded no unit of another machine.
  records = (tmp_path / "machine1").rglob("train-0*.array_record")
  assert {p.name[6:11] for p in records} == {"00000", "00003"}
  before = Objects(url).versions()
  assert build(url, "machine4", "--shard=2/3") == 0
  assert Objects(url).versions() == before
  assert cli.main(["segments", f"--verify={url}"]) == 0
  (name, *_) = [n for n in Objects(url).sizes() if n.endswith("array_record")]
  Objects(url).write(name, b"other")
  capsys.readouterr()
  assert cli.main(["segments", f"--verify={url}"]) == 1
  assert f"BAD  {url}/{name} has 5 bytes" in capsys.readouterr().out


def test_of_two_that_finish_together_one_writes_the_index(
  url, build, monkeypatch, tmp_path, capsys
):
  write, is_first = prepare.write_segments, [True]

  def together(*args, **fields):
    index = write(*args, **fields)
    if is_first.pop() if is_first else False:
      staging = os.environ["PAUSEJAX_STAGING"]
      assert build(url, "second", "--shard=2/2") == 0
      assert "shard 2/2 is done; others are not" in capsys.readouterr().out
      monkeypatch.setenv("PAUSEJAX_STAGING", staging)
    return index

  monkeypatch.setattr(prepare, "write_segments", together)
  assert build(url, "first", "--shard=1/2") == 0
  assert f"segments are in {url}" in capsys.readouterr().out
  assert build(tmp_path / "whole", "here") == 0
  assert in_bucket(url) == on_disk(tmp_path / "whole")


def test_a_shard_is_built_by_one_machine_at_a_time(
  url, build, fast_lease, capsys
):
  objects = Objects(f"{url}/units/shard-1-of-2")
  with lease.hold_lease(objects, lambda: None, "--out"):
    assert build(url, "other", "--shard=1/2") == 1
    assert "units/shard-1-of-2" in capsys.readouterr().err
    assert build(url, "other", "--shard=2/2") == 0


@pytest.mark.parametrize("words", [(), ("--shard=1/1",), ("--shard=1/2",)])
@pytest.mark.parametrize("machine", ["same", "other"])
def test_a_unit_that_has_changed_is_built_and_uploaded_again(
  url, build, corpus, tmp_path, words, machine
):
  others = ["--shard=2/2"] * ("--shard=1/2" in words)
  assert build(url, "same", *words) == 0
  for other in others:
    assert build(url, "same", other) == 0
  before = in_bucket(url)
  write_unit(corpus, 2, 40)
  for number, more in enumerate([words, *[(other,) for other in others]]):
    assert build(url, f"{machine}{number}", *more) == 0
  assert build(tmp_path / "whole", "here") == 0
  assert before != in_bucket(url) == on_disk(tmp_path / "whole")


class Killed(BaseException):
  pass


def kill_at(patch, number: int) -> None:
  """Kills a machine in one of the writes to its store."""
  calls = iter(range(100))
  upload, delete = Objects.upload, Objects.delete

  def uploading(self, paths):
    if next(calls) == number:  # Half of them arrive.
      upload(self, dict([*paths.items()][: len(paths) // 2]))
      raise Killed
    upload(self, paths)

  def deleting(self, names):
    if "units/shard" not in self.url and next(calls) == number:
      raise Killed
    delete(self, names)

  patch.setattr(Objects, "upload", uploading)
  patch.setattr(Objects, "delete", deleting)


@pytest.mark.parametrize("number", range(5))
def test_a_machine_killed_while_it_uploads_leaves_nothing_wrong(
  url, store, build, corpus, tmp_path, monkeypatch, fast_lease, number
):
  shards = ["--shard=1/2", "--shard=2/2"]
  for shard in shards:
    assert build(url, "a", shard) == 0
  before = (corpus / "2.jsonl").read_text()
  write_unit(corpus, 2, 13)  # Its records have the same size.
  with monkeypatch.context() as patch:
    kill_at(patch, number)
    with contextlib.suppress(Killed):
      build(url, "a", shards[0])
  if store.scheme == "s3":  # The edit is undone.
    (corpus / "2.jsonl").write_text(before)
  else:
    write_unit(corpus, 2, 17)
  for machine in ("b", "a"):
    for shard in shards:
      assert build(url, machine, shard) == 0
  assert build(tmp_path / "whole", "here") == 0
  assert in_bucket(url) == on_disk(tmp_path / "whole")
  assert cli.main(["segments", f"--verify={url}"]) == 0


def test_machines_with_other_settings_do_not_share_a_store(
  url, build, monkeypatch, capsys
):
  write, is_first = prepare.write_segments, [True]

  def together(*args, **fields):
    index = write(*args, **fields)
    if is_first.pop() if is_first else False:
      staging = os.environ["PAUSEJAX_STAGING"]
      words = ("--shard=2/2", "--config.data.seq_len=64")
      assert build(url, "second", *words) == 0
      monkeypatch.setenv("PAUSEJAX_STAGING", staging)
    return index

  monkeypatch.setattr(prepare, "write_segments", together)
  assert build(url, "first", "--shard=1/2") == 1
  assert "a store with other settings" in capsys.readouterr().err
  for machine, words in (("third", ("--shard=1/2",)), ("fourth", ())):
    assert build(url, machine, *words) == 1
  assert "index.json" not in Objects(url).sizes()


@pytest.mark.parametrize("words", [(), ("--shard=1/2",)])
def test_a_store_is_not_built_over_a_run(url, build, words, capsys):
  Objects(url).write("config.json", b"{}")
  before = Objects(url).versions()
  assert build(url, "a", *words) == 1
  assert "has other objects, such as config.json" in capsys.readouterr().err
  assert Objects(url).versions() == before


@pytest.mark.parametrize("words", [(), ("--shard=1/2", "--shard=2/2")])
def test_what_the_corpus_no_longer_has_is_deleted(
  url, build, corpus, tmp_path, words
):
  for word in words or [None]:
    assert build(url, "a", *[word] * bool(word)) == 0
  (corpus / "4.jsonl").unlink()
  for machine in ("b", "a"):
    for word in words or [None]:
      assert build(url, machine, *[word] * bool(word)) == 0
  assert build(tmp_path / "whole", "here") == 0
  assert in_bucket(url) == on_disk(tmp_path / "whole")
  assert not [n for n in Objects(url).sizes() if "00004" in n]


def test_an_unfinished_store_has_no_index(url, build, corpus, tmp_path):
  for place in (url, tmp_path / "disk"):
    for shard in ("--shard=1/2", "--shard=2/2"):
      assert build(place, "a", shard) == 0
  write_unit(corpus, 0, 30)
  write_unit(corpus, 1, 30)
  for place in (url, tmp_path / "disk"):
    assert build(place, "a", "--shard=1/2") == 0
  assert "index.json" not in Objects(url).sizes()
  assert not (tmp_path / "disk" / "index.json").exists()
