"""The launchers: words arrive as they are, and every end has its answer.

`pausejax`, `gcloud` and `srun` are stand-ins here that record their words; the
real SLURM is in test_launch_slurm.py.
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
import yaml

from launch import gke, skypilot, tpu_vm, words

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


def output(main, *args, capsys) -> str:
  """Returns what the launcher prints with --dry_run."""
  assert main([*args]) == 0
  return capsys.readouterr().out


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


GKE = ["--name=a-run", "--image=registry/i:1", "--topology=4x4x8"]
GKE += ["--accelerator=tpu-v5p-slice", "--slices=2", "--spot", "--dry_run"]


def jobset(capsys, *train) -> dict:
  args = [*GKE, "--", "--workdir=/workdir/run", *train]
  return yaml.safe_load(output(gke.main, *args, capsys=capsys))


def expanded_by_kubernetes(text: str, variables: dict[str, str]) -> str:
  """Replaces $(NAME) and $$ as Kubernetes does in a command."""

  def value(found):
    if found[0] == "$$":
      return "$"
    return variables.get(found[1], found[0])

  return re.sub(r"\$\$|\$\(([^)]*)\)", value, text)


def test_a_jobset_passes_arguments_on(capsys):
  pod = jobset(capsys, *HOSTILE)["spec"]["replicatedJobs"][0]["template"]
  command = pod["spec"]["template"]["spec"]["containers"][0]["command"]
  seen = [expanded_by_kubernetes(w, {"HOSTNAME": "pod"}) for w in command]
  assert seen == ["pausejax", "train", "--workdir=/workdir/run", *HOSTILE]


def text_schema(**fields):
  return {
    "type": "object",
    "properties": fields,
    "required": list(fields),
    "additionalProperties": False,
  }


STRING, COUNT = {"type": "string", "minLength": 1}, {"minimum": 1}
JOBSET = text_schema(
  apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
  kind={"const": "JobSet"},
  metadata=text_schema(
    name={"pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
    annotations={"additionalProperties": STRING},
  ),
  spec=text_schema(
    failurePolicy=text_schema(
      maxRestarts={"type": "integer", "minimum": 0},
      rules={
        "items": {
          "type": "object",
          "properties": {
            "name": {"pattern": "^[A-Za-z][A-Za-z0-9_,:]*$"},
            "action": {
              "enum": ["FailJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
            },
            "onJobFailureReasons": {"const": ["PodFailurePolicy"]},
            "onJobFailureMessagePatterns": {"items": STRING},
          },
          "required": ["name", "action", "onJobFailureReasons"],
          "additionalProperties": False,
        }
      },
    ),
    replicatedJobs={
      "minItems": 1,
      "items": text_schema(
        name=STRING,
        replicas={"type": "integer", **COUNT},
        template=text_schema(spec={"type": "object"}),
      ),
    },
  ),
)


def test_the_jobset_and_its_job_are_valid(capsys):
  """The Job by Kubernetes' own schema, the envelope by the one above."""
  kubernetes = pytest.importorskip("kubernetes_validate")
  jsonschema = pytest.importorskip("jsonschema")
  template = yaml.safe_load(gke.TEMPLATE.read_text())
  for found in (template, jobset(capsys, *HOSTILE)):
    jsonschema.validate(found, JOBSET)
    for replicated in found["spec"]["replicatedJobs"]:
      job = {"apiVersion": "batch/v1", "kind": "Job", **replicated["template"]}
      job["metadata"] = {"name": found["metadata"]["name"]}
      kubernetes.validate(job, kubernetes.latest_version(), strict=True)


