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

from pausejax import errors, sharding
from pausejax.checkpoints import leaves
from pausejax.config import ModelConfig, default
from pausejax.interop import families, layouts, tokenizer_files
from pausejax.interop.family import Family
from pausejax.interop.model_files import open_model_files
from pausejax.interop.tensor_files import Tensors
from pausejax.interop.tokenizer_files import TokenizerFile
from pausejax.model import decoder

_MAX_ROWS = 20
# Of older files: buffers that are no parameters.
_IGNORED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
_IGNORED += (".attention.bias", ".attention.masked_bias")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenModel:
  """What a folder holds, checked before any tensor is read.

  Attributes:
    values: its config.json.
    family: its architecture.
    model: config of the decoder; the last id is `<pause>`.
    fields: the fields of `model` of a run's config.
    tokenizer: its tokenizer, with an id for every row of the embedding.
    has_pause: whether the last of its own rows is `<pause>`; else it gets one
      row more.
    tensors: where each of our leaves is.
    files: the tensors.
  """

  values: dict[str, Any]
  family: Family
  model: ModelConfig
  fields: dict[str, Any]
  tokenizer: TokenizerFile
  has_pause: bool
  tensors: list[layouts.Tensor]
  files: Tensors

  @property
  def pauses_seen(self) -> bool:
    """Whether the model was trained on `<pause>`."""
    own = self.values.get("pausejax")
    seen = own.get("pauses_seen", True) if isinstance(own, dict) else True
    return self.has_pause and seen is not False


def check_folder(path: pathlib.Path) -> OpenModel:
  """Returns the model of a folder, or of a GGUF file.

  Raises:
    UserError: the architecture is not supported, or tensors are missing, extra
      or of another shape; the message has a table of them.
  """
  source = open_model_files(path)
  values = source.values
  family, fields = families.parse_config(values)
  num_rows = values["vocab_size"]
  tokenizer, has_pause = tokenizer_files.filled(source.tokenizer(), num_rows)
  tree = default().model
  tree.update(fields)
  vocab_size = num_rows if has_pause else num_rows + 1
  model = ModelConfig(vocab_size=vocab_size, **tree.to_dict())
  tensors = layouts.tensors(family, leaf_shapes(model), num_rows)
  files = source.tensors()
  _require_tensors(path, tensors, files, model)
  return OpenModel(
    values=values,
    family=family,
    model=model,
    fields=fields,
    tokenizer=tokenizer,
    has_pause=has_pause,
    tensors=tensors,
    files=files,
  )


def leaf_shapes(model: ModelConfig) -> dict[str, tuple[tuple[int, ...], Any]]:
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

  A new row of `<pause>` is the mean of the others, in the embedding and in the
  head.
  """
  abstract = sharding.placed(
    jax.eval_shape(lambda: decoder.init(source.model, 0))
  )
  named = {n: _zeros(x) for n, x in leaves.flatten(abstract).items()}
  for tensor in source.tensors:
    names = [part.leaf for part in tensor.parts]
    held = [named[name] for name in names]
    values = source.files.read(tensor.name)
    layer, kind = tensor.parts[0].layer, tensor.of_any_layer()
    changed = _put(held, values, layer, source.family, kind)
    named |= zip(names, changed, strict=True)
    # Dispatched computations would hold more than one tensor.
    jax.block_until_ready(changed)
  if not source.has_pause:
    pause_id = source.model.vocab_size - 1
    for name, axis in (("embedding", 0), ("untied_head", 1), ("head_bias", 0)):
      if name in named:
        named[name] = _with_pause(named[name], pause_id, axis)
  return leaves.unflatten(abstract, named)


def _zeros(x: Any) -> jax.Array:
  make = jax.jit(lambda: jnp.zeros(x.shape, x.dtype), out_shardings=x.sharding)
  return make()


@functools.partial(jax.jit, donate_argnums=0, static_argnums=(3, 4))
def _put(
  held: list[jax.Array],
  values: jax.Array,
  layer: jax.Array | int | None,
  family: Family,
  tensor: layouts.Tensor,
) -> list[jax.Array]:
  """Returns the leaves with one layer, or their first rows, replaced.

  The host hands over the tensor as it is stored: reordering it there would
  make a second copy.
  """
  parts = layouts.from_tensor(family, tensor, values)
  changed = []
  for leaf, part in zip(held, parts, strict=True):
    place = tuple(slice(n) for n in part.shape)
    place = place if layer is None else (layer, *place)
    changed.append(leaf.at[place].set(part.astype(leaf.dtype)))
  return changed


@functools.partial(jax.jit, donate_argnums=0, static_argnums=(1, 2))
def _with_pause(table: jax.Array, pause_id: int, axis: int) -> jax.Array:
  """Returns the table with the mean of the text's rows as that of `<pause>`.

  That row must be zeros: a slice without it would be a copy of the table.
  """
  place = (slice(None),) * axis + (pause_id,)
  return table.at[place].set(jnp.sum(table, axis=axis) / pause_id)
