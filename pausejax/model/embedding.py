"""Embedding lookup in sharded tables, without gathering a table.

A table's rows are split over tensor, its columns over sequence and fsdp. Each
device looks up its columns for the ids of all devices along fsdp; an all-to-all
then exchanges columns for rows of the batch. So vectors are communicated, not
tables, and the gradient of a table is summed in float32 on its own shard;
`nnx.Embed` leaves that choice to the partitioner.

B batch, T tokens, V rows of a table, D d_model.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pausejax import sharding


def sum_of_rows(
  tables: Sequence[jax.Array], ids: Sequence[jax.Array], dtype: str
) -> jax.Array:
  """Returns vectors [B, T, D], the sum of one row of each table.

  Args:
    tables: float32 [V, D]; V may differ between tables.
    ids: int32 [B, T] for each table, in [0, V).
    dtype: dtype of the vectors.
  """
  if sharding.num_shards(*sharding.MESH_AXES) == 1:
    return _sum([t[i] for t, i in zip(tables, ids, strict=True)], dtype)
  return jax.shard_map(
    functools.partial(_exchanged, dtype=dtype),
    in_specs=(sharding.spec("vocab", "embed"), sharding.spec("batch")),
    out_specs=sharding.spec("batch", None, "sequence"),
  )(tables, ids)


def _sum(rows: list[jax.Array], dtype: str) -> jax.Array:
  # Cast before adding, for the same bits as tables that are cast in advance.
  return functools.reduce(jnp.add, [x.astype(dtype) for x in rows])


def _exchanged(tables, ids, dtype: str) -> jax.Array:
  x_BTD = _sum(list(map(_own_rows, tables, ids)), dtype)
  x_BTD = jax.lax.psum(x_BTD, "tensor")
  return jax.lax.all_to_all(
    x_BTD, "fsdp", split_axis=0, concat_axis=2, tiled=True
  )


def _own_rows(table_VD: jax.Array, ids_BT: jax.Array) -> jax.Array:
  """Returns the rows on this device, 0 in place of the others."""
  ids_BT = jax.lax.all_gather(ids_BT, "fsdp", axis=0, tiled=True)
  num_rows = len(table_VD)
  ids_BT -= jax.lax.axis_index("tensor") * num_rows
  is_own_BT1 = ((ids_BT >= 0) & (ids_BT < num_rows))[..., None]
  return jnp.where(is_own_BT1, table_VD[ids_BT % num_rows], 0.0)
