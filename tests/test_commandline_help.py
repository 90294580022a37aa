"""Help names every verb, and every field of a config with its meaning."""

import pytest

from pausejax import cli
from pausejax.config import TrainConfig, default, fields
from tests.command_lines import SMOKE, fails, help_lines, leaves


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_help_names_every_verb(argv, capsys):
  assert cli.main(argv) == 0
  out, err = capsys.readouterr()
  assert err == ""
  assert all(f"  {verb} " in out for verb in cli.VERBS)


def test_the_version_is_printed(capsys):
  import pausejax

  assert cli.main(["--version"]) == 0
  assert capsys.readouterr().out == f"{pausejax.__version__}\n"


@pytest.mark.parametrize(
  "verb", [["train"], ["preflight"], ["train", "--workdir=w"]]
)
def test_help_names_every_field_with_default_and_meaning(verb, capsys):
  with pytest.raises(SystemExit) as done:
    cli.main([*verb, "--help"])
  assert done.value.code == 0
  lines = capsys.readouterr().out.splitlines()
  declared = dict(fields.all_fields(TrainConfig))
  for name, value in leaves(default().to_dict()).items():
    follows = declared.get(name) and declared[name].default
    note = f"  ({follows})" if isinstance(follows, fields.Follows) else ""
    line = lines.index(f"  {name} = {value!r}{note}")
    meaning = lines[line + 1]
    assert meaning.startswith(" " * 6) and len(meaning.strip()) > 5, name


@pytest.mark.parametrize(
  "verb",
  [
    ["train"],
    ["segments"],
    ["tokenizer", "train"],
    ["preflight"],
    ["inspect"],
  ],
)
def test_help_shows_the_values_of_the_config_and_its_changes(verb, capsys):
  argv = [*verb, f"--config={SMOKE}:pause=false", "--config.data.task=text"]
  lines = help_lines(argv, capsys)
  assert "  pause = true" in lines and "      one of true, false" in lines
  assert "  data.task = 'text'  ('c4')" in lines
  if verb in (["train"], ["preflight"]):
    assert "  num_steps = 200  (100000)" in lines
    assert "  seed = 0" in lines
  if verb != ["tokenizer", "train"]:
    assert "  data.pause_fraction = 0.0  (0.1)" in lines


def test_help_lists_the_arguments_of_a_config_of_your_own(tmp_path, capsys):
  path = tmp_path / "mine.py"
  path.write_text(
    "from pausejax import config\n"
    "def get_config(arg=''):\n"
    "  config.parse_arg(arg, size=('s', 'xl'), depth=3)\n"
    "  return config.default()\n"
  )
  lines = help_lines(["train", f"--config={path}"], capsys)
  assert f"  --config={path}:size=s,depth=3" in lines
  assert "      one of s, xl" in lines


def test_help_of_a_config_that_is_not_there_is_one_line(capsys):
  assert "no file" in fails(["train", "--config=non.py", "--help"], capsys)


def test_help_of_the_tokenizer_lists_only_what_decides_its_text(capsys):
  text = "\n".join(help_lines(["tokenizer", "train"], capsys))
  assert "data.files" in text and "tasks_module" in text
  assert "num_steps" not in text and "optim" not in text
