"""The fields of training, and the whole config of a run."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from pausejax import errors
from pausejax.config.batch_sizes import BatchSizes, batch_sizes
from pausejax.config.batch_skips import BatchSkips, batch_skips
from pausejax.config.data import DataConfig, FinetuneConfig
from pausejax.config.fields import ConfigGroup, Follows, field, group
from pausejax.config.model import ModelConfig
from pausejax.config.outputs import (
  CheckpointConfig,
  EvalConfig,
  LogConfig,
  ProfileConfig,
)
from pausejax.config.watchdog import WatchdogConfig
from pausejax.prompt_pauses import NO_TOKEN_PAUSES, TokenPauses

# Logical axes of parameters, see `sharding.py`.
PARAMETER_AXES = (
  "embed",
  "vocab",
  "heads",
  "kv_heads",
  "head_dim",
  "mlp",
  "position",
  "norm",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig(ConfigGroup):
  """An optax optimizer by name, its schedule, clipping and weight decay."""

  GROUP: ClassVar[str] = "optim"

  name: str = field("adamw", "Any optimizer of optax or optax.contrib.")
  kwargs: Mapping[str, Any] = field(
    dict(b1=0.9, b2=0.95, weight_decay=0.1),
    "Its keyword arguments; add or change one, or give a JSON object.",
    may_change=("weight_decay",),
  )
  learning_rate: float = field(
    3e-4, "Peak learning rate, after the warm-up.", minimum=0.0, may_change=True
  )
  schedule: str = field(
    "cosine",
    "Schedule of the learning rate.",
    choices=("cosine", "linear", "rsqrt", "wsd", "constant"),
    may_change=True,
  )
  warmup_steps: int = field(
    Follows("num_steps", divided_by=50),
    "Steps of linear warm-up.",
    minimum=0,
    may_change=True,
  )
  decay_steps: int = field(
    0, "Steps of linear decay at the end of wsd.", minimum=0, may_change=True
  )
  final_fraction: float = field(
    0.1,
    "Last learning rate as a fraction of the peak (cosine, linear, wsd).",
    minimum=0.0,
    maximum=1.0,
    may_change=True,
  )
  clip_norm: float = field(
    1.0,
    "Largest global norm of the gradient; 0: no clipping.",
    minimum=0.0,
    may_change=True,
  )
  decay_axes: tuple[str, ...] = field(
    ("heads", "kv_heads", "mlp", "vocab"),
    "Matrices with one of these logical axes get weight decay.",
    choices=PARAMETER_AXES,
    may_change=True,
  )
  freeze: tuple[str, ...] = field(
    (),
    "Parameters that are not trained: names, or parts of names, such as "
    "embedding,blocks/query,bias; logical axes, such as mlp; or layers, such "
    "as blocks[:-4] (docs/optimizers.md).",
  )
  pause_only_steps: int = field(
    0,
    "Steps at the start that train only the row of <pause>; the schedule "
    "begins after them.",
    minimum=0,
  )
  pause_only_learning_rate: float = field(
    Follows("optim.learning_rate"),
    "Constant learning rate of the first optim.pause_only_steps steps.",
    minimum=0.0,
    may_change=True,
  )
  embedding_lr_multiplier: float = field(
    1.0,
    "Multiplies the learning rate of the token and position embeddings.",
    minimum=0.0,
  )
  head_lr_multiplier: float = field(
    1.0,
    "Multiplies the learning rate of the head; tied embeddings have no head of "
    "their own.",
    minimum=0.0,
  )
  ema_decay: float = field(
    0.0,
    "Decay per step of an average of the parameters (EMA), which evaluations "
    "and exports can use; 0: no average.",
    minimum=0.0,
    maximum=0.9999999,
  )
  num_microbatches: int = field(
    1,
    "Parts of a batch whose gradients are summed before the update.",
    minimum=1,
    may_change=True,
  )
  max_skipped_in_a_row: int = field(
    20,
    "Steps in a row with a loss or gradient that is not finite (each is "
    "skipped) after which the run stops with exit code 4; 0: never.",
    minimum=0,
    before=0,
    may_change=True,
  )
  skip_spikes: float = field(
    0.0,
    "Skip a step whose loss or gradient norm is more than this many standard "
    "deviations above the mean of the last 128 steps, once there are 64; 0: "
    "none. OLMo-core and Levanter use 6.",
    minimum=0.0,
    may_change=True,
  )

  def __post_init__(self):
    super().__post_init__()
    for key, value in self.kwargs.items():
      if isinstance(value, (int, float)) and not isinstance(value, bool):
        errors.require_in_range(f"optim.kwargs.{key}", value, 0.0)

  @property
  def has_average(self) -> bool:
    """Whether the train state has an average of the parameters."""
    return self.ema_decay > 0

  @property
  def finds_spikes(self) -> bool:
    """Whether the train state has the recent losses, to skip spikes."""
    return self.skip_spikes > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig(ConfigGroup):
  """How the cross entropy is computed (`losses.py`)."""

  GROUP: ClassVar[str] = "loss"

  num_chunks: int = field(
    8,
    "Chunks of positions whose logits exist at one time; divides seq_len. "
    "Fewer if a chunk would have fewer than d_model / 2 tokens.",
    minimum=1,
    may_change=True,
  )
  z_loss: float = field(
    0.0, "Weight of log(Z)^2; 0: none.", minimum=0.0, may_change=True
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig(ConfigGroup):
  """Devices along each mesh axis; one axis may be -1: all that remain."""

  GROUP: ClassVar[str] = "mesh"

  data: int = field(
    -1,
    "Devices that hold copies of the parameters; -1: all that remain.",
    may_change=True,
  )
  fsdp: int = field(
    1,
    "Devices over which parameters and batch are split; -1: all that remain.",
    may_change=True,
  )
  sequence: int = field(
    1,
    "Devices over which parameters and positions are split (long sequences).",
    may_change=True,
  )
  tensor: int = field(
    1,
    "Devices over which heads, feed-forward layers and vocabulary are split.",
    may_change=True,
  )

  def __post_init__(self):
    super().__post_init__()
    sizes = dataclasses.asdict(self)
    for name, size in sizes.items():
      errors.require(
        size == -1 or size >= 1,
        f"mesh.{name}: must be at least 1, or -1 (all that remain), got {size}",
      )
    errors.require(
      list(sizes.values()).count(-1) <= 1,
      f"mesh: only one of {', '.join(sizes)} may be -1, got "
      f"{tuple(sizes.values())}",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(ConfigGroup):
  """Everything `pausejax train` needs.

  Attributes:
    model: the fields of `ModelConfig` except vocab_size, which the tokenizer
      decides; see `model_config`.
  """

  seed: int = field(
    0,
    "Seed of the parameters, the order of the data and the pauses.",
    minimum=-(2**63),
    maximum=2**63 - 1,
  )
  num_steps: int = field(
    100_000,
    "Optimizer steps of the whole run.",
    minimum=1,
    maximum=2**31 - 1,
    may_change=True,
  )
  stop_at_step: int = field(
    0,
    "Save and exit after this step; 0: run to the end.",
    minimum=0,
    may_change=True,
  )
  batch_size: int = field(
    256,
    "Rows of the global batch, over all devices and hosts.",
    minimum=1,
  )
  later_batch_sizes: str = field(
    "",
    "Other batch sizes after later steps, STEP:ROWS, such as "
    "2000:512,6000:1024; the step is compiled once for each size.",
  )
  skip_batches: str = field(
    "",
    "Batches to leave out, FIRST:LAST, such as 1201:1400,5001:5200; without "
    "it, step n is trained on batch n. A resumed run keeps those of its "
    "checkpoint, unless this is none (docs/resume.md).",
    may_change=True,
  )
  init_from: str = field(
    "",
    "Workdir of a run (or one of its checkpoints/STEP) to load parameters "
    "from.",
    local_path=True,
    in_bucket=True,
    may_change=True,
  )
  init_load: str = field(
    "parameters",
    "What to load from init_from: parameters; average: the average of its "
    "parameters (optim.ema_decay); state: also the optimizer's state, the step "
    "and the position in the data, to continue that run in another workdir.",
    choices=("parameters", "average", "state"),
    may_change=True,
  )
  tasks_module: str = field(
    "",
    "Python module that registers tasks of your own (docs/own_task.md).",
    may_change=True,
  )
  compilation_cache: str = field(
    "auto",
    "Folder of compiled programs, so that a restart does not compile again; "
    "auto: WORKDIR/compilation_cache, none: no cache (docs/tuning.md).",
    local_path=True,
    may_change=True,
  )
  data: DataConfig
  finetune: FinetuneConfig
  model: Mapping[str, Any] = group(ModelConfig)
  optim: OptimConfig
  loss: LossConfig
  mesh: MeshConfig
  checkpoint: CheckpointConfig
  eval: EvalConfig
  log: LogConfig
  profile: ProfileConfig
  watchdog: WatchdogConfig

  def behind_tokens(self, pause_id: int) -> TokenPauses:
    """Returns the pauses inside the text of a finetuning's examples."""
    if not self.finetune.pauses_behind_tokens:
      return NO_TOKEN_PAUSES
    return self.data.pauses.in_examples(pause_id)

  def __post_init__(self):
    super().__post_init__()
    self.model_config(vocab_size=1)
    for size in self.batch_sizes.sizes:
      parts = self.optim.num_microbatches
      errors.require(
        size % parts == 0,
        f"{self.batch_sizes.field(size)} {size} is not divisible by "
        f"optim.num_microbatches {parts}",
      )
    errors.require(
      not self.later_batch_sizes or self.data.pipeline == "segments",
      f"later_batch_sizes: data.pipeline={self.data.pipeline} reads batches of "
      "one size; use data.pipeline=segments",
    )
    errors.require(
      not self.batch_skips.ranges
      or (self.data.pipeline == "segments" and not self.later_batch_sizes),
      "skip_batches: needs data.pipeline=segments, whose batches are "
      "functions of their number, and one batch size (no later_batch_sizes)",
    )
    errors.require(
      bool(self.init_from) or self.init_load == "parameters",
      f"init_load: {self.init_load!r} needs a run to load from; set init_from",
    )
    size, parts = self.data.seq_len, self.loss.num_chunks
    errors.require(
      size % parts == 0,
      f"data.seq_len {size} is not divisible by loss.num_chunks {parts}; use "
      f"loss.num_chunks={math.gcd(size, parts)}",
    )
    errors.require(
      not self.model["tied_embeddings"] or self.optim.head_lr_multiplier == 1.0,
      "optim.head_lr_multiplier: with model.tied_embeddings the head is the "
      "embedding; set optim.embedding_lr_multiplier",
    )
    errors.require(
      self.optim.has_average or not self.eval.average,
      "eval.average: the run has no average; set optim.ema_decay above 0",
    )
    limit = self.model["max_seq_len"]
    remedy = "raise that, too"
    if self.model["position"] == "learned":
      remedy = "with --init_from, its table of learned positions cannot grow"
    errors.require(
      self.data.seq_len <= limit,
      f"data.seq_len {self.data.seq_len} is longer than model.max_seq_len "
      f"{limit}; {remedy}",
    )

  @functools.cached_property
  def batch_sizes(self) -> BatchSizes:
    """The rows of the global batch at every step."""
    return batch_sizes(self.batch_size, self.later_batch_sizes)

  @functools.cached_property
  def batch_skips(self) -> BatchSkips:
    """The batches that are left out."""
    return batch_skips(self.skip_batches)

  def model_config(self, vocab_size: int) -> ModelConfig:
    """Returns the model of this run for a vocabulary of `vocab_size` ids."""
    return ModelConfig(vocab_size=vocab_size, **self.model)