@pytest.mark.parametrize(
  ("code", "action"),
  [
    *((code, "FailJobSet") for code in words.NOT_REPEATED),
    (143, "RestartJobSetAndIgnoreMaxRestarts"),
    *((code, None) for code in (1, 134, 137)),  # At most maxRestarts times.
  ],
)
def test_a_jobset_retries_retryable_exit_codes_only(capsys, code, action):
  spec = jobset(capsys)["spec"]
  job = spec["replicatedJobs"][0]["template"]["spec"]
  rules = job["podFailurePolicy"]["rules"]
  failing = [
    f"failed with exit code {code} matching FailJob rule at index {index}"
    for index, rule in enumerate(rules)
    if code in rule.get("onExitCodes", {"values": []})["values"]
  ]
  actions = [
    rule["action"]
    for rule in spec["failurePolicy"]["rules"]
    for pattern in rule.get("onJobFailureMessagePatterns", [""])
    if failing and re.search(pattern, failing[0])
  ]
  assert actions[:1] == ([action] if action else [])
  assert job["backoffLimit"] == 0 < spec["failurePolicy"]["maxRestarts"]


def test_a_jobset_has_the_machines_of_its_slices(capsys):
  slices = jobset(capsys)["spec"]["replicatedJobs"][0]
  job = slices["template"]["spec"]
  assert slices["replicas"] == 2
  assert job["parallelism"] == job["completions"] == 4 * 4 * 8 // 4
  pod = job["template"]["spec"]
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
    "cloud.google.com/gke-tpu-topology": "4x4x8",
    "cloud.google.com/gke-spot": "true",
  }
  assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}


def test_a_run_in_a_bucket_needs_no_volume(capsys):
  words = ["--dry_run", "--", "--config=x.py", "--workdir=gs://bucket/run"]
  assert gke.main([*GKE, *words]) == 0
  jobset = yaml.safe_load(capsys.readouterr().out)
  (slices,) = jobset["spec"]["replicatedJobs"]
  pod = slices["template"]["spec"]["template"]["spec"]
  (container,) = pod["containers"]
  assert "volumes" not in pod and "volumeMounts" not in container
  assert container["command"][-1] == "--workdir=gs://bucket/run"
  assert skypilot.main(words) == 0
  task = yaml.safe_load(capsys.readouterr().out)
  assert "volumes" not in task and "gs://bucket/run" in task["run"]
  words += ["--config.data.tokenizer=/workdir/x.model"]
  for main, args in ((gke.main, GKE), (skypilot.main, [])):
    assert main([*args, *words]) == 0
    assert "volumes:" in capsys.readouterr().out


def test_a_workdir_that_is_not_shared_is_refused(capsys):
  for main, args in ((gke.main, GKE), (skypilot.main, [])):
    with pytest.raises(SystemExit) as e:
      main([*args, "--", "--workdir=runs/a"])
    assert e.value.code == 2
    assert "neither below /workdir" in capsys.readouterr().err


@pytest.mark.parametrize(
  "word, error",
  [
    ("--topology=3x3", "9 chips, not a multiple of --chips_per_machine=4"),
    ("--topology=16", "expected a topology such as 16x16"),
    ("--slices=0", "not a positive integer"),
    ("--name=A_run", "lower-case letters"),
  ],
)
def test_an_impossible_jobset_is_refused(word, error, capsys):
  with pytest.raises(SystemExit) as e:
    gke.main([*GKE, word, "--", "--workdir=/workdir/run"])
  assert e.value.code == 2 and error in capsys.readouterr().err


GCLOUD = f"""#!{sys.executable}
# Plays the states of a queued resource: each line of the file `plan` is one
# life, the states that `describe` tells one after the other. An ssh runs its
# command as the remote shell would, unless the life goes on behind ACTIVE.
import json, pathlib, subprocess, sys
home = pathlib.Path(__file__).parent
with (home / "calls").open("a") as f:
  f.write(json.dumps(sys.argv[1:]) + "\\n")
plan, life = home / "plan", home / "life"
verb = sys.argv[4]
if verb == "create":
  first, *rest = plan.read_text().splitlines()
  plan.write_text("\\n".join(rest))
  life.write_text(first)
elif verb == "delete":
  life.unlink()
elif not life.exists():
  sys.exit("NOT_FOUND")
elif verb == "describe":
  state, *rest = life.read_text().split()
  if rest and state != "ACTIVE":
    life.write_text(" ".join(rest))
  print(state)
elif verb == "ssh":
  state, *rest = life.read_text().split()
  if rest:
    life.write_text(" ".join(rest))
    sys.exit(1)
  command = sys.argv[-1].removeprefix("--command=")
  sys.exit(subprocess.run(["bash", "-c", command]).returncode)
"""
TPU_VM = ["--name=n", "--zone=z", "--accelerator_type=v4-8"]
TPU_VM += ["--runtime_version=r", "--spot"]


