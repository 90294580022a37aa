"""Runs whose workdir is in an object store that runs here, with faults."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

import pausejax
from pausejax import cli, errors
from pausejax.buckets import layout, lease, mirror, stores
from pausejax.buckets.objects import Objects
from pausejax.config import DataConfig
from pausejax.data import tokenizers
from pausejax.data.pretraining import segments
from pausejax.runtime import metric_rows
from tests import object_store, processes

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 12


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
  path = tmp_path_factory.mktemp("data") / "documents.jsonl"
  lines = [{"text": f"{i} waits before it answers " * 9} for i in range(60)]
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return path


def settings(documents: pathlib.Path) -> dict:
  return {
    "model.num_layers": 1,
    "model.d_model": 32,
    "model.num_heads": 2,
    "data.task": "text",
    "data.files": str(documents),
    "data.seq_len": 32,
    "batch_size": 8,
    "num_steps": STEPS,
    "checkpoint.every": 4,
    "checkpoint.keep": 9,
    "eval.every": 0,
    "log.every": 1,
  }


def command(documents, workdir) -> list[str]:
  words = [f"--config.{k}={v}" for k, v in settings(documents).items()]
  return [
    *(sys.executable, "-m", "pausejax", "train"),
    *(f"--config={ROOT / 'configs' / 'smoke.py'}", f"--workdir={workdir}"),
    *words,
  ]


def train(documents, workdir, folder, **options) -> subprocess.CompletedProcess:
  return subprocess.run(
    command(documents, workdir),
    env={
      **processes.environment(0, 1, 0, 1),
      "PAUSEJAX_STAGING": str(folder),
    },
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    **options,
  )


def config(documents):
  made = pausejax.config.load_config(str(ROOT / "configs" / "smoke.py"))
  with made.unlocked():
    made.update_from_flattened_dict(settings(documents))
  return made


@pytest.fixture(scope="module")
def quiet(documents, tmp_path_factory):
  """A run of the same settings on a disk, without a disturbance."""
  workdir = tmp_path_factory.mktemp("quiet") / "run"
  done = train(documents, workdir, workdir)
  assert done.returncode == 0, done.stderr
  return workdir


def losses(rows) -> dict[int, float]:
  return {row["step"]: row["loss"] for row in rows if "loss" in row}


def require_equal(url: str, quiet: pathlib.Path, folder: pathlib.Path) -> None:
  """Asserts that losses and digests are those of the quiet run, to the bit."""
  objects = Objects(url)
  names = objects.sizes()
  (folder / "lines").write_bytes(
    b"".join(objects.read(n) for n in sorted(names) if "metrics.jsonl/" in n)
  )
  expected = losses(metric_rows.read_rows(quiet / "metrics.jsonl"))
  assert losses(metric_rows.read_rows(folder / "lines")) == expected
  assert len(expected) == STEPS
  name = layout.step_name(STEPS, "meta/meta.json")
  meta = json.loads((quiet / name).read_bytes())
  assert json.loads(objects.read(name))["digests"] == meta["digests"]


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request):
  with (
    pytest.MonkeyPatch.context() as patch,
    object_store.running(request.param, patch) as link,
  ):
    link.scheme = request.param
    yield link


@pytest.fixture
def url(store, request):
  name = "".join(c if c.isalnum() else "_" for c in request.node.name)
  yield f"{store.scheme}://{object_store.BUCKET}/{name}/run"
  store.on_data = lambda data: None
  store.mend()


def test_a_run_killed_while_saving_resumes_bit_for_bit(
  url, store, documents, quiet, tmp_path
):
  process = subprocess.Popen(
    command(documents, url),
    env={
      **processes.environment(0, 1, 0, 1),
      "PAUSEJAX_STAGING": str(tmp_path / "first"),
    },
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    cwd=ROOT,
  )

  def kill(data: bytes) -> None:
    if b"checkpoints/8/params/_METADATA" in data:
      os.kill(process.pid, signal.SIGKILL)

  store.on_data = kill
  assert process.wait() == -signal.SIGKILL
  store.on_data = lambda data: None
  names = Objects(url).sizes()
  assert layout.committed_steps(names) == [4]
  # Another machine has no copy of what the killed one had written.
  done = train(documents, url, tmp_path / "second")
  assert done.returncode == 0, done.stderr
  assert "resuming from step 4" in done.stdout
  assert "taking over" in done.stderr
  assert object_store.SECRET not in done.stdout + done.stderr
  require_equal(url, quiet, tmp_path)
  assert layout.committed_steps(Objects(url).sizes()) == [4, 8, 12]


def test_a_store_that_is_away_while_saving_is_survived(
  url, store, documents, quiet, tmp_path
):
  cuts = []

  def cut(data: bytes) -> None:
    if b"checkpoints/8/params/_METADATA" in data and not cuts:
      cuts.append(data)
      store.cut()
      threading.Timer(5, store.mend).start()

  store.on_data = cut
  done = train(documents, url, tmp_path / "run")
  assert done.returncode == 0, done.stderr
  assert cuts and "Traceback" not in done.stderr
  require_equal(url, quiet, tmp_path)
  assert layout.committed_steps(Objects(url).sizes()) == [4, 8, 12]


def test_a_step_that_cannot_be_copied_is_reported_and_does_not_exist(
  url, documents, tmp_path, monkeypatch, capfd
):
  monkeypatch.setenv("PAUSEJAX_STAGING", str(tmp_path))
  monkeypatch.setattr(mirror, "_RETRY_SECONDS", 0.0)
  monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)  # It is always renewed.
  upload, read, away = Objects.upload, Objects.read, []

  def refuse(self, paths):
    if any("checkpoints/4/" in name for name in paths):
      away.append(1)
      raise OSError(5, "the store is away", url)
    upload(self, paths)

  def read_or_refuse(self, name):
    if away:  # The lease cannot be read, either.
      away.pop()
      raise OSError(5, "the store is away", url)
    return read(self, name)

  monkeypatch.setattr(Objects, "upload", refuse)
  monkeypatch.setattr(Objects, "read", read_or_refuse)
  metrics = pausejax.train(config(documents), url)
  line = f"step 4 was not saved in {url}/checkpoints: the store is away"
  assert line in capfd.readouterr().err
  assert layout.committed_steps(Objects(url).sizes()) == [8, 12]
  assert metrics["step"][-1] == STEPS


def test_programs_read_a_run_in_a_bucket(
  url, documents, tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv("PAUSEJAX_STAGING", str(tmp_path / "copies"))
  trained = pausejax.train(config(documents), url)
  assert (pausejax.read_metrics(url)["step"] == trained["step"]).all()
  run = pausejax.load(f"{url}", 8)
  assert run.step == 8 and url in repr(run)
  assert len(run.generate(["waits"], max_new_tokens=2)) == 1
  assert not [*run.workdir.glob("checkpoints/*/opt_state/**/d/*")]
  with pytest.raises(errors.UserError, match=r"no step 5 in .*8, 12"):
    pausejax.load(url, 5)
  made = config(documents)
  made.num_steps = 1
  pausejax.train(made, tmp_path / "next", init_from=url)
  assert f"parameters from step 12 of {url}" in capsys.readouterr().out
  saved = json.loads((tmp_path / "next" / "config.json").read_bytes())
  assert saved["init_from"] == url


def test_a_damaged_step_is_set_aside_in_the_bucket(
  url, documents, quiet, tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv("PAUSEJAX_STAGING", str(tmp_path))
  made = config(documents)
  made.stop_at_step = 8
  pausejax.train(made, url)
  name = layout.step_name(8, "meta/meta.json")
  Objects(url).write(name, Objects(url).read(name).replace(b"8", b"9"))
  made.stop_at_step = 0
  pausejax.train(made, url)
  assert "resuming from step 4" in capsys.readouterr().out
  names = Objects(url).sizes()
  assert layout.committed_steps(names) == [4, 8, 12]
  assert "set_aside/8-0/meta/meta.json" in names
  # What a run that was killed in a save left there.
  Objects(url).write(layout.step_name(16, "params/d/x"), b"1")
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert cli.main(["checkpoint", "ls", url, "--json"]) == 0
  (listed,) = json.loads(capsys.readouterr().out)
  states = {s["folder"]: (s["state"], s["reason"]) for s in listed["steps"]}
  assert [states[f"checkpoints/{i}"][0] for i in (4, 8, 12)] == ["complete"] * 3
  assert states["checkpoints/16"] == ("incomplete", "it lacks committed.json")
  assert states["set_aside/8-0"][0] == "set aside"
  assert "meta.sha256" in states["set_aside/8-0"][1]
  assert cli.main(["checkpoint", "verify", url]) == 0
  assert "3 of 3 steps are intact" in capsys.readouterr().out
  assert cli.main(["checkpoint", "diff", url]) == 1
  assert f"B: {url}/checkpoints/8" in capsys.readouterr().out
  array = max(n for n in names if n.startswith("checkpoints/8/params/d/"))
  Objects(url).write(array, Objects(url).read(array)[:-9])
  assert cli.main(["checkpoint", "verify", url]) == 3
  assert f"{url}/checkpoints/8: DAMAGED" in capsys.readouterr().out


def test_exports_to_a_bucket_are_refused(store, documents):
  made = config(documents)
  made.checkpoint.export_every = 4
  with pytest.raises(errors.UsageError, match=r"checkpoint.export_every"):
    pausejax.train(made, f"{store.scheme}://{object_store.BUCKET}/e/run")


def test_two_processes_share_one_lease_and_one_copy(
  store, url, documents, tmp_path
):
  started = processes.start(
    [command(documents, url)] * 2,
    tmp_path / "logs",
    devices=1,
    PAUSEJAX_STAGING=str(tmp_path / "copies"),
  )
  logs = [tmp_path / "logs" / f"{i}.log" for i in range(2)]
  codes = [process.wait() for process in started]
  assert codes == [0, 0], [log.read_text() for log in logs]
  assert layout.committed_steps(Objects(url).sizes()) == [4, 8, 12]


def test_a_store_in_a_bucket_is_built_read_and_verified(
  store, url, documents, tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv("PAUSEJAX_STAGING", str(tmp_path / "first"))
  words = [f"--config={ROOT / 'configs' / 'smoke.py'}"]
  words += [
    f"--config.{name}={value}"
    for name, value in settings(documents).items()
    if name.startswith("data.")
  ]
  assert cli.main(["segments", *words, f"--out={url}"]) == 0
  assert f"segments are in {url}" in capsys.readouterr().out
  names = Objects(url).sizes()
  assert "index.json" in names and not [n for n in names if "lock" in n]
  # Another machine reads it, and builds nothing a second time.
  monkeypatch.setenv("PAUSEJAX_STAGING", str(tmp_path / "second"))
  before = Objects(url).versions()
  assert cli.main(["segments", *words, f"--out={url}"]) == 0
  assert Objects(url).versions() == before
  assert cli.main(["segments", f"--verify={url}"]) == 0
  data = DataConfig(**{**config(documents).data, "segments_dir": url})
  read = segments.open_segments(
    url, "train", data, tokenizers.load_tokenizer("bytes")
  )
  assert len(read.read([0, 1], 0)) == 2
  # Without its index, it is no store.
  Objects(url).delete(["index.json"])
  with pytest.raises(errors.UserError, match=f"no store in {url}"):
    stores.local_store(url, "data.segments_dir")
