"""An open model as a run: its parameters, placed on the mesh, and its config.

Tensors are read one at a time into sharded arrays, so that the host holds one
tensor besides what its own devices hold.

D d_model, V vocabulary rows.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from pausejax import errors, json_files, sharding
from pausejax.checkpoints import leaves
from pausejax.config import ModelConfig, default
from pausejax.interop import families, layouts
from pausejax.interop.family import Family
from pausejax.interop.tensor_files import TensorFolder
from pausejax.model import decoder

_MAX_ROWS = 20
# Of older files: buffers that are no parameters.
_IGNORED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
_IGNORED += (".attention.bias", ".attention.masked_bias")


@dataclasses.dataclass(frozen=True)
class OpenModel:
  """What a folder holds, checked before any tensor is read.

  Attributes:
    family: its architecture.
    model: config of the decoder, with one id more for `<pause>`.
    fields: the fields of `model` of a run's config.
    tensors: where each of our leaves is.
    files: the tensors.
  """

  family: Family
  model: ModelConfig
  fields: dict[str, Any]
  tensors: list[layouts.Tensor]
  files: TensorFolder

  @property
  def num_text_ids(self) -> int:
    """Rows of the embedding in the files; the id of `<pause>`."""
    return self.model.vocab_size - 1


def check_folder(folder: pathlib.Path) -> OpenModel:
  """Returns the model of a folder.

  Raises:
    UserError: the architecture is not supported, or tensors are missing, extra
      or of another shape; the message has a table of them.
  """
  values = json_files.read(folder / "config.json", dict, "name a model folder")
  family, fields = families.parse_config(values)
  tree = default().model
  tree.update(fields)
  num_text_ids = values["vocab_size"]
  model = ModelConfig(vocab_size=num_text_ids + 1, **tree.to_dict())
  tensors = layouts.tensors(family, _shapes(model), num_text_ids)
  files = TensorFolder(folder)
  _require_tensors(folder, tensors, files, model)
  return OpenModel(family, model, fields, tensors, files)


def _shapes(model: ModelConfig) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Returns leaf -> (its shape, its logical axes)."""
  abstract = jax.eval_shape(lambda: decoder.init(model, 0))
  is_param = lambda x: isinstance(x, nnx.Variable)
  return {
    n: (p.get_value().shape, p.get_metadata("axes"))
    for n, p in leaves.flatten(abstract, is_param).items()
  }


def _require_tensors(folder, tensors, files, model) -> None:
  expected = {t.name: t.shape for t in tensors}
  ignored = _IGNORED + (("lm_head.weight",) if model.tied_embeddings else ())
  actual = {
    n: shape
    for n, (shape, _) in files.shapes.items()
    if n in expected or not n.endswith(ignored)
  }
  rows = [
    f"  {n}: expected {_text(expected.get(n))}, the file has "
    f"{_text(actual.get(n))}"
    for n in sorted(expected.keys() | actual.keys())
    if expected.get(n) != actual.get(n)
  ]
  if rows:
    more = len(rows) - _MAX_ROWS
    table = rows[:_MAX_ROWS] + ([f"  and {more} more"] if more > 0 else [])
    raise errors.UserError(
      f"{folder}: {len(rows)} tensors differ from those of its config.json; "
      "nothing was written",
      details="\n".join(table),
    )


def _text(shape: tuple[int, ...] | None) -> str:
  return "none" if shape is None else str(list(shape))


def load_params(source: OpenModel) -> decoder.Decoder:
  """Returns the parameters in float32, sharded over the mesh in scope.

  The row of `<pause>` is the mean of the others.
  """
  abstract = sharding.placed(
    jax.eval_shape(lambda: decoder.init(source.model, 0))
  )
  named = {n: _zeros(x) for n, x in leaves.flatten(abstract).items()}
  for tensor in source.tensors:
    values = source.files.read(tensor.name)
    parts = layouts.from_tensor(source.family, tensor, values)
    for part, x in zip(tensor.parts, parts, strict=True):
      named[part.leaf] = _put(named[part.leaf], x, part.layer)
  named["embedding"] = _with_pause(named["embedding"], source.num_text_ids)
  return leaves.unflatten(abstract, named)


def _zeros(x: Any) -> jax.Array:
  make = jax.jit(lambda: jnp.zeros(x.shape, x.dtype), out_shardings=x.sharding)
  return make()


@functools.partial(jax.jit, donate_argnums=0)
def _put(
  leaf: jax.Array, part: jax.Array, layer: jax.Array | int | None
) -> jax.Array:
  """Returns the leaf with one layer of it, or its first rows, replaced."""
  place = tuple(slice(n) for n in part.shape)
  place = place if layer is None else (layer, *place)
  return leaf.at[place].set(part.astype(leaf.dtype))


@functools.partial(jax.jit, donate_argnums=0, static_argnames="pause_id")
def _with_pause(table_VD: jax.Array, pause_id: int) -> jax.Array:
  return table_VD.at[pause_id].set(jnp.mean(table_VD[:pause_id], axis=0))
