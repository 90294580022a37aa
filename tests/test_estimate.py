"""Estimated step times: what is summed, from small programs in HLO."""

import importlib.util
import math

import pytest

from pausejax import cli, errors
from pausejax.preflight import collectives, estimate
from pausejax.runtime import chips
from tests.hlo_programs import (
  CYCLE,
  V5E,
  cycles,
  estimated_step,
  fusion,
  priced,
  program,
  report,
)


def test_products_and_other_operations_are_summed_apart():
  found = priced(
    program([fusion("p", "fused_product", 1000), fusion("s", "fused_sum", 200)])
  )
  assert found.product_seconds == pytest.approx(1000 * CYCLE)
  assert found.other_seconds == pytest.approx(201 * CYCLE)
  assert found.bounds == pytest.approx((1201 * CYCLE, 1201 * CYCLE))
  # Products are not among them.
  assert [one.name for one in found.dearest] == ["s", "r"]


LOOP = """
%condition (p: (s32[], bf16[8,8])) -> pred[] {{
  %p = (s32[], bf16[8,8]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] {limit}
  ROOT %go = pred[] compare(%i, %n), direction=LT
}}

%body (p: (s32[], bf16[8,8])) -> (s32[], bf16[8,8]) {{
  %p = (s32[], bf16[8,8]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %step = s32[] constant({step})
  %next = s32[] add(%i, %step)
  %x = bf16[8,8]{{1,0}} get-tuple-element(%p), index=1
  {inside}
  ROOT %out = (s32[], bf16[8,8]{{1,0}}) tuple(%next, %x)
}}
"""
WHILE = [
  "%zero = s32[] constant(0)",
  "%init = (s32[], bf16[8,8]{1,0}) tuple(%zero, %x)",
  "%w = (s32[], bf16[8,8]{1,0}) while(%init), condition=%condition, body=%body",
]


def loop(inside, step=1, limit="constant(12)"):
  body = LOOP.format(inside=inside, step=step, limit=limit)
  return program(WHILE, body)


@pytest.mark.parametrize("step,trips", [(1, 12), (2, 6)])
def test_a_loop_multiplies_what_is_in_it(step, trips):
  found = priced(loop(fusion("f", "fused_product", 100), step))
  assert found.product_seconds == pytest.approx(trips * 100 * CYCLE)
  assert found.num_uncounted == 0


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
  inside = fusion("f", "fused_product", 100)
  found = priced(loop(inside, limit="custom-call(%i)"))
  assert found.product_seconds == pytest.approx(100 * CYCLE)
  assert found.num_uncounted == 1
  assert "1 loops of unknown trip count" in report(found)


def test_values_that_many_instructions_take_are_evaluated_once():
  lines = [
    "%zero = s32[] constant(0)",
    "%t0 = (s32[], s32[]) tuple(%zero, %zero)",
  ]
  for i in range(60):  # 2^60 paths to the start.
    lines += [
      f"%a{i} = s32[] get-tuple-element(%t{i}), index=0",
      f"%b{i} = s32[] get-tuple-element(%t{i}), index=1",
      f"%t{i + 1} = (s32[], s32[]) tuple(%b{i}, %a{i})",
    ]
  lines += [
    "%init = (s32[], bf16[8,8]{1,0}) tuple(%a59, %x)",
    WHILE[-1],
  ]
  body = LOOP.format(
    inside=fusion("f", "fused_product", 100), step=3, limit="constant(12)"
  )
  found = priced(program(lines, body))
  assert found.product_seconds == pytest.approx(4 * 100 * CYCLE)


def test_time_in_windowed_einsum_loops_is_reported():
  body = "%wide.windowed_dot_general_body_ag.1"
  text = loop(fusion("f", "fused_product", 100)).replace("%body", body)
  assert priced(text).windowed_seconds == pytest.approx(1200 * CYCLE)
  assert priced(loop(fusion("f", "fused_sum", 100))).windowed_seconds == 0


def test_a_call_is_entered_and_a_conditional_takes_its_slowest_branch():
  branches = "".join(
    f"""
%branch_{n} (x: bf16[8,8]) -> bf16[8,8] {{
  %x = bf16[8,8]{{1,0}} parameter(0)
  ROOT {fusion(f"s{n}", "fused_sum", n)}
}}
"""
    for n in (30, 70, 500)
  )
  lines = [
    "%c = bf16[8,8]{1,0} call(%x), to_apply=%branch_500",
    "%k = s32[] constant(0)",
    "%d = bf16[8,8]{1,0} conditional(%k, %x, %x), "
    "branch_computations={%branch_30, %branch_70}",
  ]
  found = priced(program(lines, branches))
  assert found.other_seconds == pytest.approx((500 + 70 + 1) * CYCLE)


