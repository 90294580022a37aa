"""What a run can be told, as frozen dataclasses that refuse impossible values.

Each sub-tree of a config file is the keyword arguments of one class here; the
defaults stand in `configs/base.py` and nowhere else. Nothing heavy is imported:
a wrong value is refused before JAX starts.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Any

from pausejax import errors, pause

VOCAB_MULTIPLE = 128  # Embedding rows are padded to this, to shard evenly.

# Logical axes of parameters, as `sharding.py` lays them out.
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

# Fields of the model that decide its parameters, and what they compute.
SHAPE_FIELDS = (
  "max_seq_len",
  "num_layers",
  "d_model",
  "num_heads",
  "num_kv_heads",
  "d_ff",
  "position",
  "rope_theta",
  "norm",
  "mlp",
  "qk_norm",
  "bias",
  "tied_embeddings",
)

PAUSE_POSITIONS = ("append", "prepend")
PAUSE_INITS = ("mean", "normal", "keep")

_DTYPES = ("auto", "float32", "bfloat16")

_SCHEDULES = ("cosine", "linear", "rsqrt", "wsd", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """A decoder: its shape, and a few orthogonal choices (`model/decoder.py`)."""

  vocab_size: int  # Ids that exist, `<pause>` among them.
  max_seq_len: int
  num_layers: int
  d_model: int
  num_heads: int
  num_kv_heads: int
  d_ff: int
  position: str
  rope_theta: float
  norm: str
  mlp: str
  qk_norm: bool
  bias: bool
  tied_embeddings: bool
  segment_attention: bool
  prefix_attention: str
  attention: str
  dtype: str
  remat: str
  scan_unroll: int

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if field.type is int:
        value = getattr(self, field.name)
        errors.require_in_range(f"model.{field.name}", value, 1)
    errors.require_in_range("model.rope_theta", self.rope_theta, 1.0)
    for name, known in (
      ("position", ("learned", "rope")),
      ("norm", ("layernorm", "rmsnorm")),
      ("mlp", ("gelu", "swiglu")),
      ("prefix_attention", ("causal", "bidirectional")),
      ("attention", ("auto", "xla", "splash", "cudnn")),
      ("dtype", _DTYPES),
      ("remat", ("none", "names", "full")),
    ):
      errors.require_one_of(f"model.{name}", getattr(self, name), known)
    for large, small in (
      ("d_model", "num_heads"),
      ("num_heads", "num_kv_heads"),
    ):
      a, b = getattr(self, large), getattr(self, small)
      errors.require(
        a % b == 0, f"model.{large} {a} is not divisible by model.{small} {b}"
      )
    errors.require(
      self.position != "rope" or self.head_dim % 2 == 0,
      f"model.position 'rope' needs an even head size, got {self.head_dim} "
      "(d_model / num_heads)",
    )

  @property
  def head_dim(self) -> int:
    """H, the size of one attention head."""
    return self.d_model // self.num_heads

  @property
  def num_vocab_rows(self) -> int:
    """V, the vocabulary padded up to a multiple of `VOCAB_MULTIPLE`."""
    return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which text, cut how long, through which door, with which pauses."""

  task: str
  later_rates: str
  door: str
  tokenizer: str
  seq_len: int
  pause_fraction: float
  pause_mode: str
  segments_dir: str
  files: str
  validation_files: str
  field: str
  holdout_every: int
  tfds_name: str
  tfds_data_dir: str
  local_dir: str
  shuffle_buffer: int
  prefetch: int

  def __post_init__(self):
    errors.require_one_of("data.door", self.door, ("segments", "seqio"))
    errors.require_one_of("data.pause_mode", self.pause_mode, pause.MODES)
    # A store of segments and TFDS may lie in a bucket.
    for name in ("tokenizer", "local_dir", "files", "validation_files"):
      for path in getattr(self, name).split(","):
        errors.require_local(f"data.{name}", path.strip())
    errors.require_in_range("data.seq_len", self.seq_len, 2)
    errors.require_in_range(
      "data.pause_fraction", self.pause_fraction, 0.0, 0.9
    )
    errors.require_in_range("data.holdout_every", self.holdout_every, 2)
    errors.require_in_range("data.shuffle_buffer", self.shuffle_buffer, 1)
    errors.require_in_range("data.prefetch", self.prefetch, 1)
    pause.num_text_tokens(self.seq_len, self.pause_fraction, self.pause_mode)

  @property
  def num_text_tokens(self) -> int:
    """Text tokens in a segment before the pauses go in."""
    return pause.num_text_tokens(
      self.seq_len, self.pause_fraction, self.pause_mode
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
  """How downstream examples become sequences (`data/finetuning/prompts.py`)."""

  num_pauses: int
  pause_position: str
  filler: str
  pauses_in_prefix: bool
  pause_init: str
  hints: bool
  packing: bool

  def __post_init__(self):
    errors.require_in_range("finetune.num_pauses", self.num_pauses, -1)
    errors.require_one_of(
      "finetune.pause_position", self.pause_position, PAUSE_POSITIONS
    )
    errors.require_one_of("finetune.pause_init", self.pause_init, PAUSE_INITS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
  """An optax optimizer by name, its schedule, clipping and weight decay."""

  name: str
  kwargs: Mapping[str, Any]
  learning_rate: float
  schedule: str
  warmup_steps: int
  decay_steps: int
  final_fraction: float
  clip_norm: float
  decay_axes: tuple[str, ...]
  embedding_lr_multiplier: float
  head_lr_multiplier: float
  num_microbatches: int
  max_skipped_in_a_row: int

  def __post_init__(self):
    errors.require_one_of("optim.schedule", self.schedule, _SCHEDULES)
    errors.require_in_range("optim.learning_rate", self.learning_rate, 0.0)
    errors.require_in_range("optim.warmup_steps", self.warmup_steps, 0)
    errors.require_in_range("optim.decay_steps", self.decay_steps, 0)
    errors.require_in_range(
      "optim.final_fraction", self.final_fraction, 0.0, 1.0
    )
    errors.require_in_range("optim.clip_norm", self.clip_norm, 0.0)
    for name in ("embedding_lr_multiplier", "head_lr_multiplier"):
      errors.require_in_range(f"optim.{name}", getattr(self, name), 0.0)
    errors.require_in_range("optim.num_microbatches", self.num_microbatches, 1)
    errors.require_in_range(
      "optim.max_skipped_in_a_row", self.max_skipped_in_a_row, 0
    )
    for axis in self.decay_axes:
      errors.require_one_of("optim.decay_axes", axis, PARAMETER_AXES)
    for key, value in self.kwargs.items():
      if isinstance(value, float):
        errors.require_in_range(f"optim.kwargs.{key}", value, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
  """How the cross entropy is computed (`losses.py`)."""

  num_chunks: int
  z_loss: float

  def __post_init__(self):
    errors.require_in_range("loss.num_chunks", self.num_chunks, 1)
    errors.require_in_range("loss.z_loss", self.z_loss, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Devices along each mesh axis; one axis may be -1, "what is left"."""

  data: int
  fsdp: int
  sequence: int
  tensor: int

  def __post_init__(self):
    sizes = dataclasses.asdict(self)
    for name, size in sizes.items():
      errors.require(
        size == -1 or size >= 1,
        f"mesh.{name}: must be at least 1, or -1 for what is left, got {size}",
      )
    errors.require(
      list(sizes.values()).count(-1) <= 1,
      f"mesh: only one of {', '.join(sizes)} may be -1, got "
      f"{tuple(sizes.values())}",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
  """When to save, and which steps to keep."""

  every: int
  keep: int
  keep_period: int
  keep_best: int

  def __post_init__(self):
    errors.require_in_range("checkpoint.every", self.every, 1)
    errors.require_in_range("checkpoint.keep", self.keep, 1)
    errors.require_in_range("checkpoint.keep_period", self.keep_period, 0)
    errors.require_in_range("checkpoint.keep_best", self.keep_best, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """When to measure held-out loss and answers, and on how much."""

  every: int
  num_batches: int
  num_examples: int
  batch_size: int

  def __post_init__(self):
    errors.require_in_range("eval.every", self.every, 0)
    errors.require_in_range("eval.num_batches", self.num_batches, 0)
    errors.require_in_range("eval.num_examples", self.num_examples, 0)
    errors.require_in_range("eval.batch_size", self.batch_size, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
  """Where metrics go besides `metrics.jsonl`, and how often."""

  every: int
  tensorboard: bool

  def __post_init__(self):
    errors.require_in_range("log.every", self.every, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """Everything `pausejax train` needs; `model` waits for the tokenizer."""

  seed: int
  num_steps: int
  stop_at_step: int
  batch_size: int
  init_from: str
  tasks_module: str
  model: Mapping[str, Any]
  data: DataConfig
  finetune: FinetuneConfig
  optim: OptimConfig
  loss: LossConfig
  mesh: MeshConfig
  checkpoint: CheckpointConfig
  eval: EvalConfig
  log: LogConfig

  def __post_init__(self):
    errors.require_local("init_from", self.init_from)
    errors.require_in_range("seed", self.seed, -(2**63), 2**63 - 1)
    errors.require_in_range("stop_at_step", self.stop_at_step, 0)
    errors.require_in_range("batch_size", self.batch_size, 1)
    self.model_config(vocab_size=1)
    size, parts = self.batch_size, self.optim.num_microbatches
    errors.require(
      size % parts == 0,
      f"batch_size {size} is not divisible by optim.num_microbatches {parts}",
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
    limit = self.model["max_seq_len"]
    errors.require(
      self.data.seq_len <= limit,
      f"data.seq_len {self.data.seq_len} is longer than model.max_seq_len "
      f"{limit}",
    )

  def model_config(self, vocab_size: int) -> ModelConfig:
    """Returns the model of this run for a vocabulary of `vocab_size` ids."""
    return ModelConfig(vocab_size=vocab_size, **self.model)


_ROOMS = {
  "data": DataConfig,
  "finetune": FinetuneConfig,
  "optim": OptimConfig,
  "loss": LossConfig,
  "mesh": MeshConfig,
  "checkpoint": CheckpointConfig,
  "eval": EvalConfig,
  "log": LogConfig,
}

_ACCEPTED = {int: int, float: (int, float), str: str, bool: bool}


def train_config(tree: Mapping[str, Any]) -> TrainConfig:
  """Builds the checked settings from a config tree of plain values.

  Raises:
    UsageError: a field is unknown, missing, of another type, or impossible.
  """
  check_fields(tree)
  # First of all, since other fields may follow it.
  errors.require_in_range("num_steps", tree["num_steps"], 1, 2**31 - 1)
  built = {name: room(**tree[name]) for name, room in _ROOMS.items()}
  return TrainConfig(**{**tree, **built})


def check_fields(tree: Any, *, may_lack: bool = False) -> None:
  """Raises unless the tree has every field, each of its type, and no other.

  Args:
    tree: nested mappings.
    may_lack: whether fields may be missing, as in a config that an older
      version saved; the data and the model may not.
  """
  _check_room(TrainConfig, tree, "", may_lack and {"data", "model"} <= {*tree})
  for name, room in {**_ROOMS, "model": ModelConfig}.items():
    if name in tree:
      _check_room(room, tree[name], f"{name}.", may_lack)


def _check_room(room: type, values: Any, prefix: str, may_lack: bool) -> None:
  errors.require(
    isinstance(values, Mapping),
    f"config: expected fields, got a {type(values).__name__}",
  )
  types: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(room)}
  types.pop("vocab_size", None)  # The tokenizer decides.
  for name in values:
    if name not in types:
      hint = errors.nearest(name, types)
      raise errors.UsageError(f"config: unknown field {prefix + name!r}{hint}")
  for name, wanted in types.items():
    path = prefix + name
    if may_lack and name not in values:
      continue
    errors.require(name in values, f"config: the field {path!r} is missing")
    if typing.get_origin(wanted) is tuple:
      kind, accepted = "tuple", (tuple, list)
    elif wanted in _ACCEPTED:
      kind, accepted = wanted.__name__, _ACCEPTED[wanted]
    else:
      kind, accepted = "a group of fields", Mapping
    value = values[name]
    if isinstance(value, str):
      _require_text(path, value)
    is_bool = isinstance(value, bool)
    errors.require(
      isinstance(value, accepted) and is_bool == (wanted is bool),
      f"{path}: expected {kind}, got {value!r}",
    )


def _require_text(path: str, value: str) -> None:
  """Raises unless a text may be part of a file's name, and be printed."""
  errors.require(
    "\0" not in value and not re.search("[\ud800-\udfff]", value),
    f"{path}: {value!r} holds a NUL or half a surrogate pair, which no name or "
    "text may have",
  )
