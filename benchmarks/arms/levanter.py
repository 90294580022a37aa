"""levanter's train step: its GPT-2, AdamW and trainer with their defaults.

Compiled only, for devices that need not exist. Its defaults on TPUs: splash
attention, rematerialization of whole blocks, parameters split over all devices,
a blockwise loss. As in its training on packed documents, attention stays within
a document.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import equinox
import haliax
import jax
import jax.numpy as jnp
import jmp
import levanter.optim
import levanter.trainer
from levanter.layers.attention import AttentionMask
from levanter.models.gpt2 import Gpt2Config
from levanter.models.lm_model import LmExample
from levanter.tracker import NoopConfig
from levanter.trainer_state import TrainerState

from pausejax.config import ModelConfig, TrainConfig
from pausejax.training.compiler_options import compiler_options


def lower(
  config: TrainConfig, model_config: ModelConfig, devices: Sequence[Any]
) -> jax.stages.Lowered:
  """Returns the train step of the shape, batch and optimizer of a run.

  Raises:
    ValueError: the model has a head of its own.
  """
  if not model_config.tied_embeddings:
    raise ValueError(
      "levanter's GPT-2 has no head: --config.model.tied_embeddings=true"
    )
  trainer = levanter.trainer.Trainer(
    levanter.trainer.TrainerConfig(
      id="lowered",
      tracker=NoopConfig(),
      mp=jmp.get_policy("params=float32,compute=bfloat16,output=bfloat16"),
      train_batch_size=config.batch_size,
    ),
    _optimizer(config),
    lambda model, example, *, key=None: model.compute_next_token_loss(
      example, key=key
    ),
    add_default_hooks=False,
  )
  with _as_devices_of_jax(devices):
    return _lower(trainer, *_shapes(trainer, config, model_config))


@contextlib.contextmanager
def _as_devices_of_jax(devices: Sequence[Any]) -> Iterator[None]:
  """Lets levanter, which asks JAX for the devices, find these."""
  given = lambda *_, **__: list(devices)
  with mock.patch.multiple(
    jax,
    devices=given,
    local_devices=given,
    device_count=lambda *_: len(devices),
    default_backend=lambda: "tpu",
  ):
    yield


def _optimizer(config: TrainConfig):
  kwargs = config.optim.kwargs
  return levanter.optim.AdamConfig(
    learning_rate=config.optim.learning_rate,
    weight_decay=kwargs["weight_decay"],
    beta1=kwargs["b1"],
    beta2=kwargs["b2"],
    max_grad_norm=config.optim.clip_norm,
  ).build(config.num_steps)


def _shapes(
  trainer: Any, config: TrainConfig, c: ModelConfig
) -> tuple[TrainerState, LmExample]:
  """Returns the state and a batch as shapes."""
  vocab = haliax.Axis("vocab", c.num_vocab_rows)
  model = Gpt2Config(
    max_seq_len=c.max_seq_len,
    hidden_dim=c.d_model,
    num_layers=c.num_layers,
    num_heads=c.num_heads,
    mlp_scale=c.d_ff // c.d_model,
  )

  def init() -> TrainerState:
    key = jax.random.PRNGKey(0)
    return TrainerState.init(
      trainer.optimizer, model.build(vocab, key=key), key=key, mp=trainer.mp
    )

  state = equinox.filter_eval_shape(init)
  rows = haliax.Axis("batch", config.batch_size)
  axes = (rows, model.max_Pos.resize(config.data.seq_len))
  ids, weights = (
    haliax.NamedArray(
      jax.ShapeDtypeStruct(tuple(a.size for a in axes), dtype), axes
    )
    for dtype in (jnp.int32, jnp.float32)
  )
  mask = AttentionMask.causal().with_segment_ids(ids)
  return state, LmExample(ids, weights, mask)


def _lower(
  trainer: Any, state: TrainerState, example: LmExample
) -> jax.stages.Lowered:
  """Lowers with the arrays as arguments, the state's donated."""
  is_array = lambda x: isinstance(x, jax.ShapeDtypeStruct)
  shapes, static = equinox.partition((state, example), is_array)
  layout = functools.partial(
    haliax.partitioning.infer_resource_partitions, mesh=trainer.device_mesh
  )
  layouts = (
    layout(shapes[0], trainer.parameter_axis_mapping),
    layout(shapes[1], trainer.compute_axis_mapping),
  )

  def step(state_arrays, example_arrays):
    state, example = equinox.combine((state_arrays, example_arrays), static)
    with haliax.axis_mapping(trainer.parameter_axis_mapping):
      result = trainer._train_step(state, (example,), {}, _no_hooks=True)
    return equinox.filter((result.new_state, result.loss), equinox.is_array)

  with trainer:
    return jax.jit(
      step,
      in_shardings=layouts,
      donate_argnums=0,
      compiler_options=compiler_options(),
    ).lower(*shapes)
