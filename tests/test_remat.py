"""Each remat policy keeps for the backward pass what its name promises."""

import re

import pytest
from jax.ad_checkpoint import print_saved_residuals

from tests import models

L, B, T, D, F = 5, 3, 32, 16, 24


@pytest.mark.parametrize(
  "policy, kept",
  [
    # The input of each block; with names also q, k, v, the heads' outputs,
    # their mix and the expanded vectors, but not what GELU makes of them.
    ("full", [D]),
    ("names", [D, D, D, D, D, D, F]),
  ],
)
def test_what_is_kept_of_each_block(policy, kept, capsys):
  model = models.model(remat=policy, num_layers=L, d_model=D, d_ff=F)
  print_saved_residuals(
    models.apply.__wrapped__, model, models.batch(batch_size=B)
  )
  found = [
    tuple(map(int, dims.split(",")))
    for dims in re.findall(
      r"^f32\[([\d,]+)\] output", capsys.readouterr().out, re.M
    )
  ]
  sizes = []
  for shape in found:
    # Parameters of q, k, v and mix are reshaped: of their own size.
    if shape[0] == L and shape not in ((L, D), (L, D, D)):
      assert shape[1:3] == (B, T), shape
      sizes.append(shape[3] * (shape[4] if len(shape) == 5 else 1))
  assert sorted(sizes) == sorted(kept)
