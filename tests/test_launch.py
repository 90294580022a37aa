"""The launchers of this machine and SLURM, and the examples of all.

Words arrive as they are, and every end has its answer. `pausejax` and `srun`
are stand-ins here that record their words; the real SLURM is in
test_launch_slurm.py, the clouds are in test_launch_clouds.py.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from launch import words

ROOT = pathlib.Path(__file__).parent.parent
# What a shell, YAML or Kubernetes would make something else of.
HOSTILE = [
  "--config.a='a b'",
  '--config.b="$(touch pwned)" `touch pwned`',
  "--config.c=two\nlines\\\n\ttab ",
  "--config.d=$HOME ${PATH} $$ $(HOSTNAME) $$(HOSTNAME)",
  "--config.e=a;b&c|d>e<f*?[g]~!# {x,y} \\ %s %d",
  "--config.f={a: [1]} é",
  "--",
  "",
]
RECORDER = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["RECORD"], "a") as f:
  f.write(json.dumps(sys.argv[1:]) + "\\n")
"""


# The stand-in's other modules are the real ones.
REST = f"__path__.append({str(ROOT / 'pausejax')!r})\n"


@pytest.fixture
def recorded(tmp_path, monkeypatch):
  """Installs stand-ins for pausejax; returns their calls."""
  record = tmp_path / "record"
  for path in ("bin/pausejax", ".venv/bin/pausejax", "pausejax/__main__.py"):
    write_program(tmp_path / path, RECORDER)
  write_program(tmp_path / "pausejax/__init__.py", REST)
  monkeypatch.setenv("RECORD", str(record))
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  monkeypatch.chdir(tmp_path)
  yield lambda: [json.loads(line) for line in record.read_text().splitlines()]
  assert not (tmp_path / "pwned").exists()


def write_program(path: pathlib.Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


def examples_by_title() -> dict[str, str]:
  """The commands of each launcher's example in the README."""
  found = {}
  text = (ROOT / "launch/README.md").read_text()
  for title, section in re.findall(r"(?ms)^## (.*?)\n(.*?)(?=^## |\Z)", text):
    for commands in re.findall(r"(?ms)^```sh\n(.*?)^```", section):
      if "preflight" in commands:
        found[title] = commands
  return found


@pytest.mark.parametrize("title", examples_by_title())
def test_example_commands_of_the_readme_run(title, recorded, tmp_path):
  commands = examples_by_title()[title]
  for name in ("docker", "gcloud", "kubectl", "sbatch", "sky", "squeue"):
    write_program(tmp_path / "bin" / name, "#!/bin/sh\necho ACTIVE\n")
  for name in ("launch", "configs"):
    (tmp_path / name).symlink_to(ROOT / name)
  write_program(
    tmp_path / "bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'
  )
  subprocess.run(["bash", "-ec", commands], check=True)
  # Preflight comes first, for what is then trained; and it can be looked at.
  words = recorded()[0]
  assert words[0] == "preflight" and words[-1].startswith("--topology=")
  assert all(word in commands for word in words) and "--dry_run" in commands


def test_local_passes_arguments_on(recorded):
  train = ["--workdir=run", *HOSTILE]
  command = [sys.executable, "-m", "launch.local", "--processes=2", "--"]
  subprocess.run([*command, *train], check=True)
  assert recorded() == [["train", *train]] * 2


def test_local_dry_run_is_a_script(recorded):
  train = ["--workdir=run", *HOSTILE]
  command = [sys.executable, "-m", "launch.local", "--processes=2"]
  printed = subprocess.check_output([*command, "--dry_run", "--", *train])
  assert not pathlib.Path("record").exists()
  subprocess.run(["bash", "-c", printed], check=True)
  assert recorded() == [["train", *train]] * 2
  assert b"JAX_PROCESS_ID=1" in printed and b"JAX_NUM_PROCESSES=2" in printed


def test_local_stops_all_processes_and_returns_one_exit_code(tmp_path):
  """A signal reaches all; a process that remains is killed."""
  write_program(tmp_path / "pausejax/__init__.py", REST)
  write_program(
    tmp_path / "pausejax/__main__.py",
    "import os, signal, sys, time\n"
    "rank = int(os.environ['JAX_PROCESS_ID'])\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    "print('ready', flush=True)\n"
    "fails = [w[5:] for w in sys.argv if w.startswith('fail=')]\n"
    "if fails and rank == 0: sys.exit(int(fails[0]))\n"
    "if fails: sys.exit(143)\n"
    "if 'die' in sys.argv and rank == 1: os.kill(os.getpid(), 9)\n"
    "if 'die' in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "time.sleep(60)\n",
  )

  def start(*train):
    code = (
      "import sys; from launch import local; local.WAIT_S = 1;"
      "sys.exit(local.main(sys.argv[1:]))"
    )
    return subprocess.Popen(
      [sys.executable, "-c", code, "--processes=2", "--", *train],
      cwd=tmp_path,
      env={**os.environ, "PYTHONPATH": str(ROOT)},
      stdout=subprocess.PIPE,
      text=True,
    )

  process = start("--workdir=r")
  assert process.stdout is not None
  # Both write to one pipe: a line may stand inside the other.
  text = process.stdout.readline() + process.stdout.readline()
  assert text.count("ready") == 2 and text.count("[1] ") == 1
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=20) == 143
  began = time.monotonic()
  assert start("--workdir=r", "die").wait(timeout=20) == 128 + signal.SIGKILL
  assert time.monotonic() - began < 15
  for code, expected in ((1, 143), (2, 2), (3, 3), (4, 4)):
    assert start("--workdir=r", f"fail={code}").wait(timeout=20) == expected