def test_an_asynchronous_pair_counts_once():
  wrapped = f"""
%async (x: bf16[8,8]) -> bf16[8,8] {{
  %x = bf16[8,8]{{1,0}} parameter(0)
  ROOT {fusion("s", "fused_sum", 40)}
}}
"""
  lines = [
    "%a = ((bf16[8,8]{1,0}), bf16[8,8]{1,0}, u32[]) async-start(%x), "
    "calls=%async",
    "%b = bf16[8,8]{1,0} async-done(%a), calls=%async",
    "%e = (bf16[4096,512]{1,0:S(1)}, bf16[4096,512]{1,0}, u32[]) "
    "copy-start(%x)",
    "%f = bf16[4096,512]{1,0:S(1)} copy-done(%e)",
  ]
  found = priced(program(lines, wrapped))
  assert found.computing_seconds == pytest.approx(41 * CYCLE)
  assert found.copy_seconds == pytest.approx(2 * 4096 * 512 / 819e9)


GATHER = (
  "%g = (bf16[1024,512]{1,0}, bf16[4096,512]{1,0}) all-gather-start(%h), "
  "channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}"
)
SCATTER = """
%all-reduce-scatter (input: f32[4096,512]) -> f32[1024,512] {
  %input = f32[4096,512]{1,0} parameter(0)
  ROOT %z = f32[4096,512]{1,0} all-reduce(%input), channel_id=2, replica_groups={{0,1,2,3}}, to_apply=%sum
}
"""  # noqa: E501


def test_collectives_take_their_bytes_over_the_links():
  lines = [
    "%h = bf16[1024,512]{1,0} broadcast(%x), " + cycles(10),
    GATHER,
    "%i = bf16[4096,512]{1,0} all-gather-done(%g)",
    "%j = f32[1024,512]{1,0} fusion(%y), kind=kCustom, "
    "calls=%all-reduce-scatter",
  ]
  found = priced(program(lines, SCATTER), slices=[0] * 4)
  sent = 3 / 4 * 4096 * 512
  assert found.collective_seconds == pytest.approx(
    {"all-gather": 2 * sent / 200e9, "reduce-scatter": 4 * sent / 200e9}
  )
  assert found.unpriced_seconds == 0  # Fused collectives are not counted twice.
  links = 6 * sent / 200e9
  assert found.bounds == pytest.approx((links, links + 11 * CYCLE))
  # Between slices, the data-center network.
  far = priced(program(lines, SCATTER), slices=[0, 0, 1, 1])
  assert far.collective_seconds["all-gather"] == pytest.approx(
    2 * sent / V5E.cost_model.dcn_bandwidth
  )
  # One device communicates with no other.
  alone = program([line.replace("{0,1,2,3}", "{0}") for line in lines[:3]])
  assert sum(priced(alone).collective_seconds.values()) == 0


def test_what_slices_send_to_one_another_takes_the_data_center_network():
  lines = [
    "%s = (f32[4096,512]{1,0}, u32[], token[]) send(%x, %t), channel_id=3, "
    "is_host_transfer=true",
    "%d = token[] send-done(%s), channel_id=3, is_host_transfer=true",
    "%v = (f32[4096,512]{1,0}, u32[], token[]) recv(%t), channel_id=4, "
    "is_host_transfer=true",
    "%w = (f32[4096,512]{1,0}, token[]) recv-done(%v), channel_id=4, "
    "is_host_transfer=true",
  ]
  found = priced(program(lines), slices=[0, 0, 1, 1, 2, 2, 3, 3])
  assert found.collective_seconds == pytest.approx(
    {"send": 2 * 3 / 4 * 4 * 4096 * 512 / V5E.cost_model.dcn_bandwidth}
  )
  assert found.unpriced_seconds == 0


