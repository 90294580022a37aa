"""Runs in a bucket whose processes share no folder, as on most TPU pods."""

import json
import pathlib
import signal
import subprocess

import pytest

import pausejax
from pausejax import cli
from pausejax.buckets import layout
from pausejax.buckets.objects import Objects
from pausejax.checkpoints import upgrade
from tests import processes, test_bucket_runs
from tests.test_bucket_runs import STEPS, command, require_equal

pytestmark = pytest.mark.slow
documents, store = test_bucket_runs.documents, test_bucket_runs.store
url = test_bucket_runs.url


def start(documents, workdir, folder, hosts) -> list[subprocess.Popen]:
  """Starts two processes, each of which keeps copies in a folder of its own.

  Args:
    documents: the text.
    workdir: of the run.
    folder: gets the logs.
    hosts: the folders of both.
  """
  words = [*command(documents, workdir), "--config.mesh.fsdp=2"]
  commands = [["env", f"PAUSEJAX_STAGING={host}", *words] for host in hosts]
  return processes.start(commands, folder, devices=1)


def hosts(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
  return [folder / f"{name}-{i}" for i in range(2)]


@pytest.fixture(scope="module")
def quiet_pair(documents, tmp_path_factory):
  """The same run of two processes on a disk, without a disturbance."""
  folder = tmp_path_factory.mktemp("pair")
  run = folder / "run"
  started = start(documents, run, folder / "logs", hosts(folder, "x"))
  assert processes.wait(started) == [0, 0], processes.logs(folder / "logs")
  return run


def test_hosts_that_share_no_folder_save_and_resume_together(
  url,
  store,
  documents,
  quiet_pair,
  tmp_path,
  monkeypatch,
  capsys,
):
  started = start(documents, url, tmp_path / "first", hosts(tmp_path, "a"))

  def kill(data: bytes) -> None:
    if b"checkpoints/8/params/" in data:
      started[1].send_signal(signal.SIGKILL)

  store.on_data = kill
  codes = processes.wait(started)
  store.on_data = lambda data: None
  assert codes[1] == -signal.SIGKILL and codes[0] != 0, processes.logs(
    tmp_path / "first"
  )
  assert layout.committed_steps(Objects(url).sizes()) == [4]
  # Other machines, whose folders are empty; with s3, the processes share one.
  others = hosts(tmp_path, "b")
  others = others if store.scheme == "gs" else others[:1] * 2
  started = start(documents, url, tmp_path / "second", others)
  logs = tmp_path / "second"
  assert processes.wait(started) == [0, 0], processes.logs(logs)
  said = processes.logs(logs)[0]
  assert "resuming from step 4" in said
  assert ("the processes share no folder" in said) == (store.scheme == "gs")
  require_equal(url, quiet_pair, tmp_path)
  names = Objects(url).sizes()
  assert layout.committed_steps(names) == [4, 8, 12]
  assert "segments/index.json" in names
  meta = json.loads(Objects(url).read("checkpoints/4/meta/meta.json"))
  assert meta["format"] == upgrade.FORMAT_OF_SHARDS
  mark = json.loads(Objects(url).read("checkpoints/4/committed.json"))
  of_step = layout.of_step(names, 4)
  assert mark == {name: names[name] for name in of_step}
  shards = [name for name in of_step if layout.is_array(name)]
  assert shards
  # A step in which a process cannot read a shard is set aside by all.
  of_last = [n for n in layout.of_step(names, 12) if layout.is_array(n)]
  Objects(url).delete([max(of_last, key=names.__getitem__)])
  started = start(documents, url, tmp_path / "third", hosts(tmp_path, "c"))
  logs = tmp_path / "third"
  assert processes.wait(started) == [0, 0], processes.logs(logs)
  assert "12 was set aside" in processes.logs(logs)[0]
  assert layout.committed_steps(Objects(url).sizes()) == [4, 8, 12]
  # Programs read it, and notice that a shard is missing or has changed.
  monkeypatch.setenv("PAUSEJAX_STAGING", str(tmp_path / "reader"))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert pausejax.load(url).step == STEPS
  assert cli.main(["checkpoint", "verify", url]) == 0
  assert "3 of 3 steps are intact" in capsys.readouterr().out
  largest = max(shards, key=names.__getitem__)
  content = Objects(url).read(largest)
  for damaged in (None, content[:-1], bytes([content[0] ^ 1]) + content[1:]):
    Objects(url).delete([largest])
    if damaged is not None:
      Objects(url).write(largest, damaged)
    assert cli.main(["checkpoint", "verify", url, "--step=4"]) == 3
    assert f"{url}/checkpoints/4: DAMAGED" in capsys.readouterr().out
