"""Estimated times of attention kernels, from their shapes."""

import pytest

from pausejax.preflight import estimate, hlo
from pausejax.preflight.attention_kernels import KERNEL_EFFICIENCY
from pausejax.runtime import chips
from tests.hlo_programs import priced, program


def kernel(name, fused="false", *, swapped=False, blocks=" 512"):
  """Returns the lines of a splash kernel, as JAX writes them."""
  kind, size = blocks.split(" ")
  last = "64,2048" if swapped else "2048,64"
  q, k = f"bf16[2,12,{last}]", f"bf16[2,4,{last}]"
  layout = f'\\"q_layout\\": {1 + swapped}, \\"k_layout\\": {1 + swapped}'
  return [
    "%m = s8[1,4,4]{2,1,0} parameter(1)",
    f"%q = {q}{{3,2,1,0}} parameter(2)",
    f"%k = {k}{{3,2,1,0}} parameter(3)",
    "%stat = f32[2,12,2048,128]{3,2,1,0} parameter(4)",
    f"%splash_mha_{name}.1 = ({q}{{3,2,1,0}}, f32[2,12,2048,128]{{3,2,1,0}}) "
    'custom-call(%m, %q, %k, %k, %stat), custom_call_target="tpu_custom_call", '
    'frontend_attributes={kernel_metadata={\n"xprof_metadata":"{'
    f'\\"block_q{kind}\\": {size}, \\"block_kv{kind}\\": {size}, '
    f'\\"use_fused_bwd_kernel\\": {fused}, {layout}}}"\n'
    '}}, metadata={op_name="jit(step)/transpose(jvp())/pallas_call"}, '
    'backend_config={"custom_call_config":{"body":"TUzv"}}',
  ]


@pytest.mark.parametrize(
  "name,fused,products",
  [
    ("fwd_segmented_residuals", "false", 2),
    ("dq_segmented_no_residuals", "false", 3),
    ("dkv_segmented_no_residuals", "false", 4),
    ("dkv_segmented_no_residuals", "true", 5),
  ],
)
def test_an_attention_kernel_is_modelled_from_its_shapes(name, fused, products):
  text = program(kernel(name, fused=fused))
  # Of 4 x 4 blocks, 10 are not excluded; head_dim 64 fills half of a unit.
  flops = products * 2 * (2 * 12) * 10 * 512**2 * 128
  assert priced(text).attention_seconds == pytest.approx(
    flops / (KERNEL_EFFICIENCY * 197e12)
  )
  assert priced(text).dearest[0].where == "backward pallas_call"
  # On a matrix unit of 256, a quarter of it is filled.
  v6e = chips.CHIPS["v6e"]
  wide = estimate.estimate(text, v6e)
  assert wide.attention_seconds == pytest.approx(
    2 * flops / (KERNEL_EFFICIENCY * v6e.peak_flops)
  )


@pytest.mark.parametrize(
  ("window", "block", "computed"),
  [
    (0, 512, 10),
    (2048, 512, 10),
    (1, 512, 4),
    (2, 512, 7),  # The first query of a block sees a key of the one before.
    (513, 512, 7),
    (514, 512, 9),
    (0, 1024, 3),
    (0, 2048, 1),
    (64, 2048, 1),  # A window inside of a block saves nothing.
  ],
)
def test_a_kernel_computes_whole_blocks(window, block, computed):
  lines = kernel("dq_segmented", blocks=f"_dq {block}")
  seconds = priced(program(lines), window=window).attention_seconds
  flops = 3 * 2 * (2 * 12) * computed * block**2 * 128
  assert seconds == pytest.approx(flops / (KERNEL_EFFICIENCY * 197e12))


def test_a_kernel_may_have_the_tokens_last():
  plain, swapped = (
    priced(program(kernel("fwd_segmented", swapped=s))) for s in (False, True)
  )
  assert plain.attention_seconds == swapped.attention_seconds > 0


def test_a_kernel_that_is_not_attention_has_no_estimate():
  lines = [line.replace("splash_mha_fwd", "megablox") for line in kernel("fwd")]
  found = priced(program(lines))
  assert found.attention_seconds == 0
  assert found.num_unpriced == {"megablox": 1}


def test_the_last_lines_of_a_kernel_belong_to_it():
  module = hlo.Module(program(kernel("fwd")))
  (one,) = [
    o for o in module.computations["main"].values() if "splash" in o.name
  ]
  assert one.attribute(r'op_name="([^"]+)"').endswith("pallas_call")