def test_an_unknown_bandwidth_between_slices_is_reported():
  text = program([GATHER])
  found = estimate.estimate(
    text,
    chips.CHIPS["v4"],
    collectives=collectives.collectives(text),
    slices=[0, 0, 1, 1],
  )
  assert found.far_bytes == 2 * 3 / 4 * 4096 * 512
  assert "GB sent between slices" in report(found, chips.CHIPS["v4"])


def test_what_has_no_estimate_is_counted_by_its_bytes():
  lines = [
    "%t = f32[4096]{0} parameter(1)",
    "%sort.3 = (f32[4096]{0}, f32[4096]{0}) sort(%t, %t)",
    "%sort.4 = (f32[4096]{0}, f32[4096]{0}) sort(%t, %t)",
    "%custom-call.7 = f32[4096]{0} custom-call(%t), "
    'custom_call_target="Unheard"',
    '%v = f32[4096]{0} custom-call(%t), custom_call_target="AllocateBuffer"',
    "%one = f32[] add(%a, %b)",
    "%row = f32[8]{0} slice(%t), " + cycles(1),
    "%d.1 = f32[4096]{0} dynamic-update-slice(%t, %row, %one)",
    "%rows = f32[16]{0} gather(%t, %row)",
  ]
  found = priced(program(lines))
  assert found.num_unpriced == {"sort": 2, "Unheard": 1, "d": 1, "rows": 1}
  # Of an update in place and of a gather, not the whole array.
  num_bytes = 4 * (4096 * (4 + 4 + 2) + 2 * 8 + 2 * 16)
  assert found.unpriced_seconds == pytest.approx(num_bytes / 819e9)
  assert "sort 2, Unheard 1" in report(found)


TABLES = """
FileNames
1 "/home/me/pausejax/model/layers.py"
2 "/env/lib/python3.11/site-packages/optax/adam.py"

FunctionNames
1 "Norm.__call__.<locals>.inner"
2 "update"

FileLocations
1 {file_name_id=1 function_name_id=1 line=60 end_line=60 column=1 end_column=2}
2 {file_name_id=2 function_name_id=2 line=7 end_line=7 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

"""


def test_operations_name_their_pass_and_source_line():
  again = "jit(step)/transpose(jvp())/rematted_computation/reduce_sum"
  lines = [
    fusion("a", "fused_sum", 9, f'op_name="{again}" stack_frame_id=1'),
    fusion("b", "fused_sum", 8, 'op_name="jit(step)/mul" stack_frame_id=2'),
  ]
  found = priced(program(lines, tables=TABLES))
  assert [one.where for one in found.dearest] == [
    "recomputed reduce_sum, model/layers.py:60 Norm.__call__.inner",
    "mul, optax/adam.py:7 update",
    "",
  ]
  text = report(found)
  assert "model/layers.py:60" in text and "no source line" in text


def test_utilization_has_both_conventions_and_both_peaks():
  found = priced(program([fusion("p", "fused_product", 10**9)]))
  step = estimated_step(found)
  mfu = step.utilizations(0.1)
  assert mfu["causal"] == pytest.approx(1000 * 8e9 / 0.1 / 197e12)
  assert mfu["whole"] == pytest.approx(mfu["causal"] * 9 / 8)
  assert mfu["causal_calibrated"] == pytest.approx(mfu["causal"] / 0.878)
  data = step.as_data()
  assert data["step_seconds"] == found.bounds[0]
  assert data["tokens_per_second"] == pytest.approx(4000 / found.bounds[0])
  assert math.isfinite(data["mfu"]["whole"])
  assert "87.8% of the peak 197 TFLOP/s" in report(found)


def test_a_program_without_estimated_cycles_is_refused():
  with pytest.raises(errors.UserError, match="no estimated cycles"):
    estimate.estimate("HloModule m", V5E)


@pytest.mark.parametrize(
  "topology,said",
  [("h100-8", "h100-8 is no TPU"), ("tpu7x-8", "TPU7x is not calibrated")],
)
def test_a_target_without_a_cost_model_is_refused(topology, said, capsys):
  code = cli.main(
    ["preflight", "--config=smoke", f"--topology={topology}", "--estimate"]
  )
  assert code == 2
  assert said in capsys.readouterr().err


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is not None, reason="libtpu is there"
)
def test_an_estimate_without_libtpu_is_refused(capsys):
  code = cli.main(
    ["preflight", "--config=smoke", "--topology=v5e-8", "--estimate"]
  )
  assert code == 1
  assert "libtpu is not installed" in capsys.readouterr().err
