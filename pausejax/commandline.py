"""Parses command lines, checks their values, and prints `--help`.

--config=smoke:pause=false              see `config/loader.py`
--config.optim.learning_rate=1e-3       changes one field
"""

import argparse
import difflib
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from pausejax import errors
from pausejax.buckets import urls
from pausejax.config import arguments, help_text, loader, tree
from pausejax.config.training import TrainConfig

# A ConfigDict is typed as Any: its fields are known when the program runs.
Inherit = Callable[[argparse.Namespace, Any], None]

CONFIG_HELP = (
  "a .py file, a run's config.json, or the name of a shipped config (smoke), "
  "which works from any folder; a wrong name prints the list"
)

# Options whose values are text, or a store that may be in a bucket.
_NO_LOCAL_PATHS = frozenset({"prompt", "filler", "verify"})

HELP = frozenset({"-h", "--help"})


class Parser(argparse.ArgumentParser):
  """argparse with one-line errors that suggest the nearest known word."""

  def __init__(
    self,
    verb: str,
    description: str | None,
    *,
    config: bool,
    kind: type = TrainConfig,
    uses: Sequence[str] = (),
    in_bucket: Sequence[str] = ("checkpoint", "init_from"),
  ):
    """Makes the parser of a verb.

    Args:
      verb: name of the verb.
      description: the first part of `--help`.
      config: whether --config is required; a verb for which it is optional
        adds the option itself.
      kind: the class that declares the fields of that config.
      uses: the fields and groups that the verb reads; empty: all.
      in_bucket: the options that may be URLs of a bucket.
    """
    super().__init__(
      prog=f"pausejax {verb}",
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    self._kind, self._uses = kind, uses
    self._in_bucket = in_bucket
    if config:
      self.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help=CONFIG_HELP
      )

  def error(self, message: str):
    """Raises a UsageError instead of printing the usage."""
    raise errors.UsageError(f"{self.prog}: {message} (see {self.prog} --help)")

  def add_checkpoint(self) -> None:
    """Adds the options that name the parameters of a run."""
    self.add_argument(
      "--checkpoint", required=True, help="workdir of a run, or a step in it"
    )
    self.add_argument(
      "--average",
      action="store_true",
      help="use the average of the parameters (of runs with optim.ema_decay)",
    )

  def parse(
    self, argv: Sequence[str], inherit: Inherit | None = None
  ) -> tuple[argparse.Namespace, Any]:
    """Returns the options and, if the verb takes one, the config.

    With --help, prints the help, with the values of the config that the other
    arguments name, and exits.

    Args:
      argv: the arguments after the verb.
      inherit: changes the config according to the options and the config;
        changes on the command line have precedence.

    Raises:
      UsageError: an argument is misspelled, missing, or not allowed here.
    """
    if HELP & {*argv}:
      self._help(argv)
    self._check_words(argv)
    overrides = [a for a in argv if a.startswith("--config.")]
    options = self.parse_args([a for a in argv if a not in overrides])
    self._require_local(options)
    if not self._takes_config():
      return options, ConfigDict()
    config = _changed(options.config, overrides)
    if inherit is not None:
      inherit(options, config)
      for arg in overrides:
        loader.apply_override(config, arg)
    return options, config

  def _require_local(self, options: argparse.Namespace) -> None:
    """Refuses a URL for an option that is a local file or folder."""
    for action in self._actions:
      value = getattr(options, action.dest, None)
      if isinstance(value, str) and action.dest not in _NO_LOCAL_PATHS:
        name = (*action.option_strings, self.prog)[0]
        if action.dest in self._in_bucket and urls.is_url(value):
          urls.normal(name, value)
        else:
          errors.require_local(name, value)

  def _takes_config(self) -> bool:
    return "--config" in self._option_string_actions

  def _help(self, argv: Sequence[str]) -> None:
    """Prints the help and exits."""
    if self._takes_config():
      spec = arguments.last_value(argv, "--config") or self.get_default(
        "config"
      )
      changes = [a for a in argv if a.startswith("--config.")]
      self.epilog = help_text.config_help(
        spec,
        spec and _changed(spec, changes),
        kind=self._kind,
        uses=self._uses,
      )
    self.print_help()
    self.exit()

  def _check_words(self, argv: Sequence[str]) -> None:
    """Refuses unknown arguments before argparse reports missing ones."""
    given: dict[str, str] = {}
    is_value = False
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
      name, equals, value = word.partition("=")
      if is_value or _is_number(word):
        is_value = False
      elif word.startswith("--config.") and self._takes_config():
        _require_value(word, following)
        _warn_of_two(given, name, value)
      elif action := self._option_string_actions.get(name):
        is_value = not equals and action.nargs != 0
        if not isinstance(action, argparse._AppendAction):
          _warn_of_two(given, name, value or following)
      elif word[:2] not in self._option_string_actions:
        self._check_word(word)

  def _check_word(self, word: str) -> None:
    """Refuses an argument that is no option, unless it is positional."""
    has_positionals = any(not a.option_strings for a in self._actions)
    name, equals, _ = word.partition("=")
    is_named = equals and f"--{name}" in self._option_string_actions
    if word.startswith("-") or is_named or not has_positionals:
      raise errors.UsageError(
        f"unexpected argument {word!r}{self._hint(word, name)}"
      )

  def _hint(self, word: str, name: str) -> str:
    """Returns the argument that was probably meant, as a message's end."""
    known = [o for o in self._option_string_actions if o.startswith("--")]
    bare = name.lstrip("-")
    value = word[len(name) :]
    group, _, field = bare.partition(".")
    if bare.startswith("config."):
      if not self._takes_config():
        return f"; {self.prog} takes no config"
      return f"; did you mean --{bare}{value}?"
    if f"--{bare}" in known:
      return f"; did you mean --{bare}{value}?"
    if field and difflib.get_close_matches(group, ["config"]):
      return f"; did you mean --config.{field}{value}?"
    field = self._field(bare) if self._takes_config() else ""
    if field and not difflib.get_close_matches(name, known):
      return f"; did you mean --config.{field}{value}?"
    return errors.nearest(name, known)

  def _field(self, name: str) -> str:
    """Returns the config field of this name, "" if there is none."""
    names = loader.field_names(tree.default(self._kind))
    return next((n for n in names if name in (n, n.rpartition(".")[2])), "")


