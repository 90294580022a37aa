"""Messages of wrong command lines: one line, the same words in every verb."""

import pytest

import pausejax
from pausejax import cli, errors


def refused(argv: list[str], capfd, exit_code: int = 2) -> str:
  """Returns the only line that a refused command prints."""
  assert cli.main(argv) == exit_code
  out, err = capfd.readouterr()
  assert out == "" and len(err.splitlines()) == 1, (out, err)
  return err


@pytest.fixture
def runs(tmp_path, monkeypatch):
  """A folder with an empty run, another folder, and a file."""
  (tmp_path / "run" / "checkpoints").mkdir(parents=True)
  (tmp_path / "text").mkdir()
  (tmp_path / "file").touch()
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize(
  ("spec", "exit_code", "words"),
  [
    ("runn", 2, "no folder 'runn'; did you mean 'run'?"),
    ("runn/checkpoints/3", 2, "did you mean 'run'?"),
    ("file", 2, "'file' is a file, not the folder of a run"),
    ("text", 1, "no checkpoint in"),
    ("run", 1, "no checkpoint in"),
    ("run/checkpoints/3", 1, "no step 3 in"),
  ],
)
def test_a_missing_run_is_refused_in_the_same_words_everywhere(
  spec, exit_code, words, runs, capfd
):
  train = ["train", "--config=finetune:task=gsm8k", "--workdir=new"]
  lines = [
    refused([*argv, f"--{option}={spec}"], capfd, exit_code).strip()
    for argv, option in (
      (["evaluate"], "checkpoint"),
      (["generate", "--prompt=x"], "checkpoint"),
      (train, "init_from"),
    )
  ]
  with pytest.raises(errors.UserError) as e:
    pausejax.load(spec)
  lines.append(f"pausejax: {e.value.message}")
  assert words in lines[0]
  assert len({line.split(": ", 2)[2] for line in lines}) == 1
  assert not (runs / "new").exists()
