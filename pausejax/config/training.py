"""The fields of training, and the whole config of a run."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

from pausejax import errors
from pausejax.config.batch_sizes import BatchSizes, batch_sizes
from pausejax.config.data import DataConfig, FinetuneConfig
from pausejax.config.fields import ConfigGroup, Follows, field, group
from pausejax.config.model import ModelConfig

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
    "Constant learning rate of these steps.",
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
    "Multiplies that of the head; tied embeddings have no head of their own.",
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

  def __post_init__(self):
    super().__post_init__()
    for key, value in self.kwargs.items():
      if isinstance(value, float):
        errors.require_in_range(f"optim.kwargs.{key}", value, 0.0)

  @property
  def has_average(self) -> bool:
    """Whether the train state has an average of the parameters."""
    return self.ema_decay > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig(ConfigGroup):
  """How the cross entropy is computed (`losses.py`)."""

  GROUP: ClassVar[str] = "loss"

  num_chunks: int = field(
    8,
    "Chunks of positions whose logits exist at one time; divides seq_len.",
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
class CheckpointConfig(ConfigGroup):
  """When to save, and which steps to keep."""

  GROUP: ClassVar[str] = "checkpoint"

  every: int = field(
    1000, "Steps between checkpoints.", minimum=1, may_change=True
  )
  keep: int = field(
    3, "Newest checkpoints to keep.", minimum=1, may_change=True
  )
  keep_period: int = field(
    0,
    "Also keep steps that are multiples of this; 0: none.",
    minimum=0,
    may_change=True,
  )
  keep_best: int = field(
    0,
    "Finetuning: best checkpoints to keep, by the task's primary metric.",
    minimum=0,
    may_change=True,
  )
  export_every: int = field(
    0,
    "Steps between exports to transformers, each with its checkpoint, in "
    "WORKDIR/exports/STEP; 0: none.",
    minimum=0,
    may_change=True,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig(ConfigGroup):
  """When to evaluate held-out loss and answers, and on how many examples."""

  GROUP: ClassVar[str] = "eval"

  every: int = field(
    1000,
    "Steps between evaluations of the held-out loss; 0: only at the end.",
    minimum=0,
    may_change=True,
  )
  num_batches: int = field(
    50,
    "Batches of held-out text per evaluation; 0: all.",
    minimum=0,
    may_change=True,
  )
  num_examples: int = field(
    0,
    "Finetuning: held-out examples to answer per evaluation; 0: none.",
    minimum=0,
    may_change=True,
  )
  batch_size: int = field(
    32, "Examples per batch of answers.", minimum=1, may_change=True
  )
  average: bool = field(
    False,
    "Evaluate, sample and export the average of the parameters "
    "(optim.ema_decay) in place of the parameters.",
    may_change=True,
  )
  sample_prompts: tuple[str, ...] = field(
    (),
    "Texts that the model continues at each evaluation, written to "
    "samples.jsonl; on the command line separated by commas, or a JSON list.",
    may_change=True,
  )
  sample_pauses: int = field(
    0, "Pauses after each of them.", minimum=0, may_change=True
  )
  sample_tokens: int = field(
    32, "Largest number of tokens to continue with.", minimum=1, may_change=True
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig(ConfigGroup):
  """Where metrics and samples go besides the workdir, and how often."""

  GROUP: ClassVar[str] = "log"

  every: int = field(
    1, "Steps between lines of metrics.jsonl.", minimum=1, may_change=True
  )
  tensorboard: bool = field(
    False,
    "Also write TensorBoard events (extra: tensorboard).",
    may_change=True,
  )
  wandb: bool = field(
    False,
    "Also send them to Weights & Biases (extra: wandb); WANDB_MODE=offline "
    "keeps them in the workdir.",
    may_change=True,
  )
  wandb_project: str = field(
    "", "Its project (WANDB_PROJECT, else pausejax).", may_change=True
  )
  wandb_name: str = field(
    "",
    "Name of the run there (WANDB_NAME, else the workdir's).",
    may_change=True,
  )
  wandb_group: str = field(
    "", "Group of the run there (WANDB_RUN_GROUP, else none).", may_change=True
  )
  wandb_tags: tuple[str, ...] = field(
    (), "Tags of the run there.", may_change=True
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
    "Other batch sizes from later steps on, STEP:ROWS, such as "
    "2000:512,6000:1024; the step is compiled once for each size.",
  )
  init_from: str = field(
    "",
    "Workdir of a run (or one of its checkpoints/STEP) to load parameters "
    "from.",
    local_path=True,
    may_change=True,
  )
  init_load: str = field(
    "parameters",
    "What to load from it: parameters; average: the average of its parameters "
    "(optim.ema_decay); state: also the optimizer's state, the step and the "
    "position in the data, to continue that run in another workdir.",
    choices=("parameters", "average", "state"),
    may_change=True,
  )
  tasks_module: str = field(
    "",
    "Python module that registers tasks of your own (docs/own_task.md).",
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

  def __post_init__(self):
    super().__post_init__()
    self.model_config(vocab_size=1)
    for size in self.batch_sizes.sizes:
      parts = self.optim.num_microbatches
      errors.require(
        size % parts == 0,
        f"batch_size {size} is not divisible by optim.num_microbatches {parts}",
      )
    errors.require(
      not self.later_batch_sizes or self.data.pipeline == "segments",
      f"later_batch_sizes: data.pipeline={self.data.pipeline} reads batches of "
      "one size; use data.pipeline=segments",
    )
    errors.require(
      bool(self.init_from) or self.init_load == "parameters",
      f"init_load: {self.init_load!r} needs a run to load from; set init_from",
    )
    size, parts = self.data.seq_len, self.loss.num_chunks
    errors.require(
      size % parts == 0,
      f"data.seq_len {size} is not divisible by loss.num_chunks {parts}",
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

  def model_config(self, vocab_size: int) -> ModelConfig:
    """Returns the model of this run for a vocabulary of `vocab_size` ids."""
    return ModelConfig(vocab_size=vocab_size, **self.model)
