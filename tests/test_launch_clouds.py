"""The launchers for GKE, TPU VMs and SkyPilot; `gcloud` is a stand-in."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from launch import gke, skypilot, tpu_vm, words
from tests import test_launch
from tests.test_launch import HOSTILE, write_program

recorded = test_launch.recorded


def output(main, *args, capsys) -> str:
  """Returns what the launcher prints with --dry_run."""
  assert main([*args]) == 0
  return capsys.readouterr().out


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
