"""Fields of a config that a command line changes."""

import json

import pytest

from pausejax import errors
from pausejax.config import PARAMETER_AXES, train_config
from tests.command_lines import CONFIGS, SMOKE, leaves, load


def test_a_tuple_on_the_command_line_keeps_the_type_of_its_elements():
  config = load(CONFIGS / "study.py", "seeds=3,4", "tasks=squad")
  assert (config.seeds, config.tasks) == ((3, 4), ("squad",))
  with pytest.raises(errors.UsageError, match="seeds: expected"):
    load(CONFIGS / "study.py", "seeds=one")


@pytest.mark.parametrize(
  ("override", "path", "value"),
  [
    ("num_steps=7", "num_steps", 7),
    ("num_steps=+1_000", "num_steps", 1000),
    ("seed=-3", "seed", -3),
    ("optim.learning_rate=1e-2", "optim.learning_rate", 0.01),
    ("optim.learning_rate=1", "optim.learning_rate", 1.0),
    ("data.task=text", "data.task", "text"),
    ("data.files=a=b,c:d", "data.files", "a=b,c:d"),
    ("data.files=", "data.files", ""),
    ("data.files=3", "data.files", "3"),
    ("log.tensorboard=true", "log.tensorboard", True),
    ("log.tensorboard=True", "log.tensorboard", True),
    ("log.tensorboard=1", "log.tensorboard", True),
    ("model.bias=false", "model.bias", False),
    ("model.bias=0", "model.bias", False),
    ("optim.decay_axes=heads,mlp", "optim.decay_axes", ("heads", "mlp")),
    ("optim.decay_axes=heads", "optim.decay_axes", ("heads",)),
    ("optim.decay_axes=('heads', 'mlp')", "optim.decay_axes", ("heads", "mlp")),
    ("optim.decay_axes=", "optim.decay_axes", ()),
    ("optim.kwargs.b1=0.5", "optim.kwargs.b1", 0.5),
    ("optim.kwargs.b1=0", "optim.kwargs.b1", 0.0),
    ("optim.kwargs.eps=1e-6", "optim.kwargs.eps", 1e-6),
    ("optim.kwargs.nesterov=true", "optim.kwargs.nesterov", True),
    ("optim.kwargs.nesterov=False", "optim.kwargs.nesterov", False),
    ("optim.kwargs.mu_dtype=bfloat16", "optim.kwargs.mu_dtype", "bfloat16"),
    ("optim.kwargs.mu_dtype='bfloat16'", "optim.kwargs.mu_dtype", "bfloat16"),
    ("optim.kwargs.mu_dtype=None", "optim.kwargs.mu_dtype", None),
    ("optim.kwargs.mu_dtype=null", "optim.kwargs.mu_dtype", None),
  ],
)
def test_an_override_takes_effect(override, path, value):
  value_now = load(SMOKE, override)
  for key in path.split("."):
    value_now = value_now[key]
  assert value_now == value
  assert type(value_now) is type(value)
  # And nothing else changes.
  before = leaves(load(SMOKE).to_dict())
  changed = leaves(load(SMOKE, override).to_dict())
  field = "optim.kwargs" if "kwargs" in path else path
  follow = {k for k in before if path == "model.bias" and k.endswith("_bias")}
  if path == "optim.learning_rate":
    follow = {"optim.pause_only_learning_rate"}
  assert {k for k in before if before[k] != changed[k]} <= {field, *follow}


def test_the_last_override_of_a_field_counts():
  assert load(SMOKE, "num_steps=3", "num_steps=5").num_steps == 5


@pytest.mark.parametrize("text", ["{}", '{"momentum": 0.9, "nesterov": true}'])
def test_kwargs_can_be_replaced_whole(text):
  config = load(SMOKE, "optim.name=sgd", f"optim.kwargs={text}")
  assert train_config(config.to_dict()).optim.kwargs == json.loads(text)


def test_fields_follow_the_one_they_refer_to():
  config = load(SMOKE, "model.d_model=64", "model.num_heads=2")
  assert (config.model.d_ff, config.model.num_kv_heads) == (256, 2)
  assert load(SMOKE, "data.seq_len=512").model.max_seq_len == 512


def test_a_field_that_follows_can_be_set_alone():
  config = load(
    SMOKE, "model.num_kv_heads=2", "model.d_ff=96", "model.max_seq_len=1024"
  )
  assert (config.model.num_heads, config.model.d_model) == (4, 128)
  assert (config.model.num_kv_heads, config.model.d_ff) == (2, 96)
  assert (config.model.max_seq_len, config.data.seq_len) == (1024, 256)
  built = train_config(config.to_dict())
  assert built.model_config(vocab_size=1).num_kv_heads == 2


def test_the_axes_of_weight_decay_are_those_of_the_parameters():
  from pausejax import sharding

  not_of_parameters = {"batch", "sequence", "layers"}
  assert set(PARAMETER_AXES) == set(sharding.LOGICAL_RULES) - not_of_parameters
