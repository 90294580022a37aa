"""A URL where a path of this machine belongs: refused, and nothing is made."""

import pathlib
import subprocess

import pytest

from launch import gke, local, skypilot, tpu_vm
from pausejax import cli, errors

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = f"--config={ROOT / 'configs' / 'smoke.py'}"
STUDY = f"--config={ROOT / 'configs' / 'study_smoke.py'}"
COMMANDS = [
  ["train", SMOKE, "--workdir=run", "--config.data.local_dir=URL"],
  ["train", SMOKE, "--workdir=run", "--config.data.tokenizer=URL"],
  ["train", SMOKE, "--workdir=run", "--config.data.files=a.txt,URL"],
  ["train", "--config=URL", "--workdir=run"],
  ["study", STUDY, "--workdir=URL"],
  ["report", "--workdir=.", "--out=URL"],
  ["evaluate", "--checkpoint=run", "--out=URL"],
  ["evaluate", "--checkpoint=run", "--local_dir=URL"],
  ["tokenizer", "train", SMOKE, "--out=URL"],
  ["inspect", "--task=squad", "--html=URL"],
  ["inspect", "--task=squad", "--json=URL"],
  ["checkpoint", "repair", "URL", "--step=1"],
  ["preflight", SMOKE, "--topology=v5e-8", "--json=URL"],
  ["score", "--task=squad", "--predictions=p.json", "--out=URL"],
]
# These may be in a bucket (docs/buckets.md).
IN_BUCKET = [
  ["train", SMOKE, "--workdir=URL"],
  ["train", SMOKE, "--workdir", "URL"],
  ["train", SMOKE, "--workdir=run", "--init_from=URL"],
  ["train", SMOKE, "--workdir=run", "--config.init_from=URL"],
  ["segments", SMOKE, "--out=URL"],
  ["checkpoint", "ls", "URL"],
  ["checkpoint", "verify", "URL"],
  ["checkpoint", "diff", "URL"],
  ["checkpoint", "diff", "run", "URL"],
  ["report", "URL"],
  ["report", "--workdir=URL"],
  ["evaluate", "--checkpoint=URL"],
  ["generate", "--checkpoint=URL", "--prompt=see https://example.org"],
]


@pytest.mark.parametrize("words", IN_BUCKET, ids=" ".join)
def test_a_url_with_credentials_or_without_a_folder_is_refused(
  words, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  for url in ("s3://key:the-secret@bucket/run", "s3://bucket"):
    assert cli.main([word.replace("URL", url) for word in words]) == 2
    error = capsys.readouterr().err
    assert "expected s3://BUCKET/FOLDER" in error and "the-secret" not in error
    assert len(error.splitlines()) == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("words", "url"),
  [
    *((w, u) for w in COMMANDS for u in ("gs://bucket/x", "s3://bucket/x")),
    *((w, u) for w in COMMANDS + IN_BUCKET for u in ("gs:/b/x", "az://b/x")),
  ],
  ids=str,
)
def test_every_verb_refuses_a_url(words, url, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert cli.main([word.replace("URL", url) for word in words]) == 2
  error = capsys.readouterr().err
  assert "which is not a path on this machine" in error
  assert len(error.splitlines()) == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("launcher", "own"),
  [
    (local, ["--processes=2"]),
    (gke, ["--name=a", "--image=i", "--accelerator=t", "--topology=2x2"]),
    (
      tpu_vm,
      [
        *("--name=a", "--zone=z", "--accelerator_type=t"),
        *("--runtime_version=r", "--setup=true"),
      ],
    ),
    (skypilot, ["--accelerator=v4-8"]),
  ],
)
@pytest.mark.parametrize(
  "words",
  [
    ["--workdir=hdfs://b/x"],
    ["--workdir=gs:/bucket/x"],
    ["--workdir=gs://key:the-secret@bucket/x"],
    ["--workdir=/workdir/a", "--init_from", "s3://b"],
  ],
)
def test_every_launcher_refuses_a_url_that_names_no_bucket(
  launcher, own, words, capsys
):
  with pytest.raises(SystemExit) as left:
    launcher.main([*own, "--dry_run", "--", "--config=x.py", *words])
  assert left.value.code == 2
  error = capsys.readouterr().err
  is_named = "not a path on this machine" in error or "BUCKET/FOLDER" in error
  assert is_named and "the-secret" not in error


@pytest.mark.parametrize(
  "words", [["--workdir=gs://b/x"], ["--workdir", "s3://b/x"]]
)
def test_the_slurm_script_refuses_a_url(words, tmp_path):
  script = ROOT / "launch" / "slurm.sbatch"
  done = subprocess.run(
    ["bash", str(script), "--dry_run", "--config=x.py", *words],
    capture_output=True,
    text=True,
    check=False,
    cwd=tmp_path,
  )
  assert done.returncode == 2 and "not a path on this machine" in done.stderr
  assert not list(tmp_path.iterdir())


def test_credentials_in_a_refused_url_are_not_repeated():
  with pytest.raises(errors.UsageError) as raised:
    errors.require_local("--out", "s3://key:the-secret@bucket/x")
  assert "the-secret" not in raised.value.message


def test_a_path_that_resembles_a_url_is_accepted():
  for path in ("", "runs/a:b", "/data/x://y", "C:/x", "./gs:x"):
    errors.require_local("--workdir", path)
