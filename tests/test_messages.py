"""Messages of wrong command lines: one line, the same words in every verb."""

import os
import signal
import subprocess
import sys

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


def test_a_refused_run_removes_nothing_of_the_run_that_holds_the_folder(
  tmp_path,
):
  with pytest.raises(KeyError), locks.unused_removed(tmp_path / "run"):
    # Another run started at the same moment; its folder is still empty.
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    held = locks.take(tmp_path / "run" / "lock")
    raise KeyError
  assert (tmp_path / "run" / "checkpoints").exists()
  held.close()


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


@pytest.mark.parametrize(
  "argv",
  [
    ["train", "--config=smoke", "--workdir=file"],
    ["segments", "--config=smoke", "--out=file"],
    ["segments", "--config=smoke", "--out=file/x"],
    ["tokenizer", "--config=smoke", "--out=file/t.model"],
    ["study", "--config=study_smoke", "--workdir=file"],
    ["score", "--task=piqa", "--predictions=p", "--out=file/x.json"],
  ],
)
def test_a_file_in_place_of_a_folder_is_refused_first(argv, runs, capfd):
  line = refused(argv, capfd, exit_code=1)
  assert ": cannot write " in line and "Not a directory; make it" in line


# A config file whose line 4 sets a field.
_SETS = """from pausejax.config import default
def get_config(arg):
  c = default()
  c.{}
"""


@pytest.mark.parametrize(
  ("code", "words"),
  [
    ("def get_config(arg):\n  return 1 / 0\n", "mine.py:2: ZeroDivisionError"),
    ("def get_config(arg):\n  retrn 1\n", "mine.py:2: SyntaxError: invalid"),
    ("x = 1\n", "defines no get_config(arg)"),
    ("import sys\nsys.exit(0)\n", "mine.py:2: SystemExit"),
    (_SETS.format("data.seq_len = 'x'"), "4: seq_len: expected int, got 'x'"),
    (
      _SETS.format("data.door = 'x'"),
      "'door' there; it is now config.data.pipeline",
    ),
    (
      "def get_config(arg):\n  return {}\n",
      "returned a dict, not a ConfigDict",
    ),
  ],
)
@pytest.mark.parametrize("verb", ["train", "inspect"])
def test_an_error_in_a_config_file_names_its_line(
  verb, code, words, runs, capfd
):
  (runs / "mine.py").write_text(code)
  argv = [verb, "--config=mine.py"]
  line = refused(argv + ["--workdir=new"] * (verb == "train"), capfd)
  assert words in line


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["trian"], "unknown verb 'trian'; did you mean 'train'?"),
    (["train", "--config=smoek"], "no file 'smoek'; did you mean 'smoke'?"),
    (["train", "--config=smoke:puase=true"], "name 'puase'; did you mean 'pa"),
    (
      ["train", "--config=smoke", "--config.model.num_layer=3"],
      "unknown field 'model.num_layer'; did you mean 'model.num_layers'?",
    ),
    (
      ["train", "--config=smoke", f"--config.seed={10**20}"],
      "from -2**63 to 2**63 - 1, got 100000000000000000000",
    ),
  ],
)
def test_a_misspelled_name_gets_the_nearest(argv, words, runs, capfd):
  (runs / "smok.py").write_text("print('not a config')\n")
  argv = argv + ["--workdir=new"] * (argv[0] == "train")
  assert words in refused(argv, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("argv", ["--help", "tasks list", "train --help"])
def test_a_closed_output_costs_no_traceback(argv):
  command = f"{sys.executable} -m pausejax {argv} >&-"
  done = subprocess.run(
    ["sh", "-c", command], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_ctrl_c_during_the_imports_prints_no_traceback(tmp_path):
  # A module that is imported early presses Ctrl-C.
  (tmp_path / "ml_collections.py").write_text(
    "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
  )
  done = subprocess.run(
    [sys.executable, "-m", "pausejax", "train", "--config=smoke"],
    env={**os.environ, "PYTHONPATH": str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode in (130, -signal.SIGINT)
  assert "Traceback" not in done.stderr
