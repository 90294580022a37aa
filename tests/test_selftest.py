"""`pausejax selftest`: what is broken is named, and no file is left."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from pausejax import cli, errors
from pausejax.selftest import disk, ports, readers, runs, toy
from tests import processes, saved_steps

COMMAND = [sys.executable, "-m", "pausejax", "selftest"]


def fails(words, **options) -> str:
  """Returns the line that a failing command prints."""
  done = subprocess.run(
    words, capture_output=True, text=True, check=False, **options
  )
  assert done.returncode == 1, done.stderr
  (line,) = done.stderr.splitlines()
  assert line.startswith("pausejax: selftest FAILED: ")
  assert "PASSED" not in done.stdout
  return line


# Replaces read(2) for the file `probe`: an I/O error, or one wrong bit.
FAULTY_READ = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
ssize_t read(int fd, void *bytes, size_t size) {
  ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  path[length > 0 ? length : 0] = 0;
  int is_probe = length > 6 && !strcmp(path + length - 6, "/probe");
  if (is_probe && !strcmp(getenv("FAULT"), "error")) {
    errno = EIO;
    return -1;
  }
  ssize_t got = real(fd, bytes, size);
  if (is_probe && got > 9) ((char *)bytes)[9] ^= 1;
  return got;
}
"""


@pytest.fixture(scope="module")
def faulty_read(tmp_path_factory):
  if sys.platform != "linux" or not shutil.which("gcc"):
    pytest.skip("needs gcc on Linux")
  folder = tmp_path_factory.mktemp("preload")
  (folder / "read.c").write_text(FAULTY_READ)
  library = folder / "read.so"
  subprocess.run(
    ["gcc", "-shared", "-fPIC", "-o", library, folder / "read.c", "-ldl"],
    check=True,
  )
  return library


@pytest.mark.slow
@pytest.mark.parametrize(
  ("fault", "message"),
  [
    ("error", "Input/output error"),
    ("flip", "does not hold the bytes that were written (first at 9 of"),
  ],
)
def test_a_disk_that_reads_wrong_is_named(
  fault, message, faulty_read, tmp_path
):
  workdir = tmp_path / "new" / "runs"
  variables = {"LD_PRELOAD": str(faulty_read), "FAULT": fault}
  line = fails(
    [*COMMAND, f"--workdir={workdir}"], env={**os.environ, **variables}
  )
  assert message in line and str(workdir) in line
  assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_file_that_cannot_be_written_whole_is_named(tmp_path):
  limited = ["bash", "-c", 'ulimit -f 4000; exec "$@"', "-", *COMMAND]
  line = fails([*limited, f"--workdir={tmp_path}"])
  assert "File too large" in line and str(tmp_path) in line
  assert not [*tmp_path.iterdir()]


@contextlib.contextmanager
def mounted(folder: pathlib.Path, options: str):
  """Mounts a file system in memory; skips the test where that is forbidden."""
  words = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
  done = subprocess.run(words, capture_output=True, check=False)
  if done.returncode:
    pytest.skip("may not mount file systems")
  try:
    yield
  finally:
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named(tmp_path, capsys):
  with mounted(tmp_path, "size=1m"):
    assert cli.main(["selftest", f"--workdir={tmp_path}"]) == 1
    line = capsys.readouterr().err
    assert f"disk: {tmp_path}" in line and "1.0 MB free" in line
    assert len(line.splitlines()) == 1 and not [*tmp_path.iterdir()]


def test_a_folder_that_is_read_only_is_named(tmp_path, capsys):
  folder = tmp_path / "runs"
  folder.mkdir()
  tmp_path.chmod(0o755)
  folder.chmod(0o555)
  with saved_steps.without_rights():
    assert cli.main(["selftest", f"--workdir={folder}"]) == 1
  line = capsys.readouterr().err
  assert "Permission denied" in line and str(folder) in line
  assert not [*folder.iterdir()]