@pytest.fixture
def gcloud(recorded, tmp_path, monkeypatch):
  """Installs a gcloud that simulates the given states; returns its calls."""
  write_program(tmp_path / "bin/gcloud", GCLOUD)
  monkeypatch.setattr(tpu_vm, "POLL_S", 0)
  calls = tmp_path / "bin/calls"

  def play(lives, setup="true"):
    (tmp_path / "bin/plan").write_text("\n".join(lives))
    train = ["--workdir=/mnt/run", *HOSTILE]
    code = tpu_vm.main([*TPU_VM, f"--setup={setup}", "--", *train])
    return code, [json.loads(line) for line in calls.read_text().splitlines()]

  return play


def test_a_preempted_slice_is_requested_again(gcloud, recorded):
  code, calls = gcloud(
    [
      "CREATING WAITING_FOR_RESOURCES PROVISIONING ACTIVE SUSPENDING SUSPENDED",
      "WAITING_FOR_RESOURCES SUSPENDED",
      "WAITING_FOR_RESOURCES ACTIVE",
    ],
    setup="cd . && export X='a b'",
  )
  assert code == 0
  verbs = [call[3] for call in calls if call[3] != "describe"]
  assert verbs == [
    *("create", "ssh", "delete"),
    *("create", "delete"),
    *("create", "ssh", "delete"),
  ]
  assert recorded() == [["train", "--workdir=/mnt/run", *HOSTILE]]
  create = next(call for call in calls if call[3] == "create")
  assert "--spot" in create and "--node-id=n" in create


@pytest.mark.parametrize("expected", words.NOT_REPEATED)
def test_after_an_error_the_slice_stays_and_its_deletion_is_explained(
  gcloud, capfd, expected
):
  code, calls = gcloud(["ACTIVE"], setup=f"exit {expected}")
  assert code == expected and [c[3] for c in calls].count("ssh") == 1
  assert "delete" not in [c[3] for c in calls]
  assert "queued-resources delete n --zone=z" in capfd.readouterr().out


def test_a_crash_on_a_healthy_slice_is_tried_three_times(gcloud):
  code, calls = gcloud(["ACTIVE"], setup="exit 134")
  assert code == 134 and [c[3] for c in calls].count("ssh") == 3


def test_a_dry_run_changes_nothing(recorded, tmp_path, capsys):
  write_program(tmp_path / "bin/gcloud", GCLOUD)
  args = [*TPU_VM, "--setup=true", "--dry_run", "--", "--workdir=/mnt/run"]
  lines = output(tpu_vm.main, *args, *HOSTILE, capsys=capsys)
  assert not (tmp_path / "bin/calls").exists()
  # Each is a command that a shell reads as it is meant.
  (tmp_path / "bin/plan").write_text("ACTIVE")
  subprocess.run(["bash", "-ec", lines], check=True)
  assert recorded() == [["train", "--workdir=/mnt/run", *HOSTILE]]


def test_skypilot_passes_arguments_on(recorded, capsys):
  train = ["--workdir=/workdir/run", *HOSTILE]
  printed = output(skypilot.main, "--dry_run", "--", *train, capsys=capsys)
  task = yaml.safe_load(printed)
  places = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
  places |= {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
  subprocess.run(
    ["bash", "-c", task["run"]], env={**os.environ, **places}, check=True
  )
  assert recorded() == [["train", *train]]


def test_skypilot_retries_exit_code_143_only():
  task = yaml.safe_load(skypilot.TEMPLATE.read_text())
  recovery = task["resources"]["job_recovery"]
  assert recovery["recover_on_exit_codes"] == [143]
  assert recovery["max_restarts_on_errors"] == 0  # It would repeat 3 and 4.


def test_skypilot_reads_its_task():
  sky = pytest.importorskip("sky", reason="SkyPilot is not installed")
  task = sky.Task.from_yaml(str(skypilot.TEMPLATE))
  assert task.num_nodes == 2
