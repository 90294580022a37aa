"""An open model as a run: its parameters, placed on the mesh, and its config.

Tensors are read one at a time into sharded arrays, so that the host holds one
tensor besides what its own devices hold.

D d_model, V vocabulary rows.
"""

import dataclasses
import functools
import hashlib
import pathlib
import re
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
from pausejax.interop.tensor_files import Tensors, with_prefix
from pausejax.interop.tokenizer_files import TokenizerFile
from pausejax.model import decoder

_MAX_ROWS = 20
# Of older files: buffers that are no parameters.
_BUFFERS = re.compile(
  r"(model|gpt_neox)\.(layers\.\d+\.\w+\.)?rotary_emb\.inv_freq"
  r"|transformer\.h\.\d+\.attn\.(masked_)?bias"
  r"|gpt_neox\.layers\.\d+\.attention\.(masked_)?bias"
)
# Types that are no weights, or that need scales beside them.
_REFUSED_DTYPES = re.compile(r"BOOL|[IU]\d+|F64|C64|F[468](_.*)?")


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
  tree = default().model
  tree.update(fields)
  model = ModelConfig(vocab_size=num_rows + 1, **tree.to_dict())
  tensors = layouts.tensors(family, leaf_shapes(model), num_rows)
  files = with_prefix(source.tensors(), family)
  copied = _copied_head(family, model, files)
  _require_tensors(path, tensors, files, copied)
  if copied:
    _require_copy(path, family, files, copied)
  tokenizer, has_pause = tokenizer_files.filled(source.tokenizer(), num_rows)
  vocab_size = num_rows if has_pause else num_rows + 1
  return OpenModel(
    values=values,
    family=family,
    model=dataclasses.replace(model, vocab_size=vocab_size),
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


def _copied_head(family: Family, model: ModelConfig, files: Tensors) -> str:
  """Returns the name of a head that tied embeddings make superfluous, or ""."""
  head, embedding = (
    f"{family.modules.get(n)}.weight" for n in ("untied_head", "embedding")
  )
  has_both = model.tied_embeddings and {head, embedding} <= files.shapes.keys()
  is_copy = has_both and files.shapes[head] == files.shapes[embedding]
  return head if is_copy else ""


def _require_copy(folder, family: Family, files: Tensors, head: str) -> None:
  """Raises unless a stored head is the embedding, as config.json says."""
  embedding = f"{family.modules['embedding']}.weight"
  # One after the other, since the host has space for one.
  sums = {hashlib.sha256(files.read(n)).digest() for n in (head, embedding)}
  if len(sums) > 1:
    raise errors.UserError(
      f"{folder}: {head} differs from {embedding}, and config.json has "
      "tie_word_embeddings true; set it to false to keep the head, or remove "
      "the tensor"
    )


def _require_tensors(folder, tensors, files: Tensors, copied: str) -> None:
  """Raises unless the files hold exactly these tensors, in floats."""
  expected = {t.name: _text(t.shape) for t in tensors}
  actual = {
    name: _text(shape)
    + (f" of {dtype}" if _REFUSED_DTYPES.fullmatch(dtype) else "")
    for name, (shape, dtype) in files.shapes.items()
    if name in expected or not (_BUFFERS.fullmatch(name) or name == copied)
  }
  rows = [
    f"  {n}: expected {expected.get(n, 'none')}, the file has "
    f"{actual.get(n, 'none')}"
    for n in sorted(expected.keys() | actual.keys())
    if expected.get(n) != actual.get(n)
  ]
  if rows:
    more = len(rows) - _MAX_ROWS
    table = rows[:_MAX_ROWS] + ([f"  and {more} more"] if more > 0 else [])
    raise errors.UserError(
      f"{folder}: {len(rows)} tensors differ from those of its config.json (in "
      "float32, float16 or bfloat16); nothing was written",
      details="\n".join(table),
    )


def _text(shape: tuple[int, ...]) -> str:
  return str(list(shape))


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


def require_finite(model: decoder.Decoder, folder: pathlib.Path) -> None:
  """Raises a UserError that names a parameter with values that are not finite.

  All processes call it together.
  """
  is_finite = jax.jit(lambda x: jnp.isfinite(x).all())
  for name, x in leaves.flatten(model).items():
    if not is_finite(x):
      raise errors.UserError(
        f"{folder}: values of {name} are NaN or infinite; nothing was written; "
        "download the folder again"
      )


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
