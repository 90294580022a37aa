"""What a study varies, parsed once from the texts of its config.

  pretrainings, finetunings   Arm:     a config, and words that change it
  variants                    Variant: name, pretraining, finetunings, filler
  all other words             Words:   arguments of a `pausejax` command

Each keeps the text that it was made of, which study.json holds.
"""

import dataclasses
import functools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pausejax import errors
from pausejax.config import arguments, loader

# Placeholders in words: the task, and the folder of the study.
TASK, WORKDIR = "{task}", "{workdir}"
_FILLER = "filler="


@dataclasses.dataclass(frozen=True)
class Words:
  """Arguments of a command, separated by spaces and quoted as in a shell.

  Attributes:
    text: as written in the config.
    words: the arguments, with placeholders.
  """

  text: str
  words: tuple[str, ...]

  @classmethod
  def parse(cls, text: str, name: str) -> "Words":
    """Returns the words of a text.

    Args:
      text: the text.
      name: the field of the config, to begin a message.

    Raises:
      UsageError: a quotation mark is not closed.
    """
    try:
      return cls(text, tuple(shlex.split(text)))
    except ValueError as e:
      raise errors.UsageError(f"{name}: {text!r}: {e}") from e

  def filled(self, workdir: str, task: str = "") -> tuple[str, ...]:
    """Returns the words with the placeholders replaced."""
    return tuple(
      w.replace(TASK, task).replace(WORKDIR, workdir) for w in self.words
    )


@dataclasses.dataclass(frozen=True)
class Arm:
  """A pretraining or a finetuning.

  Attributes:
    config: the config file with its arguments, or the folder of a run.
    words: what follows in the command, one `Words` per element of the config.
  """

  config: str
  words: tuple[Words, ...]

  @classmethod
  def parse(cls, texts: Sequence[str], name: str) -> "Arm":
    """Returns the arm of the elements of its field, named `name`."""
    errors.require(len(texts) > 0, f"{name}: no config is named")
    config, *more = texts
    return cls(config, tuple(Words.parse(text, name) for text in more))

  def texts(self) -> tuple[str, ...]:
    """Returns the arm as written in a config."""
    return (self.config, *(words.text for words in self.words))

  @functools.cached_property
  def is_run(self) -> bool:
    """Whether it is the folder of a finished run, not a config."""
    return not loader.is_config(self.config)

  @functools.cached_property
  def arguments(self) -> Mapping[str, str]:
    """The arguments of its config: pauses=2 in finetune:task=squad,pauses=2."""
    return dict(arguments.pairs(loader.argument(self.config)))

  @property
  def has_pauses(self) -> bool:
    """Whether a finetuning has pauses, unless its words say that M is 0."""
    words = [word for part in self.words for word in part.words]
    field = arguments.last_value(words, "--config.finetune.num_pauses")
    return (field or self.arguments.get("pauses")) != "0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """A row of the table.

  Attributes:
    name: name in the table.
    pretraining: one of the study's pretrainings.
    finetunings: the candidates; the one with the best mean is shown.
    filler: text that replaced `<pause>` at inference; "" for none.
  """

  name: str
  pretraining: str
  finetunings: tuple[str, ...]
  filler: str = ""

  @classmethod
  def parse(cls, texts: Sequence[str]) -> "Variant":
    """Returns the variant; a last element "filler=." sets its filler.

    Raises:
      UsageError: it is not a name, a pretraining and finetunings.
    """
    *names, last = texts or [""]
    is_filler = last.startswith(_FILLER)
    names += [] if is_filler else [last]
    errors.require(
      len(names) >= 3 and not any(n.startswith(_FILLER) for n in names),
      f"variants: {texts!r} is not a name, a pretraining and finetunings, with "
      f"at most one {_FILLER}TEXT as the last",
    )
    name, pretraining, *finetunings = names
    return cls(
      name=name,
      pretraining=pretraining,
      finetunings=tuple(finetunings),
      filler=last.removeprefix(_FILLER) if is_filler else "",
    )

  def texts(self) -> tuple[str, ...]:
    """Returns the variant as written in a config."""
    filler = (_FILLER + self.filler,) if self.filler else ()
    return (self.name, self.pretraining, *self.finetunings, *filler)


def plain_value(value: Any) -> Any:
  """Returns a field of a study as its config has it: plain values."""
  if isinstance(value, Words):
    return value.text
  if isinstance(value, (Arm, Variant)):
    return value.texts()
  if isinstance(value, tuple):
    return tuple(map(plain_value, value))
  if isinstance(value, Mapping):
    return {name: plain_value(inner) for name, inner in value.items()}
  return value
