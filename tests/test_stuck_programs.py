"""Programs that hang in a run or in reading one end with 143, named.

What hangs is a stand-in, a sleep: in the reading of arrays, in a bucket, on a
device.
"""

import shutil
import sys
import time

import pytest

from tests import processes, toys

pytestmark = pytest.mark.slow

LIMIT = 4  # Seconds, from when it hangs: a busy machine is slow before.
OF_RUN = 4321  # Of a phase.
HANGS = """
import sys, time
from pausejax import cli
from pausejax.config import WatchdogConfig
from pausejax.runtime import watchdog
def hang(*args, **kwargs):
  limits = WatchdogConfig(step_seconds={limit}, phase_seconds={limit})
  before = watchdog._current.limit(limits)
  print(f"hangs, limit before: {{before.phase_seconds}} s", flush=True)
  time.sleep(1000)
{patch}
sys.exit(cli.main(sys.argv[1:]))
"""
READING = "from pausejax.checkpoints import arrays\narrays.read_arrays = hang"
LOCATING = """
from pausejax.checkpoints import folders
folders.locate_checkpoint = hang
"""
ANSWERING = (
  "from pausejax.evaluation import answers\nanswers.Predictor.answer = hang"
)
SCORING = """
from pausejax.evaluation import plain_text
plain_text.score_documents = hang
"""
PROBING = "from pausejax.probe import measure\nmeasure.Prober.unchanged = hang"
GENERATING = "from pausejax.inference import decode\ndecode.generate = hang"
EXPORTING = "from pausejax.interop import export\nexport.write_export = hang"
COMPARING = "from pausejax.checkpoints import arrays\narrays.read_some = hang"
COLLECTING = "from pausejax.runtime import metric_rows\nmetric_rows.scan = hang"
RUN = "--checkpoint=RUN"
EVALUATE = ("evaluate", "--task=stdlib_choice", "--limit=4", "--pauses=0", RUN)
PROBE = ("probe", "--task=stdlib_choice", "--limit=4", "--pauses=2", RUN)
TEXT = ("evaluate", "--text=CORPUS", "--limit=1", RUN)
GENERATE = ("generate", "--prompt=a", RUN)
EXPORT = ("export", "--out=OUT", RUN)
LM_EVAL = ("lm-eval", "--tasks=pausejax_gsm8k", RUN)
CHECKPOINT = ("checkpoint", "verify", "RUN")
REPORT = ("report", "RUN")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run of a few steps, with a limit of its own."""
  folder = tmp_path_factory.mktemp("trained")
  toys.write_corpus(folder / "corpus")
  toys.finish(command(folder, folder / "run"))
  return folder


def command(folder, workdir, *more: str) -> list[str]:
  return toys.command(
    folder / "corpus",
    workdir,
    "--config.num_steps=2",
    "--config.data.seq_len=512",
    "--config.model.max_seq_len=512",
    "--config.model.mlp=swiglu",
    "--config.model.bias=false",
    f"--config.watchdog.phase_seconds={OF_RUN}",
    *more,
  )


@pytest.mark.parametrize(
  ("words", "patch", "phase"),
  [
    (("train",), LOCATING, "starting, step 0"),
    (("train",), READING, "restoring, step 0"),
    (EVALUATE, LOCATING, "starting, step 0"),
    (EVALUATE, READING, "restoring, step 2"),
    (EVALUATE, ANSWERING, "evaluating, step 2"),
    (TEXT, SCORING, "evaluating, step 2"),
    (PROBE, READING, "restoring, step 2"),
    (PROBE, PROBING, "evaluating, step 2"),
    (GENERATE, LOCATING, "starting, step 0"),
    (GENERATE, READING, "restoring, step 2"),
    (GENERATE, GENERATING, "generating, step 2"),
    (EXPORT, READING, "restoring, step 2"),
    (EXPORT, EXPORTING, "exporting, step 2"),
    (LM_EVAL, READING, "restoring, step 2"),
    (CHECKPOINT, COMPARING, "comparing, step 2"),
    (REPORT, COLLECTING, "reading, step 0"),
  ],
)
def test_it_ends_with_143_and_names_the_phase(
  trained, tmp_path, words, patch, phase
):
  run, verb = tmp_path / "run", words[0]
  if verb == "lm-eval":
    pytest.importorskip("lm_eval")
  shutil.copytree(trained / "run", run)
  if verb == "train":
    words = command(trained, run, "--config.num_steps=4")[3:]
  else:
    out, corpus = tmp_path / "out", trained / "corpus"
    words = [w.replace("OUT", str(out)) for w in words]
    words = [w.replace("CORPUS", str(corpus)) for w in words]
    words = [w.replace("RUN", str(run)) for w in words]
  code = HANGS.format(patch=patch, limit=LIMIT)
  started = processes.start(
    [[sys.executable, "-c", code, *words]], tmp_path / "logs", devices=1
  )
  while "hangs" not in processes.logs(tmp_path / "logs", 1)[0]:
    assert started[0].poll() is None, processes.logs(tmp_path / "logs", 1)
    time.sleep(0.02)
  began = time.monotonic()
  assert processes.wait(started, 100) == [143]
  assert time.monotonic() - began < 2 * LIMIT
  (log,) = processes.logs(tmp_path / "logs", 1)
  (line,) = [s for s in log.splitlines() if " is stuck: " in s]
  assert f"phase {phase}, for " in line and f"limit {LIMIT} s" in line
  assert " in hang\n" in log  # The stacks.
  # Only `train` has its limits on the command line.
  is_unread = patch is LOCATING or verb in ("checkpoint", "report")
  before = 3600 if is_unread and verb != "train" else OF_RUN
  assert f"hangs, limit before: {before} s" in log
  assert not (tmp_path / "out").exists()
