"""Two processes go back to a step together, and resume from one step only."""

import pytest

from tests import processes, toys
from tests.test_processes_runs import (  # noqa: F401
  begin,
  finish,
  losses,
  prepared,
  quiet,
)

pytestmark = pytest.mark.slow

# The second process still sees the folder as it was before the last save.
OLDER_IN_SECOND = """
from pausejax.checkpoints import saved_run
from pausejax.training import inputs
def older(workdir):
  step = 4 if os.environ["JAX_PROCESS_ID"] == "1" else 8
  return saved_run.find_run(f"{workdir}/checkpoints/{step}")
inputs._own_checkpoint = older
"""


def steps(workdir) -> set[str]:
  return {p.name for p in (workdir / "checkpoints").iterdir()}


def test_a_rollback_and_other_resumed_steps(prepared, quiet, tmp_path):  # noqa: F811
  workdir = tmp_path / "run"
  finish(prepared, workdir, 2, "--config.stop_at_step=8")
  before = steps(workdir)
  started = begin(prepared, workdir, 2, hook=OLDER_IN_SECOND)
  assert processes.wait(started, 100) == [2, 2]
  for log in processes.logs(tmp_path / "run-logs"):
    assert "the processes of this run differ: checkpoint to resume " in log
    assert "from is 4 in process 1 and 8 in process 0" in log
  assert steps(workdir) == before >= {"4", "8"}

  finish(prepared, workdir, 2, "--rollback_to=4")
  assert losses(workdir) == losses(quiet)
  metas = [toys.last_meta(run) for run in (workdir, quiet)]
  assert metas[0]["digests"] == metas[1]["digests"]
  assert metas[0]["rollbacks"] == [{"to": 4, "before": 8, "skip_batches": ""}]
  assert {p.name for p in (workdir / "set_aside").glob("*-0")} == {"8-0"}
