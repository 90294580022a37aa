"""README and docs: their commands parse, what they name exists.

Fenced `sh` blocks hold commands. Each is parsed by the program that it starts;
one that is preceded by `<!-- needs: ... -->` needs data, hardware or a network
to run, and may start programs that are not checked here.
"""

import ast
import collections
import importlib
import importlib.util
import pathlib
import re
import shlex
from typing import NamedTuple

import pytest

from pausejax import cli, commandline, errors
from pausejax.config import load_config, loader

ROOT = pathlib.Path(__file__).parent.parent
PROGRAM = "pausejax"
PAGES = sorted(
  [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "docs/notebooks").glob("*.md"),
    ROOT / "launch/README.md",
    ROOT / "benchmarks/README.md",
  ]
)
FENCE = re.compile(
  r"(?ms)^(?P<indent> *)(?:<!-- needs: (?P<needs>.*?) -->\n *)?"
  r"```(?:sh|console)\n(?P<text>.*?)^ *```"
)


class Command(NamedTuple):
  page: str
  words: list[str]
  needs: str | None


def commands(page: pathlib.Path) -> list[Command]:
  """Returns the commands of a page, lines that end in a backslash joined."""
  found = []
  for block in FENCE.finditer(page.read_text()):
    lines = block["text"].replace("\\\n", " ").splitlines()
    for line in lines:
      words = shlex.split(line.removeprefix("$ "), comments=True)
      # A shell's variables stand for words that stand somewhere else.
      if words and "$" not in line.removeprefix("$ "):
        name = str(page.relative_to(ROOT))
        found.append(Command(name, words, block["needs"]))
  return found


COMMANDS = [command for page in PAGES for command in commands(page)]


class Parsed(Exception):
  """The arguments are valid; the verb itself is not run."""


@pytest.fixture
def parse_only(monkeypatch, tmp_path):
  """Makes every verb stop after parsing its arguments, beside trained runs."""
  parse = commandline.Parser.parse

  def parsed(self, argv, inherit=None):
    parse(self, argv)
    raise Parsed

  monkeypatch.setattr(commandline.Parser, "parse", parsed)
  for name in ("configs", "launch", "benchmarks"):
    (tmp_path / name).symlink_to(ROOT / name)
  for command in COMMANDS:
    for saved in re.findall(r"--config=(\S+\.json)", " ".join(command.words)):
      (tmp_path / saved).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / saved).write_text(load_config("finetune").to_json())
  monkeypatch.chdir(tmp_path)


def pausejax(words: list[str]) -> None:
  errors.require_one_of("verb", words[0], [*cli.VERBS, "--version"])
  if {"--help", "--version"} & {*words} or words[1:] == ["list"]:
    return
  program = cli.program(words[0])
  with pytest.raises(Parsed):
    program.main(words[1:])


def python(words: list[str]) -> None:
  """Checks a module that is started by -m: it exists and has the options."""
  assert words[0] == "-m"
  spec = importlib.util.find_spec(words[1])
  assert spec and spec.origin
  if words[1] == "pausejax":
    return pausejax(words[2:])
  end = words.index("--") if "--" in words else len(words)
  folder = pathlib.Path(spec.origin).parent
  source = "".join(path.read_text() for path in folder.glob("*.py"))
  overridden = load_config("pretrain_c4")
  for option in words[2:end]:
    name = option.partition("=")[0]
    if name.startswith("--config."):
      loader.apply_override(overridden, option)
      continue
    assert not name.startswith("--") or f'"{name}"' in source, option
  if end < len(words):
    pausejax(["train", *words[end + 1 :]])
  return None


def make(words: list[str]) -> None:
  targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
  assert {w for w in words if "=" not in w} <= {*targets}


CHECKED = {PROGRAM: pausejax, "python": python, "make": make}


@pytest.mark.parametrize("page", sorted({c.page for c in COMMANDS}))
def test_commands_parse(page, parse_only):
  for command in COMMANDS:
    if command.page != page:
      continue
    program, *words = command.words
    if check := CHECKED.get(program):
      check(words)
    else:
      assert command.needs, f"{program}: nothing checks this; say what it needs"


