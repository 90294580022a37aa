"""Back to an earlier step, without some batches: `train --rollback_to`."""

import pytest

from pausejax import cli
from tests import toys

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("text") / "corpus"
  toys.write_corpus(folder)
  return folder


@pytest.fixture
def train(corpus, tmp_path, capfd):
  """Runs in this process; returns (exit code, what it printed)."""

  def run(name: str, *more: str) -> tuple[int, str]:
    command = toys.command(
      corpus,
      tmp_path / name,
      "--config.checkpoint.every=2",
      "--config.eval.num_batches=0",
      "--config.log.every=1",
      *more,
    )
    code = cli.main(command[3:])
    printed = capfd.readouterr()
    return code, printed.out + printed.err

  return run


def by_step(workdir, key: str) -> dict[int, float]:
  return {row["step"]: row[key] for row in toys.rows(workdir)}


def test_a_rolled_back_run_is_one_that_never_saw_the_batches(train, tmp_path):
  end = "--config.num_steps=12"
  skip = "--config.skip_batches=7:8"
  code, text = train("expected", end, skip)
  assert code == 0, text
  expected = by_step(tmp_path / "expected", "loss")
  assert by_step(tmp_path / "expected", "batch") == {
    n: n if n < 7 else n + 2 for n in range(1, 13)
  }

  workdir = tmp_path / "run"
  code, text = train("run", end, "--config.stop_at_step=10")
  assert code == 0, text
  assert "batch" not in toys.rows(workdir)[0]
  code, text = train("run", end, skip)
  assert code == 2 and "skip_batches: got '7:8'" in text
  code, text = train("run", end, skip, "--rollback_to=7")
  assert code == 2 and "available: 2, 4, 6, 8, 10" in text

  back = (end, skip, "--rollback_to=6")
  code, text = train("run", *back, "--config.stop_at_step=9")
  assert code == 0, text
  assert "rollback from step 10 to step 6; batches left out: 7:8" in text
  assert "moved to set_aside: 8, 10" in text
  folders = {p.name for p in (workdir / "set_aside").iterdir() if p.is_dir()}
  assert {"8-0", "10-0"} <= folders
  meta = toys.last_meta(workdir)
  assert meta["step"] == 9
  record = {"to": 6, "before": 10, "skip_batches": "7:8"}
  assert meta["rollbacks"] == [record]
  # Saves of the steps that had been saved before, too.
  assert (workdir / "checkpoints" / "8").is_dir()

  # The same command, as a launcher repeats it: no second rollback.
  code, text = train("run", *back, "--config.stop_at_step=9")
  assert code == 0 and "rollback from" not in text and "nothing to do" in text
  # Without the arguments, a resumed run keeps what is left out.
  code, text = train("run", end)
  assert code == 0, text
  assert by_step(workdir, "loss") == expected
  ours, theirs = (toys.last_meta(tmp_path / n) for n in ("run", "expected"))
  assert ours["digests"] == theirs["digests"]
  assert ours["rollbacks"] == [record] and "rollbacks" not in theirs
  assert ours["config"]["skip_batches"] == "7:8"

  # The batches are trained on after all: the losses are those of the start.
  none = "--config.skip_batches=none"
  code, text = train("run", end, none)
  assert code == 2 and "skip_batches: got 'none'" in text
  code, text = train("run", end, none, "--rollback_to=6")
  assert code == 0 and "batches left out: none" in text, text
  code, text = train("whole", end)
  assert code == 0, text
  assert by_step(workdir, "loss") == by_step(tmp_path / "whole", "loss")
  assert "batch" not in toys.rows(workdir)[-1]