def test_the_sbatch_script_has_a_dry_run():
  train = ["--workdir", "run", *HOSTILE]
  script = ["bash", str(ROOT / "launch/slurm.sbatch")]
  line = subprocess.check_output([*script, "--dry_run", *train], text=True)
  srun = f"srun() {{ printf '%s\\0' \"$@\"; }}; {line}"
  called = subprocess.check_output(["bash", "-c", srun], text=True)
  called = called.split("\0")[:-1]
  assert called[called.index("train") + 1 :] == train
  done = subprocess.run([*script, "--config=x"], capture_output=True, text=True)
  assert done.returncode == 2 and "no --workdir" in done.stderr


@pytest.mark.parametrize(
  ("code", "is_put_back"),
  [
    *((code, False) for code in (0, 130, *words.NOT_REPEATED)),
    *((code, True) for code in (143, 1, 134, 137)),
  ],
)
def test_the_sbatch_script_requeues_retryable_exit_codes_only(
  tmp_path, code, is_put_back
):
  """SLURM's own commands are stand-ins here; `test_launch_slurm` has it."""
  called = tmp_path / "called"
  programs = {
    "srun": f"exit {code}",
    "squeue": "echo RUNNING",
    "scontrol": f'echo "$@" >>{called}',
    "pausejax": "exit 1",
  }
  for name, text in programs.items():
    write_program(tmp_path / "bin" / name, f"#!/bin/bash\n{text}\n")
  path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
  done = subprocess.run(
    ["bash", ROOT / "launch/slurm.sbatch", f"--workdir={tmp_path / 'run'}"],
    env={**os.environ, "PATH": path, "SLURM_JOB_ID": "7"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == code, done.stderr
  assert called.exists() == is_put_back, done.stdout
  if is_put_back:
    assert called.read_text() == "requeue 7\n"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck here")
def test_shell_scripts_pass_shellcheck():
  scripts = [ROOT / "launch/slurm.sbatch", ROOT / "launch/demo.sh"]
  subprocess.run(["shellcheck", *scripts, ROOT / ".ci/run"], check=True)