# Appended to the commands of the quickstart, so that they take seconds.
TINY = (
  "--config.num_steps=4",
  "--config.checkpoint.every=2",
  "--config.eval.num_batches=1",
)
TINY_MODEL = ("--config.model.num_layers=1", "--config.model.d_model=32")


def shortened(words: list[str]) -> list[str]:
  """Returns a command with the smallest sizes."""
  if words[0] == "evaluate":
    return [*words, "--limit=4"]
  if words[0] != "train":
    return words
  is_fresh = not any(w.startswith("--init_from") for w in words)
  stops = any(w.startswith("--config.stop_at_step") for w in words)
  stop = ("--config.stop_at_step=2",) if stops else ()
  return [*words, *TINY, *(TINY_MODEL if is_fresh else ()), *stop]


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path, monkeypatch):
  """Its commands, one after another, in a folder that has the configs."""
  (tmp_path / "configs").symlink_to(ROOT / "configs")
  monkeypatch.chdir(tmp_path)
  (quickstart,) = (p for p in PAGES if p.name == "quickstart.md")
  words = [c.words[1:] for c in commands(quickstart) if c.words[0] == PROGRAM]
  last = next(i for i, w in enumerate(words) if w[0] == "report")
  for command in words[: last + 1]:
    assert cli.main(shortened(command)) == 0, command
  assert pathlib.Path("demo/report.html").exists()
  assert len([*pathlib.Path("demo/cloze/evaluations").glob("*.json")]) == 3


def test_the_number_of_commands_that_are_not_run_is_fixed():
  """With a parser that finds no blocks, every page would pass."""
  counts = collections.Counter(bool(c.needs) for c in COMMANDS)
  print(f"{counts[False]} commands run anywhere, {counts[True]} need something")
  assert counts[False] > 30 and counts[True] > 10


def links(page: pathlib.Path) -> list[str]:
  text = re.sub(r"(?ms)^ *```.*?^ *```|`[^`\n]*`(?!\])", "", page.read_text())
  return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_linked_files_exist(page):
  for link in links(page):
    path = link.partition("#")[0]
    if path and "://" not in link and not path.startswith("generated/"):
      assert (page.parent / path).exists(), link


NAMED = re.compile(
  r"`((?:pausejax|configs|launch|tests|benchmarks|docs|requirements)/[\w./*-]*)"
)


# The changelog names files as they were.
@pytest.mark.parametrize(
  "page",
  [page for page in PAGES if page.name != "CHANGELOG.md"],
  ids=lambda p: str(p.relative_to(ROOT)),
)
def test_named_files_exist(page):
  for name in NAMED.findall(page.read_text()):
    assert [*ROOT.glob(name)], name


def test_pages_are_generated_from_the_code(tmp_path):
  spec = importlib.util.spec_from_file_location(
    "generate", ROOT / "docs/generate.py"
  )
  assert spec and spec.loader
  generate = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(generate)
  generate.write(tmp_path)
  text = (tmp_path / "cli.md").read_text()
  assert all(f"## pausejax {verb}" in text for verb in cli.VERBS)
  # Fields have a page of their own, and no verb repeats them.
  assert "data.seq_len = " not in text
  assert "| `data.seq_len` | `2048` |" in (tmp_path / "config.md").read_text()


def test_readme_is_short():
  assert len((ROOT / "README.md").read_text().split()) <= 1_200


def templates() -> set[str]:
  """Returns the texts in the package, with {} for each inserted value."""
  found = set()
  for path in (ROOT / "pausejax").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      match node:
        case ast.JoinedStr():
          parts = [getattr(v, "value", "{}") for v in node.values]
          found.add("".join(p if isinstance(p, str) else "{}" for p in parts))
        case ast.Constant(value=str()):
          found.add(node.value)
  return found


def test_troubleshooting_quotes_the_messages_of_the_code():
  text = (ROOT / "docs/troubleshooting.md").read_text()
  messages = re.findall(r"(?m)^### `(.*)`$", text)
  assert len(messages) > 20
  known = templates()
  for message in messages:
    parts = [re.escape(p.strip()) for p in message.split("...") if p.strip()]
    pattern = re.compile(r".*?".join(parts), re.DOTALL)
    assert any(pattern.search(t) for t in known), message