def shard(text: str) -> tuple[int, int]:
  """Returns (i, n) of "i/n", 1 <= i <= n."""
  match = re.fullmatch(r"(\d+)/(\d+)", text)
  if not match or not 1 <= int(match[1]) <= int(match[2]):
    raise argparse.ArgumentTypeError(
      f"expected i/n with 1 <= i <= n, as in 2/8, got {text!r}"
    )
  return int(match[1]), int(match[2])


def name_list(text: str) -> tuple[str, ...]:
  """Returns the names in "squad,gsm8k", each once; () for an empty text."""
  parts = [part.strip() for part in text.split(",")]
  return tuple(dict.fromkeys(parts)) if text else ()


def whole_numbers(text: str) -> tuple[int, ...]:
  """Returns the numbers in "0,10,50", each once; () for an empty text."""
  parts = name_list(text)
  if not all(part.isdecimal() and len(part) < 19 for part in parts):
    raise argparse.ArgumentTypeError(
      f"expected whole numbers such as 0,10,50, got {text!r}"
    )
  return tuple(dict.fromkeys(map(int, parts)))


def fractions(text: str) -> tuple[float, ...]:
  """Returns the numbers in "0,0.1", each once; () for an empty text."""
  try:
    return tuple(dict.fromkeys(map(float, name_list(text))))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"expected numbers such as 0,0.1, got {text!r}"
    ) from None


def _changed(spec: str, overrides: Sequence[str]) -> ConfigDict:
  config = loader.load_config(spec)
  for arg in overrides:
    loader.apply_override(config, arg)
  return config


def _is_number(word: str) -> bool:
  return re.fullmatch(r"-\d+(\.\d+)?", word) is not None


def _require_value(word: str, following: str) -> None:
  """Raises unless a change to a field has the form NAME=VALUE."""
  if "=" in word:
    return
  if following and not following.startswith("-"):
    raise errors.UsageError(
      f"{word} {following}: write {word}={following}, with a '='"
    )
  raise errors.UsageError(f"{word}: give its value as {word}=VALUE")


def _warn_of_two(given: dict[str, str], name: str, value: str) -> None:
  """Warns if an option is given twice, with two values."""
  if given.setdefault(name, value) != value:
    line = (
      f"{name} is given twice, {given[name]!r} and {value!r}; the last counts"
    )
    print(f"pausejax: {errors.one_line(line)}", file=sys.stderr)
  given[name] = value
