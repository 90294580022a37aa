"""Fields of `ModelConfig` that most config.json have in the same keys."""

from typing import Any

from pausejax.interop.family import Given, Values


def size_fields(g: Given) -> dict[str, Any]:
  """Returns the fields whose keys most families share."""
  num_heads = g["num_attention_heads"]
  return dict(
    num_layers=g["num_hidden_layers"],
    d_model=g["hidden_size"],
    num_heads=num_heads,
    num_kv_heads=g.get("num_key_value_heads", num_heads),
    head_dim=g.get("head_dim", g["hidden_size"] // num_heads),
    d_ff=g["intermediate_size"],
    max_seq_len=g["max_position_embeddings"],
    tied_embeddings=g["tie_word_embeddings"],
    bias=False,
  )


def rope_fields(g: Given, parameters: Values | None = None) -> dict[str, Any]:
  """Returns the fields of rotary positions.

  transformers 5 has `rope_parameters`; before, `rope_theta`, `rope_scaling` and
  `partial_rotary_factor`.
  """
  scaling = parameters or g.get("rope_parameters") or g.get("rope_scaling", {})
  kind = scaling.get("rope_type", scaling.get("type", "default"))
  fields = dict(
    position="rope",
    rope_theta=float(scaling.get("rope_theta", g.get("rope_theta", 10_000.0))),
    rope_fraction=float(
      scaling.get("partial_rotary_factor", g.get("partial_rotary_factor", 1.0))
    ),
  )
  if kind == "default":
    return fields
  if kind not in ("linear", "llama3"):
    g.missing.append(f"rope_type {kind!r}")
    return fields
  fields |= dict(rope_scaling=kind, rope_scaling_factor=scaling["factor"])
  if kind == "llama3":
    fields |= dict(
      rope_low_frequency_factor=scaling["low_freq_factor"],
      rope_high_frequency_factor=scaling["high_freq_factor"],
      rope_original_seq_len=scaling["original_max_position_embeddings"],
    )
  return fields


def window_fields(g: Given) -> dict[str, Any]:
  """Returns the fields of layers with and without a window."""
  layers = g.get("layer_types")
  every = g.get("sliding_window_pattern", 0)
  if layers:
    is_global = [kind == "full_attention" for kind in layers]
    every = period_of(g, "layer_types", is_global)
  by_kind = g.get("rope_parameters", {})
  if "full_attention" not in by_kind:
    local = g.get("rope_local_base_freq")
    fields = rope_fields(g)
    local = {"local_rope_theta": float(local or fields["rope_theta"])}
  else:
    fields = rope_fields(g, by_kind["full_attention"])
    of_local = by_kind["sliding_attention"]
    if of_local.get("rope_type", "default") != "default":
      g.missing.append("scaled rotary positions in layers with a window")
    local = {"local_rope_theta": float(of_local["rope_theta"])}
  window = g.get("sliding_window", 0)
  return fields | local | dict(window=window, global_every=every)


def period_of(g: Given, name: str, marked: list[bool]) -> int:
  """Returns n if exactly every n-th layer is marked, 0 if none is."""
  if not any(marked):
    return 0
  every = marked.index(True) + 1
  if marked != [(i + 1) % every == 0 for i in range(len(marked))]:
    g.missing.append(f"{name} that does not mark every n-th layer")
  return every
