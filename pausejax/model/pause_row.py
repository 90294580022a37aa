"""The first value of the row of `<pause>` in an embedding table.

Every other row keeps its bits. In the head, a new row adds a term to the
denominator of the softmax. A row of zeros has logit 0, which is the largest
logit where those of a model are all negative (GPT-2). With the mean of the rows
the term is at most the mean of the others, so a log-probability falls by at
most log(1 + 1/n) for n other rows (Hewitt, 2021, "Initializing New Word
Embeddings for Pretrained Language Models").

V vocabulary rows, D d_model.
"""

import jax
import jax.numpy as jnp

from pausejax.model import blocks


def with_pause_row(
  table_VD: jax.Array,
  pause_id: int,
  init: str | int,
  seed: int = 0,
  *,
  number: int = 0,
) -> jax.Array:
  """Returns the table with the row of one pause replaced.

  Args:
    table_VD: float32; its rows below `pause_id` are those of the text.
    pause_id: the row of the first pause.
    init: the new row: "mean" of the rows of the text; "covariance", a normal
      sample with their mean and covariance (Hewitt, 2021); "normal", as fresh
      parameters; "zeros"; "keep", the row as it is; or the id whose row is
      copied.
    seed: the seed of "normal" and "covariance".
    number: which pause, from 0; each has another sample.
  """
  if init == "keep":
    return table_VD
  text_VD = table_VD[:pause_id]
  key = jax.random.key(seed + number)
  if init == "mean":
    row_D = jnp.mean(text_VD, axis=0)
  elif init == "covariance":
    mean_D = jnp.mean(text_VD, axis=0)
    # A normal sample's sum over the rows has their covariance as its own.
    weights_V = jax.random.normal(key, (pause_id,)) / jnp.sqrt(pause_id)
    row_D = mean_D + weights_V @ (text_VD - mean_D)
  elif init == "normal":
    row_D = blocks.INIT_STDDEV * jax.random.normal(key, table_VD.shape[1:])
  elif init == "zeros":
    row_D = jnp.zeros_like(table_VD[0])
  else:
    row_D = table_VD[init]
  return table_VD.at[pause_id + number].set(row_D)
