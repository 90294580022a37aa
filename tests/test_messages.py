"""Messages of wrong command lines: one line, the same words in every verb."""

import pytest

import pausejax
from pausejax import cli, errors, locks


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


@pytest.mark.parametrize("exists", [False, True])
def test_an_error_leaves_a_folder_as_it_was(exists, tmp_path):
  folder = tmp_path / "a" / "run"
  if exists:
    folder.mkdir(parents=True)
    (folder / "lock").touch()
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(KeyError), locks.unused_removed(folder, "store.json"):
    (folder / "segments" / "units").mkdir(parents=True)
    (folder / "segments" / "units" / "store.json").touch()
    (folder / "segments" / "units" / "lock-1").touch()
    (folder / "lock").touch()
    raise KeyError
  assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["unit.json", "lock"])
def test_an_error_removes_neither_data_nor_a_lock_in_use(name, tmp_path):
  folder = tmp_path / "run"
  with pytest.raises(KeyError), locks.unused_removed(folder):
    (folder / "units").mkdir(parents=True)
    (folder / "units" / name).touch()
    held = locks.take(folder / "units" / "lock")
    if name != "lock":
      held.close()
    raise KeyError
  assert (folder / "units" / name).exists()


@pytest.mark.parametrize("verb", ["segments", "evaluate"])
def test_a_refused_command_leaves_no_folder(verb, tmp_path, capfd):
  bad = tmp_path / "bad.jsonl"
  bad.write_text('{"text": "a"}\n{"text: "b"}\n')
  argv = [verb, "--config=smoke", "--config.data.task=text"]
  argv += [f"--config.data.files={bad}", f"--out={tmp_path / 'a' / 'out'}"]
  if verb == "evaluate":
    argv = ["evaluate", "--checkpoint=no", f"--out={tmp_path / 'a' / 'out'}"]
  assert cli.main(argv) in (1, 2)
  assert len(capfd.readouterr().err.splitlines()) == 1
  assert not (tmp_path / "a").exists()
