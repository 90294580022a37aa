"""The decoder in plain numpy, one row at a time.

`forward` is written from the docstrings of `model/` and the names of
the leaves alone, in float64, with loops where the product has einsum.
"""

import math

import numpy as np

from pausejax.checkpoints import leaves


def norm(c, x, weights, name, kind=None):
  """The norm of the model, or the given kind; as it is if it has no scale."""
  kind = kind or c.norm
  if f"{name}/scale" not in weights:
    return x
  scale, bias = weights[f"{name}/scale"], weights.get(f"{name}/bias", 0.0)
  if kind == "layernorm":
    centered = x - x.mean(-1, keepdims=True)
    epsilon = c.norm_epsilon or 1e-5
    return centered / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias
  scale = scale + (kind == "rmsnorm_zero_centered")
  epsilon = c.norm_epsilon or 1e-6
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def wavelengths(c, layer):
  """Positions of a full turn of each pair of a layer."""
  half = int(c.head_dim * c.rope_fraction) // 2
  powers = np.arange(half) / half
  is_global = c.global_every and (layer + 1) % c.global_every == 0
  if c.window and c.global_every and not is_global:
    return 2 * np.pi * c.local_rope_theta**powers
  plain = 2 * np.pi * c.rope_theta**powers
  if c.rope_scaling == "none":
    return plain
  if c.rope_scaling == "linear":
    return plain * c.rope_scaling_factor
  turns = c.rope_original_seq_len / plain
  low, high = c.rope_low_frequency_factor, c.rope_high_frequency_factor
  share = (turns - low) / (high - low)
  between = 1 / (share / plain + (1 - share) / plain / c.rope_scaling_factor)
  long = np.where(turns < low, plain * c.rope_scaling_factor, between)
  return np.where(turns > high, plain, long)


def rotate(c, x, layer):
  """Rotary positions of [T, heads, H], the two halves as pairs."""
  if c.no_rope_every and (layer + 1) % c.no_rope_every == 0:
    return x
  angle = 2 * np.pi * np.arange(len(x))[:, None] / wavelengths(c, layer)
  half = angle.shape[1]
  cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
  a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
  return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def linear(x, weights, name):
  kernel = weights[f"{name}/kernel"]
  flat = kernel.reshape(x.shape[-1], -1)
  y = (x @ flat).reshape(*x.shape[:-1], *kernel.shape[1:])
  return y + weights.get(f"{name}/bias", 0.0)


def norm_heads(c, w, x, name):
  kind = "rmsnorm" if c.norm == "layernorm" else c.norm
  if c.qk_norm and c.qk_norm_span == "all_heads":
    flat = norm(c, x.reshape(len(x), -1), w, name, kind)
    return flat.reshape(x.shape)
  return norm(c, x, w, name, kind)


def attend(c, w, x, layer, num_prefix):
  q, k, v = (linear(x, w, n) for n in ("query", "key", "value"))
  q, k = norm_heads(c, w, q, "query_norm"), norm_heads(c, w, k, "key_norm")
  if c.position == "rope":
    q, k = rotate(c, q, layer), rotate(c, k, layer)
  is_global = c.global_every and (layer + 1) % c.global_every == 0
  out = np.zeros_like(q)
  for t in range(len(x)):
    last = max(t, num_prefix - 1) if t < num_prefix else t
    first = 0 if is_global or not c.window else max(0, t - c.window + 1)
    for n in range(c.num_heads):
      g = n // (c.num_heads // c.num_kv_heads)
      scale = c.query_scale or c.head_dim**-0.5
      scores = k[first : last + 1, g] @ q[t, n] * scale
      p = np.exp(scores - scores.max())
      out[t, n] = p @ v[first : last + 1, g] / p.sum()
  kernel = w["mix/kernel"]
  mixed = out.reshape(len(x), -1) @ kernel.reshape(-1, kernel.shape[-1])
  return norm(c, mixed + w.get("mix/bias", 0.0), w, "attention_output_norm")


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
  return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def feed_forward(c, w, x):
  wide = linear(x, w, "expand")
  if c.mlp in ("swiglu", "geglu"):
    gate = linear(x, w, "gate")
    gated = gelu(gate) if c.mlp == "geglu" else gate / (1 + np.exp(-gate))
    active = gated * wide
  else:
    active = gelu(wide) if c.mlp == "gelu" else gelu_exact(wide)
  return norm(c, linear(active, w, "contract"), w, "mlp_output_norm")


def block(c, w, x, layer, num_prefix):
  y = norm(c, x, w, "attention_norm")
  mixed = attend(c, w, y, layer, num_prefix)
  if c.residual == "sequential":
    x = x + mixed
    return x + feed_forward(c, w, norm(c, x, w, "mlp_norm"))
  if c.residual == "parallel":
    y = norm(c, x, w, "mlp_norm")
  return x + mixed + feed_forward(c, w, y)


def weights_of(model):
  """The parameters in float64, by the names of the leaves."""
  return {
    n: np.asarray(x, np.float64) for n, x in leaves.flatten(model).items()
  }


def forward(c, weights, ids, num_prefix=0):
  """Logits [T, ids that exist] of one row; the prefix is bidirectional."""
  num_prefix = num_prefix if c.prefix_attention == "bidirectional" else 0
  x = weights["embedding"][ids] * c.embedding_scale
  if c.position == "learned":
    x = x + weights["position_embedding"][: len(ids)]
  for layer in [*range(c.num_layers)] * c.num_loops:
    w = {
      n.removeprefix("blocks/"): x_[layer]
      for n, x_ in weights.items()
      if n.startswith("blocks/")
    }
    x = block(c, w, x, layer, num_prefix)
  x = norm(c, x, weights, "final_norm")
  head = weights.get("untied_head", weights["embedding"].T)
  logits = x @ head + weights.get("head_bias", 0.0)
  return logits[:, : c.vocab_size]
