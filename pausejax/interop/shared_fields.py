"""Fields of `ModelConfig` that most config.json have in the same keys.

Where versions of transformers read a key in different ways, version 5 counts.
"""

from collections.abc import Sequence
from typing import Any

from pausejax.interop.family import Given

_MAX_LAYERS = 2**12
_MAX_POSITIONS = 2**31 - 1
_FULL, _SLIDING = "full_attention", "sliding_attention"


def size_fields(g: Given) -> dict[str, Any]:
  """Returns the fields whose keys most families share."""
  num_heads = g.whole("num_attention_heads")
  d_model = g.whole("hidden_size")
  return dict(
    num_layers=num_layers(g),
    d_model=d_model,
    num_heads=num_heads,
    num_kv_heads=g.whole("num_key_value_heads", num_heads),
    head_dim=g.whole("head_dim", d_model // num_heads),
    d_ff=g.whole("intermediate_size"),
    max_seq_len=g.whole("max_position_embeddings", maximum=_MAX_POSITIONS),
    tied_embeddings=g.flag("tie_word_embeddings"),
    bias=False,
  )


def num_layers(g: Given, name: str = "num_hidden_layers") -> int:
  """Returns the number of layers."""
  return g.whole(name, maximum=_MAX_LAYERS)


def rope_fields(
  g: Given, *, theta: str = "rope_theta", share: str = ""
) -> dict[str, Any]:
  """Returns the fields of rotary positions that all layers have.

  transformers 5 has `rope_parameters`; before, `rope_scaling` and keys beside
  it, which are still read.

  Args:
    g: the config.json.
    theta: key beside `rope_scaling` of the base of the wavelengths.
    share: key beside it of the share of each head that rotates; "": the class
      rotates whole heads.
  """
  parameters = g.part("rope_scaling")
  if not parameters.names():
    parameters = g.part("rope_parameters")
  fields = _rope_of(g, parameters, theta)
  if share:
    in_parameters = parameters.number("partial_rotary_factor", g.number(share))
    return fields | dict(rope_fraction=in_parameters)
  for one in (g, parameters):
    one.require("partial_rotary_factor", None, 1)
  return fields


def _rope_of(g: Given, parameters: Given, theta: str) -> dict[str, Any]:
  """Returns the fields of the layers that have these parameters."""
  fields: dict[str, Any] = dict(
    position="rope", rope_theta=parameters.number("rope_theta", g.number(theta))
  )
  kind = parameters.get("rope_type")
  kind = parameters.get("type") if kind is None else kind
  if kind in (None, "default"):
    return fields
  if kind not in ("linear", "llama3"):
    parameters.missing.append(f"rope_type {kind!r:.60}")
    return fields
  fields |= dict(
    rope_scaling=kind, rope_scaling_factor=parameters.number("factor")
  )
  if kind == "llama3":
    fields |= dict(
      rope_low_frequency_factor=parameters.number("low_freq_factor"),
      rope_high_frequency_factor=parameters.number("high_freq_factor"),
      rope_original_seq_len=parameters.whole(
        "original_max_position_embeddings",
        g.whole("max_position_embeddings", maximum=_MAX_POSITIONS),
        maximum=_MAX_POSITIONS,
      ),
    )
  return fields


def window_field(g: Given) -> dict[str, Any]:
  """Returns the window of all layers; 0 if `sliding_window` is null."""
  has_window = g.get("sliding_window") is not None
  kind = _SLIDING if has_window else _FULL
  kinds = g.per_layer("layer_types", num_layers(g), str)
  if any(x != kind for x in kinds):
    g.missing.append(f"layer_types other than {kind}")
  window = (
    g.whole("sliding_window", maximum=_MAX_POSITIONS) if has_window else 0
  )
  return dict(window=window)


def layer_windows(g: Given, kinds: Sequence[str]) -> dict[str, Any]:
  """Returns the window and the layers that have none.

  Args:
    g: the config.json.
    kinds: what `layer_types` is where the file has none.
  """
  count = num_layers(g)
  kinds = g.per_layer("layer_types", count, str) or kinds
  for kind in sorted({*kinds} - {_FULL, _SLIDING}):
    g.missing.append(f"layer_types {kind!r:.60}")
  if _SLIDING not in kinds:
    return dict(window=0)
  window = g.whole("sliding_window", maximum=_MAX_POSITIONS)
  is_global = [kind == _FULL for kind in kinds]
  every = every_nth(g, "layer_types", is_global)
  return dict(window=window, global_every=every)


def optional_windows(g: Given) -> dict[str, Any]:
  """Returns the windows of families with `use_sliding_window`."""
  count = num_layers(g)
  kinds = [_FULL] * count
  if not g.flag("use_sliding_window"):
    if _SLIDING in g.per_layer("layer_types", count, str):
      g.missing.append("layer_types 'sliding_attention' without a window")
    return dict(window=0)
  if g.get("sliding_window") is not None:
    first = g.get("max_window_layers")
    first = 0 if first == 0 else g.whole("max_window_layers")
    kinds = kinds[:first] + [_SLIDING] * (count - first)
  fields = layer_windows(g, kinds)
  if fields.get("global_every") and "rope_scaling" in rope_fields(g):
    g.missing.append("scaled rotary positions in layers with a window")
  return fields


def windows_and_rope(g: Given, kinds: Sequence[str]) -> dict[str, Any]:
  """Returns windows, and rotary positions that differ with the window.

  transformers 5 has one object in `rope_parameters` for each kind of layer;
  before, `rope_theta` and `rope_scaling` were those of layers without a window.

  Args:
    g: the config.json.
    kinds: what `layer_types` is where the file has none.
  """
  by_kind = g.part("rope_parameters")
  for other in sorted({*by_kind.names()} - {_FULL, _SLIDING}):
    g.missing.append(f"rope_parameters.{other:.60} of all kinds of layers")
  full = g.part("rope_scaling").over(by_kind.part(_FULL))
  local = by_kind.part(_SLIDING)
  for one in (g, full, local):
    one.require("partial_rotary_factor", None, 1)
  of_full = _rope_of(g, full, "rope_theta")
  of_local = _rope_of(g, local, "rope_local_base_freq")
  fields = layer_windows(g, kinds)
  if not fields["window"]:
    return of_full | fields
  if not fields["global_every"]:
    return of_local | fields
  if "rope_scaling" in of_local:
    g.missing.append("scaled rotary positions in layers with a window")
  return of_full | fields | dict(local_rope_theta=of_local["rope_theta"])


def every_nth(g: Given, name: str, marked: Sequence[bool]) -> int:
  """Returns n if exactly every n-th layer is marked, 0 if none is."""
  if not any(marked):
    return 0
  every = marked.index(True) + 1
  if marked != [(i + 1) % every == 0 for i in range(len(marked))]:
    g.missing.append(f"{name} that does not mark every n-th layer")
  return every
