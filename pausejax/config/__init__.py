"""The config of a run: its fields, files that set them, and their help."""

from pausejax.config.arguments import parse_arg
from pausejax.config.data import (
  PAUSE_INITS,
  DataConfig,
  FinetuneConfig,
)
from pausejax.config.fields import (
  ConfigGroup,
  Follows,
  architecture_fields,
  field,
)
from pausejax.config.loader import load_config
from pausejax.config.model import SIZES, VOCAB_MULTIPLE, ModelConfig
from pausejax.config.outputs import (
  CheckpointConfig,
  EvalConfig,
  LogConfig,
  ProfileConfig,
)
from pausejax.config.training import (
  PARAMETER_AXES,
  LossConfig,
  MeshConfig,
  OptimConfig,
  TrainConfig,
)
from pausejax.config.tree import check_fields, default, train_config
from pausejax.config.watchdog import WatchdogConfig

__all__ = [
  "PARAMETER_AXES",
  "PAUSE_INITS",
  "SIZES",
  "VOCAB_MULTIPLE",
  "CheckpointConfig",
  "ConfigGroup",
  "DataConfig",
  "EvalConfig",
  "FinetuneConfig",
  "Follows",
  "LogConfig",
  "LossConfig",
  "MeshConfig",
  "ModelConfig",
  "OptimConfig",
  "ProfileConfig",
  "TrainConfig",
  "WatchdogConfig",
  "architecture_fields",
  "check_fields",
  "default",
  "field",
  "load_config",
  "parse_arg",
  "train_config",
]
