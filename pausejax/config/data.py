"""The fields of the data: pretraining text, and downstream examples."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

from pausejax import errors, pause
from pausejax.config import mixtures, number_lists
from pausejax.config.fields import ConfigGroup
from pausejax.config.fields import field as declare  # One is named `field`.
from pausejax.curriculum import Curriculum
from pausejax.pause_places import MAX_RUN_LENGTH, MODES
from pausejax.prompt_pauses import (
  BEHIND_PREFIX,
  FILLERS,
  POSITIONS,
  PromptPauses,
)

PAUSE_INITS = ("mean", "covariance", "normal", "zeros", "eos", "keep")
_TOKEN = "token:"  # Before the text of the token whose row is copied.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(ConfigGroup):
  """The text, its segments, the pipeline and the pauses."""

  GROUP: ClassVar[str] = "data"

  task: str = declare(
    "c4", "Task (see `pausejax tasks list`), or a mixture: gsm8k=1,squad=3."
  )
  later_rates: str = declare(
    "",
    "Pretraining: rates from later steps: 50000:c4=1,text=3;80000:text=1.",
  )
  pipeline: str = declare(
    "segments",
    "segments: prepared once, a batch is a function of the step; seqio: "
    "a stream of tf.data.",
    choices=("segments", "seqio"),
    formerly="door",
  )
  tokenizer: str = declare(
    "bytes",
    '"bytes", a SentencePiece .model, or a Hugging Face tokenizer.json.',
    local_path=True,
    may_change=True,
  )
  tokenizer_sha256: str = declare(
    "",
    "SHA-256 that the tokenizer's file must have (`sha256sum FILE`), compared "
    "before it is read; empty: any.",
    may_change=True,
  )
  seq_len: int = declare(
    2048, "Positions of a training sequence, including pauses.", minimum=2
  )
  pause_fraction: float = declare(
    0.1,
    "Pauses as a fraction of seq_len; 0 is standard pretraining. In "
    "modes where the text or pause_run_length determines the number of pauses, "
    "any value above 0 turns them on.",
    minimum=0.0,
    maximum=0.9,
  )
  pause_mode: str = declare(
    "insert_trim",
    "; ".join(f"{n}: {way.words}" for n, way in MODES.items()) + ".",
    choices=tuple(MODES),
  )
  pause_run_length: float = declare(
    1.0,
    "Pauses in a row: their mean with random_runs, their number in modes in "
    "which they follow a unit of text.",
    minimum=1.0,
    maximum=float(MAX_RUN_LENGTH),
  )
  pauses_share_positions: bool = declare(
    False, "Whether a pause has the position of the text token before it."
  )
  num_pause_ids: int = declare(
    1,
    "Ids of <pause>, n: pause j of a run of pauses, or of a prompt's M, has "
    "embedding j modulo n.",
    minimum=1,
  )
  segments_dir: str = declare(
    "",
    "Folder of prepared segments (several tasks: c4=FOLDER,text=FOLDER); "
    "empty: prepared in the workdir on first use.",
    may_change=True,
  )
  files: str = declare(
    "",
    "Files, folders or globs (comma-separated): .txt, .jsonl, .json, .gz.",
    local_path=True,
    may_change=True,
  )
  validation_files: str = declare(
    "",
    "Held-out text, excluded from `files`; empty: see holdout_every.",
    local_path=True,
    may_change=True,
  )
  field: str = declare(
    "text", "Field of a JSON line or TFDS example that holds the text."
  )
  holdout_every: int = declare(
    20,
    "Without validation_files, one in this many documents is held out.",
    minimum=2,
  )
  tfds_name: str = declare(
    "c4/en:3.1.0",
    "Name and version in TensorFlow Datasets, for the task c4.",
  )
  tfds_data_dir: str = declare(
    "",
    "Folder of prepared TFDS data; empty: the default of TFDS.",
    may_change=True,
  )
  local_dir: str = declare(
    "",
    "Downstream tasks: folder of the published files; empty: read from TFDS.",
    local_path=True,
    may_change=True,
  )
  shuffle_buffer: int = declare(
    1000, "Segments in the shuffle buffer of the seqio pipeline.", minimum=1
  )
  prefetch: int = declare(
    4, "Batches prepared in advance.", minimum=1, may_change=True
  )

  def __post_init__(self):
    super().__post_init__()
    # Each raises if it is invalid.
    _ = self.num_text_tokens, self.stages, self.stores

  @functools.cached_property
  def stages(self) -> tuple[mixtures.Stage, ...]:
    """The rates of tasks over the run: `task` and `later_rates`, parsed."""
    return mixtures.stages(self.task, self.later_rates)

  @property
  def rates(self) -> Mapping[str, float]:
    """The tasks of `task` and their rates."""
    return self.stages[0].rates

  @property
  def task_names(self) -> tuple[str, ...]:
    """The tasks of all stages, each once."""
    names = (name for stage in self.stages for name in stage.rates)
    return tuple(dict.fromkeys(names))

  @property
  def only_task(self) -> str:
    """The task of what works on one; UsageError for a mixture."""
    errors.require(
      len(self.task_names) == 1,
      f"data.task: one task at a time, such as {self.task_names[0]!r}, got a "
      f"mixture of {', '.join(self.task_names)}",
    )
    return self.task_names[0]

  @functools.cached_property
  def stores(self) -> Mapping[str, str]:
    """Task -> the folder that `segments_dir` names for it, if it does."""
    return mixtures.stores(self.segments_dir, self.task_names)

  def of_task(self, name: str) -> "DataConfig":
    """Returns the settings of one of the tasks, and of its own store."""
    store = self.stores.get(name, "")
    return dataclasses.replace(
      self, task=name, later_rates="", segments_dir=store
    )

  @property
  def pauses(self) -> pause.PauseSpec:
    """The pauses of the text."""
    return pause.PauseSpec(
      fraction=self.pause_fraction,
      mode=self.pause_mode,
      run_length=self.pause_run_length,
      shares_positions=self.pauses_share_positions,
      num_ids=self.num_pause_ids,
    )

  @property
  def num_text_tokens(self) -> int:
    """Text tokens in a segment before pauses are inserted."""
    return self.pauses.num_text_tokens(self.seq_len)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(ConfigGroup):
  """How downstream examples become sequences (`data/finetuning/prompts.py`)."""

  GROUP: ClassVar[str] = "finetune"

  num_pauses: int = declare(
    -1,
    "Pauses per example, M; -1: the largest of train_num_pauses, else the "
    "task's default.",
    minimum=-1,
  )
  train_num_pauses: str = declare(
    "",
    "Training: M of each example, drawn anew in every epoch from numbers and "
    "ranges, such as 0,2,10 or 0-10; empty: num_pauses. Answers are read with "
    "num_pauses in any case.",
  )
  curriculum_steps: int = declare(
    0,
    "Training: worked steps of the target that pauses replace one stage after "
    "another, S; then all steps are left out. Divides the number of pauses; 0: "
    "the whole target (docs/pausing.md).",
    minimum=0,
  )
  curriculum_epochs: float = declare(
    3.0,
    "Epochs of each stage before the last; 0: no steps from the start.",
    minimum=0.0,
    maximum=1e6,
  )
  pause_position: str = declare(
    "append",
    "; ".join(f"{n}: {p.words}" for n, p in POSITIONS.items()) + ".",
    choices=tuple(POSITIONS),
  )
  filler: str = declare(
    "",
    'In place of <pause>: text such as ".", repeated over the M positions; '
    + "; ".join(f"{name}: {words}" for name, words in FILLERS.items())
    + "; empty: <pause>.",
  )
  pauses_in_prefix: bool = declare(
    False, "Whether the pauses belong to a bidirectional prefix."
  )
  pauses_behind_tokens: bool = declare(
    True,
    "Whether examples have pauses or copies after every token if the run of "
    "--init_from was trained with them (data.pause_mode every_token or "
    "repeat_token, which is inherited), or those of data.pause_mode if it is "
    "one of these two, after_sentences or after_paragraphs.",
  )
  pause_init: str = declare(
    "mean",
    "New <pause> row, also in pretraining, if the run of --init_from was not "
    "trained on <pause>: mean of the other rows; covariance: normal with their "
    "mean and covariance; normal: as fresh parameters; zeros; eos: the row of "
    "the end of a document; token:TEXT: the row of a token, such as token:.; "
    "keep.",
  )
  hints: bool = declare(
    True,
    "Also train on the hints of a task, which are targets of the pauses.",
  )
  packing: bool = declare(
    True,
    "Several examples per row, without attention between them; False: one.",
  )

  def __post_init__(self):
    super().__post_init__()
    _ = self.train_numbers  # Raises if it is invalid.
    errors.require(
      not (self.curriculum_steps and self.train_num_pauses),
      "finetune.curriculum_steps: the stage determines the number of pauses; "
      "leave finetune.train_num_pauses empty",
    )
    errors.require(
      not self.curriculum_steps or self.pause_position == BEHIND_PREFIX,
      "finetune.curriculum_steps: pauses stand where the steps were; set "
      f"finetune.pause_position={BEHIND_PREFIX}, got {self.pause_position!r}",
    )
    if not self.pause_init_token:
      errors.require_one_of(
        "finetune.pause_init", self.pause_init, (*PAUSE_INITS, f"{_TOKEN}TEXT")
      )

  @functools.cached_property
  def train_numbers(self) -> tuple[int, ...]:
    """The numbers of `train_num_pauses`, each once; empty if it is."""
    return number_lists.numbers(
      self.train_num_pauses, "finetune.train_num_pauses"
    )

  @property
  def pause_init_token(self) -> str:
    """The text of the token whose row `<pause>` gets; "" if none is named."""
    is_token = self.pause_init.startswith(_TOKEN)
    return self.pause_init.removeprefix(_TOKEN) if is_token else ""

  def curriculum(self, num_pauses: int) -> Curriculum | None:
    """Returns the curriculum of a task; None for the whole target.

    Args:
      num_pauses: the task's default, used if the config gives no number.

    Raises:
      UsageError: the number of pauses is not a multiple of the steps.
    """
    if not self.curriculum_steps:
      return None
    return Curriculum(
      steps=self.curriculum_steps,
      num_pauses=self.pauses(num_pauses).num_pauses,
      epochs=self.curriculum_epochs,
    )

  def trained_pauses(self, num_pauses: int) -> PromptPauses:
    """Returns the pauses of training: of the largest M, if it is drawn.

    Args:
      num_pauses: the task's default, used if the config gives no number.
    """
    pauses = self.pauses(num_pauses)
    if not self.train_numbers:
      return pauses
    return dataclasses.replace(pauses, num_pauses=self.train_numbers[-1])

  def pauses(self, num_pauses: int) -> PromptPauses:
    """Returns the pauses of the prompts of a task, when answers are read.

    Args:
      num_pauses: the task's default, used if the config gives no number.
    """
    if self.num_pauses >= 0:
      num_pauses = self.num_pauses
    elif self.train_numbers:
      num_pauses = self.train_numbers[-1]
    return PromptPauses(
      num_pauses=num_pauses,
      position=self.pause_position,
      filler=self.filler,
      in_prefix=self.pauses_in_prefix,
    )
