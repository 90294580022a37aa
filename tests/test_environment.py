"""Garbage in the variables that name the processes of a run: one line."""

import os
import subprocess
import sys

import pytest

from pausejax import errors, locks
from pausejax.runtime import distributed, environment

PLAIN = {
  "JAX_COORDINATOR_ADDRESS": "127.0.0.1:8476",
  "JAX_NUM_PROCESSES": "2",
  "JAX_PROCESS_ID": "1",
}
SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_NTASKS": "2",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "0",
  "SLURM_STEP_NODELIST": "node[1-2]",
}
GARBAGE = ["x", "-1", "1.5", "\u00b2", " ", "0x2", "1e3", "nan", "9" * 400]


@pytest.fixture
def put(monkeypatch):
  """Sets the variables of a run, and no others."""
  for name in [*PLAIN, *SLURM, "JOB_COMPLETION_INDEX"]:
    monkeypatch.delenv(name, raising=False)

  def put(values):
    for name, value in values.items():
      monkeypatch.setenv(name, value)

  return put


@pytest.mark.parametrize("value", ["", *GARBAGE])
@pytest.mark.parametrize("name", [*PLAIN, *SLURM])
def test_every_value_of_every_variable_works_or_is_one_line(name, value, put):
  put({**(PLAIN if name in PLAIN else SLURM), name: value})
  try:
    environment.process_arguments()
  except errors.UsageError as e:
    assert "\n" not in e.message and name.partition("_")[0] in e.message
  else:
    # Set and empty is as not set; any text may name a node.
    assert value == "" or name == "SLURM_STEP_NODELIST"


def test_an_empty_number_of_tasks_is_one_process(put):
  put({"SLURM_JOB_ID": "7", "SLURM_NTASKS": ""})
  assert environment.process_arguments() is None


@pytest.mark.parametrize(
  "address", ["host", ":1", "host:", "host:0", "host:65536", "host:x", "a:-1"]
)
def test_an_invalid_address_is_named(address, put):
  put({**PLAIN, "JAX_COORDINATOR_ADDRESS": address})
  with pytest.raises(errors.UsageError, match="expected HOST:PORT") as failed:
    environment.process_arguments()
  assert repr(address) in failed.value.message


def test_two_processes_with_one_number_are_named(put, tmp_path, monkeypatch):
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  put(PLAIN)
  monkeypatch.setattr(distributed, "_id_lock", None)
  distributed._lock_process_id(environment.process_arguments())
  code = (
    "import sys; from pausejax import cli; "
    "sys.exit(cli.main(['train', '--config=c', '--workdir=w']))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env=dict(os.environ),
    check=False,
  )
  assert done.returncode == 2
  assert done.stderr == (
    "pausejax: JAX_PROCESS_ID is 1 in two processes of the run at "
    "127.0.0.1:8476; give each one its own, from 0 to 1\n"
  )
  # Another number, or another run, is no conflict.
  held = distributed._id_lock
  distributed._lock_process_id(
    {**environment.process_arguments(), "process_id": 0}
  )
  (name,) = (p for p in tmp_path.iterdir() if p.name.endswith("-1.lock"))
  assert locks.take(name) is None
  held.close()
  assert locks.take(name) is not None