def test_a_wrong_command_line_is_one_line(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  file = tmp_path / "file"
  file.touch()
  for words in (
    ["--workdir="],
    ["--workdir=s3://b/x"],
    [f"--workdir={file}"],
    ["run"],
    ["--kep"],
  ):
    assert cli.main(["selftest", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
  assert [*tmp_path.iterdir()] == [file]


def test_a_good_folder_passes(tmp_path):
  assert "read back" in disk.check_disk(tmp_path)
  assert "times of files are" in disk.check_clock(tmp_path)
  assert not [p for p in tmp_path.iterdir() if p.name != "probe"]


def test_ports_of_a_process_are_listed():
  assert ports.listeners(os.getpid()) is not None
  for host in ("127.0.0.1", "::1", "0.0.0.0", "::"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
      opened = socket.create_server((host, 0), family=family)
    except OSError:  # No IPv6 here.
      continue
    with opened:
      port = opened.getsockname()[1]
      (address,) = (
        a for a in ports.listeners(os.getpid()) if a.endswith(f":{port}")
      )
      assert ports.is_loopback(address) == (host in ("127.0.0.1", "::1"))
  with pytest.raises(errors.UserError, match=r"no port of 192\.0\.2\.1 can be"):
    ports.free_port("192.0.2.1")  # Reserved for documentation.
  assert ports.free_port("127.0.0.1") > 0


def write_rows(workdir, losses):
  workdir.mkdir(exist_ok=True)
  lines = [json.dumps({"step": s, "loss": x}) for s, x in losses.items()]
  (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_runs_that_differ_or_did_nothing_are_no_success(tmp_path):
  equal = {step: 1.0 for step in range(1, toy.NUM_STEPS + 1)}
  for a, b, what in [
    ({}, {}, "in number: 0 of 60 losses"),
    (equal, {**equal, 7: 1.0 + 2**-40}, "from step 7 on"),
    (equal, {s: x for s, x in equal.items() if s != 9}, "from step 9 on"),
  ]:
    write_rows(tmp_path / "a", a)
    write_rows(tmp_path / "b", b)
    with pytest.raises(errors.UserError, match=f"a and b differ {what}"):
      toy.compare_runs(tmp_path / "a", tmp_path / "b")


def test_a_process_is_killed_in_the_phase_that_was_asked_for(tmp_path):
  workdir, log = tmp_path / "run", tmp_path / "log"
  partial = workdir / "checkpoints" / "5.orbax-checkpoint-tmp"
  script = f"import os, time; time.sleep(0.2); os.makedirs({str(partial)!r}); "
  saves = [sys.executable, "-c", f"{script} time.sleep(60)"]
  began = time.monotonic()
  with toy.child(saves, log, {}) as process:
    hit = toy.kill_when(
      lambda: bool(toy.saving_steps(workdir)), process, workdir
    )
  assert hit == "saving" and time.monotonic() - began < 30
  with toy.child([sys.executable, "-c", ""], log, {}) as process:
    assert toy.kill_when(lambda: False, process, workdir) == ""
  sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
  with toy.child(sleeps, log, {}) as process:
    assert toy.kill_when(lambda: True, process, tmp_path) == "training"


def test_rows_of_an_earlier_start_do_not_count_as_training(tmp_path):
  write_rows(tmp_path / "run", {step: 1.0 for step in range(1, 30)})
  log = tmp_path / "log"
  is_due = runs._is_due(tmp_path / "run", log, "training", 18)
  assert not is_due()
  log.write_text("resuming from step 15: newest intact checkpoint (15)\n")
  assert not is_due()
  log.write_text(log.read_text() + "train step: loaded in 1.2 s from x\n")
  assert is_due()
  (tmp_path / "run/checkpoints/30.orbax-checkpoint-tmp").mkdir(parents=True)
  assert not is_due()
  assert runs._is_due(tmp_path / "run", log, "saving", 18)()
  assert not runs._is_due(tmp_path / "run", log, "saving", 30)()


def test_a_step_that_a_kill_damaged_is_a_failure(tmp_path):
  log = tmp_path / "log"
  log.write_text("resuming from step 40: newest intact checkpoint (40)\n")
  assert toy.resumed_from(log) == 40
  log.write_text("starting at step 0: no checkpoint\n")
  assert toy.resumed_from(log) == 0
  log.write_text("resuming from step 8: newest; 12 was set aside: it lacks x\n")
  with pytest.raises(errors.UserError, match="12 was set aside: it lacks x"):
    toy.resumed_from(log)


def test_what_a_reader_returns_is_compared_with_what_was_saved(tmp_path):
  saved, older = {"a": np.ones(3)}, {"a": np.zeros(3)}
  other = {"a": np.array([1, 1, 1 + 2**-50])}

  def refuse(workdir):
    raise errors.CheckpointUnusable("damaged")

  for reader, outcome in [
    (refuse, "detected"),
    (lambda w: older, "detected"),
    (lambda w: saved, "no effect"),
    (lambda w: other, "silent"),
    (lambda w: {"a": np.ones(3, np.float32)}, "silent"),
    (lambda w: {}, "silent"),
  ]:
    assert readers._outcome(reader, tmp_path, saved, older) == outcome


@pytest.mark.slow
def test_the_whole_selftest(tmp_path):
  done = subprocess.run(
    [*COMMAND, f"--workdir={tmp_path}"],
    capture_output=True,
    text=True,
    check=False,
    env=processes.environment(0, 1, 0, devices=1),
  )
  assert done.returncode == 0, done.stdout + done.stderr
  *_, counts, last = done.stdout.splitlines()
  assert last.startswith("PASSED in ")
  assert "killed" in counts and "nothing differed" in counts
  numbers = re.search(r"(\d+) killed, (\d+) resumed from a step", counts)
  assert numbers and min(map(int, numbers.groups())) >= 2
  assert not [*tmp_path.iterdir()]
