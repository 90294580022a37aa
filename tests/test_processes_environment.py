"""Which variables of a launcher start several processes, or are refused."""

import pytest

from pausejax import errors
from pausejax.runtime import environment

PLAIN = {
  "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
  "JAX_NUM_PROCESSES": "4",
  "JAX_PROCESS_ID": "3",
}
SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_NTASKS": "2",
  "SLURM_STEP_NODELIST": "node[1-2]",
}


@pytest.fixture
def variables(monkeypatch):
  """Sets the variables of a launcher, and no others."""
  for name in (*PLAIN, *SLURM, "JOB_COMPLETION_INDEX"):
    monkeypatch.delenv(name, raising=False)

  def set_all(found):
    for name, value in found.items():
      monkeypatch.setenv(name, value)

  return set_all


@pytest.mark.parametrize(
  "found",
  [
    {},
    {"JAX_NUM_PROCESSES": "1"},
    {"SLURM_JOB_ID": "7"},
    {**SLURM, "SLURM_NTASKS": "1"},
    {**SLURM, "SLURM_NTASKS": ""},
  ],
)
def test_one_process_runs_alone(variables, found):
  variables(found)
  assert environment.process_arguments() is None


def test_plain_variables_are_sufficient(variables):
  variables(PLAIN | SLURM)  # And win.
  found = environment.process_arguments()
  assert found["coordinator_address"] == "10.0.0.1:1234"
  assert (found["num_processes"], found["process_id"]) == (4, 3)


@pytest.mark.parametrize(
  ("host", "is_own"),
  [
    ("127.0.0.1", True),
    ("localhost", True),
    ("127.0.0.2", True),
    ("203.0.113.9", False),  # For documentation: no machine has it.
    ("node1", False),
  ],
)
def test_a_run_listens_at_an_address_of_its_machine_alone(
  variables, host, is_own
):
  variables(PLAIN | {"JAX_COORDINATOR_ADDRESS": f"{host}:1"})
  found = environment.process_arguments()
  assert found["coordinator_bind_address"] == (f"{host}:1" if is_own else None)


@pytest.mark.parametrize(
  ("tasks_per_node", "expected"),
  [
    ("2", {}),  # JAX gives each its GPU.
    ("4(x2)", {}),
    ("1(x2)", {"local_device_ids": []}),  # All GPUs of the node.
    ("1", {"local_device_ids": []}),
  ],
)
def test_jax_initializes_from_slurm_variables(
  variables, tasks_per_node, expected
):
  variables({**SLURM, "SLURM_STEP_TASKS_PER_NODE": tasks_per_node})
  assert environment.process_arguments() == expected


@pytest.mark.parametrize(
  ("found", "fragment"),
  [
    ({"JAX_NUM_PROCESSES": "2"}, "not set: JAX_COORDINATOR_ADDRESS, JAX_PROC"),
    ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "not set: JAX_NUM_PROCESSES"),
    ({**PLAIN, "JAX_PROCESS_ID": "4"}, "a number below it, got '4' and '4'"),
    ({**PLAIN, "JAX_NUM_PROCESSES": "x"}, "got 'x' and '3'"),
    ({**PLAIN, "JAX_COORDINATOR_ADDRESS": "node"}, "HOST:PORT, got 'node'"),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, "not started by srun"),
    ({**SLURM, "SLURM_NTASKS": "two"}, "a whole number, got 'two'"),
    ({"JOB_COMPLETION_INDEX": "0"}, "JAX_NUM_PROCESSES=1 runs alone"),
  ],
)
def test_an_incomplete_environment_is_refused(variables, found, fragment):
  variables(found)
  with pytest.raises(errors.UsageError, match=fragment):
    environment.process_arguments()


@pytest.mark.parametrize("text", ["2", "x", "nan", "-1", "1e9"])
def test_an_impossible_timeout_is_refused(monkeypatch, text):
  monkeypatch.setenv("PAUSEJAX_PEER_TIMEOUT", text)
  with pytest.raises(errors.UsageError, match="PAUSEJAX_PEER_TIMEOUT"):
    environment.peer_timeout()
  monkeypatch.setenv("PAUSEJAX_PEER_TIMEOUT", "")
  assert environment.peer_timeout() == 30
