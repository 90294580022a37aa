"""Collectives of compiled programs: found, named, weighed by their loops."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from pausejax.preflight import collectives


def compiled(body, *args):
  """Returns the HLO of `body` on shards over x (4) and y (2)."""
  axes = (AxisType.Auto,) * 2
  mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=axes)
  mapped = jax.shard_map(
    body,
    mesh=mesh,
    in_specs=P("x", "y"),
    out_specs=P("x", "y"),
    check_vma=False,
  )
  return jax.jit(mapped).lower(*args).compile().as_text()


@pytest.mark.parametrize(
  "kind,collective,shape,group",
  [
    (
      "all-reduce",
      lambda a: jax.lax.psum(a, "x"),
      (16, 6),
      (0, 2, 4, 6),
    ),
    (
      "all-gather",
      lambda a: jax.lax.all_gather(a, "y", axis=1, tiled=True)[:, :6],
      (16, 12),
      (0, 1),
    ),
    (
      "reduce-scatter",
      lambda a: jnp.tile(
        jax.lax.psum_scatter(a, "x", scatter_dimension=0, tiled=True), (4, 1)
      ),
      (16, 6),
      (0, 2, 4, 6),
    ),
    (
      "collective-permute",
      lambda a: jax.lax.ppermute(a, "y", [(0, 1), (1, 0)]),
      (16, 6),
      (0, 1),
    ),
  ],
)
def test_each_kind_of_collective_is_listed_with_shape_and_devices(
  kind, collective, shape, group
):
  text = compiled(collective, jnp.ones((64, 12)))
  (found,) = collectives.collectives(text)
  assert (found.kind, found.count) == (kind, 1)
  assert found.arrays == (("f32", shape),)
  assert found.groups[0] == group
  assert found.num_bytes == 4 * shape[0] * shape[1]


def test_collectives_in_loops_are_multiplied_by_the_trip_count():
  def body(a):
    turn = lambda a, _: (jnp.tanh(jax.lax.psum(a, "x") + a), None)
    outer = lambda a, _: (jax.lax.scan(turn, a, length=3)[0], None)
    return jax.lax.scan(outer, a, length=5)[0] + jax.lax.psum(a, "y")

  found = collectives.totals(
    collectives.collectives(compiled(body, jnp.ones((64, 12))))
  )
  assert found == {"all-reduce": (16, 16 * 16 * 6 * 4)}


LOOP = """HloModule m

%less (a: {t}[], b: {t}[]) -> pred[] {{
  %a = {t}[]{{:T(128)}} parameter(0)
  %b = {t}[]{{:T(128)}} parameter(1)
  ROOT %c = pred[]{{:T(512)}} compare(%a, %b), direction={direction}
}}

%condition (p: ({t}[], f32[8], {t}[])) -> pred[] {{
  %p = ({t}[]{{:T(128)}}, f32[8]{{0}}, /*index=2*/{t}[]) parameter(0)
  %counter = {t}[]{{:T(128)}} get-tuple-element(%p), index=0
  {limit}
  ROOT %go = pred[] {compare}
}}

%body (p: ({t}[], f32[8], {t}[])) -> ({t}[], f32[8], {t}[]) {{
  %p = ({t}[]{{:T(128)}}, f32[8]{{0}}, /*index=2*/{t}[]) parameter(0)
  %i = {t}[] get-tuple-element(%p), index=0
  %step = {t}[] constant({step})
  %next = {t}[] add(%i, %step)
  %x = f32[8]{{0}} get-tuple-element(%p), index=1
  %y = f32[8]{{0}} collective-permute(%x), source_target_pairs={{{{0,1}},{{1,0}}}}
  %n = {t}[] get-tuple-element(%p), index=2
  ROOT %out = ({t}[], f32[8]{{0}}, {t}[]) tuple(%next, %y, %n)
}}

ENTRY %main (x: f32[8], n: {t}[]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  %start = {t}[] constant({start})
  %most = {t}[] {most}
  %carried = {t}[]{{:T(128)}} copy(%most)
  %init = ({t}[], f32[8]{{0}}, {t}[]) tuple(%start, %x, %carried)
  %loop = ({t}[], f32[8]{{0}}, {t}[]) while(%init), condition=%condition, body=%body{noted}
  ROOT %r = f32[8]{{0}} get-tuple-element(%loop), index=1
}}
"""  # noqa: E501
CONSTANT = "%limit = {t}[] constant({n})"
CARRIED = "%limit = {t}[] get-tuple-element(%p), index=2"
COMPARE = "compare(%counter, %limit), direction={direction}"
SWAPPED = "compare(%limit, %counter), direction={direction}"
FUSED = "fusion(%counter, %limit), kind=kLoop, calls=%less"


def loop(
  *, t="s32", limit=CONSTANT, n=7, start=0, step=1, direction="LT", **changes
):
  """Returns the text of a loop around one collective-permute."""
  parts = dict(compare=COMPARE, noted="", most=f"constant({n})") | changes
  found = dict(t=t, n=n, start=start, step=step, direction=direction)
  parts = {name: text.format(**found) for name, text in parts.items()}
  return LOOP.format(**found, limit=limit.format(**found), **parts)


NOTED = ', backend_config={{"known_trip_count":{{"n":"9"}},"x":[{{"n":"2"}}]}}'


@pytest.mark.parametrize(
  ("text", "turns"),
  [
    *((loop(t=t), 7) for t in ("s8", "u8", "s16", "s32", "u32", "s64", "u64")),
    (loop(t="u32", limit=CARRIED), 7),
    (loop(t="s64", limit=CARRIED, compare=FUSED), 7),
    (loop(compare=FUSED), 7),
    (loop(direction="LE"), 8),
    (loop(direction="NE"), 7),
    (loop(direction="GT", compare=SWAPPED), 7),
    (loop(direction="GE", compare=SWAPPED), 8),
    (loop(start=3, step=2, t="u32"), 2),
    (loop(start=3, step=2, n=8), 3),
    (loop(start=12, step=-2, n=1, direction="GT"), 6),
    (loop(start=12, step=-1, n=0, direction="NE"), 12),
    (loop(start=9, n=7), 0),
    (loop(noted=NOTED), 9),
    (loop(n=4294967295, t="u32", step=65536), 65536),
  ],
)
def test_a_loop_is_counted_whatever_its_counter_is(text, turns):
  found = collectives.totals(collectives.collectives(text))
  assert found.get("collective-permute", (0, 0)) == (turns, 32 * turns)


def test_a_loop_of_unknown_length_is_a_lower_bound():
  (one,) = collectives.collectives(loop(limit=CARRIED, most="parameter(1)"))
  assert (one.count, one.is_lower_bound) == (1, True)
  (one,) = collectives.collectives(loop())
  assert not one.is_lower_bound


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int16", "uint8"])
def test_compiled_loops_with_other_counters_are_counted(dtype):
  number = jnp.dtype(dtype).type

  def body(a):
    turn = lambda _, a: jnp.tanh(jax.lax.psum(a, "x") + a)
    a = jax.lax.fori_loop(number(1), number(6), turn, a)
    down = lambda c: (c[0] - number(2), turn(0, c[1]))
    return jax.lax.while_loop(lambda c: c[0] > 0, down, (number(10), a))[1]

  text = re.sub(
    r'"known_[^{}]*:\{[^{}]*\},?', "", compiled(body, jnp.ones((64, 12)))
  )
  assert "known_trip_count" not in text
  found = collectives.totals(collectives.collectives(text))
  assert found["all-reduce"][0] == 5 + 5


# A TPU's text, cut down: one all-gather spelled out in the fusions that start
# and end it, in a loop whose length only its condition tells; gradients reduced
# and scattered in one fusion; a permute that starts and ends apart.
TPU = """HloModule jit_step, is_scheduled=true

%start (p.1: bf16[1,64]) -> (bf16[1,64], bf16[1,256], u32[]) {
  %p.1 = bf16[1,64]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.1 = bf16[1,256]{1,0:T(8,128)(2,1)} all-gather(%p.1), \
channel_id=7, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={1}, \
frontend_attributes={chain_id="1"}
  ROOT %c = (bf16[1,64]{1,0:S(1)}, bf16[1,256]{1,0}, u32[]{:S(2)}) \
custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%done (p.2: bf16[1,64]) -> bf16[1,256] {
  %p.2 = bf16[1,64]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.2 = bf16[1,256]{1,0:T(8,128)(2,1)} all-gather(%p.2), \
channel_id=7, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={1}, \
frontend_attributes={chain_id="1"}
  ROOT %d = bf16[1,256]{1,0} custom-call(%all-gather.2)
}

%body (b: (s32[], bf16[1,64])) -> (s32[], bf16[1,64]) {
  %b = (s32[]{:T(128)}, bf16[1,64]{1,0}) parameter(0)
  %f.1 = (bf16[1,64]{1,0}, bf16[1,256]{1,0}, u32[]) fusion(%b), calls=%start
  ROOT %f.2 = (s32[], bf16[1,64]) fusion(%f.1), kind=kCustom, calls=%done
}

%condition (q: (s32[], bf16[1,64])) -> pred[] {
  %n = s32[]{:T(128)} constant(24)
  %q = (s32[]{:T(128)}, bf16[1,64]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%all-reduce-scatter.3 (input.3: bf16[256,256]) -> bf16[64,256] {
  %input.3 = bf16[256,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-reduce.32 = bf16[256,256]{1,0} all-reduce(%input.3), channel_id=9, \
replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
  ROOT %s = bf16[64,256]{1,0} dynamic-slice(%all-reduce.32)
}

ENTRY %main (x: bf16[1,64]) -> bf16[64,256] {
  %x = bf16[1,64]{1,0:T(8,128)(2,1)} parameter(0)
  %w = (s32[]{:T(128)}, bf16[1,64]{1,0}) while(%x), condition=%condition, \
body=%body
  %g = f32[8]{0} all-reduce(%w), channel_id=11, \
replica_groups=mesh['a'=4,'b'=2] {'a'}, to_apply=%add
  %cp = (bf16[4,64]{1,0}, bf16[4,64]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%x), channel_id=12, source_target_pairs={{0,1},{1,0}}
  %cpd = bf16[4,64]{1,0} collective-permute-done(%cp)
  ROOT %r = bf16[64,256]{1,0} fusion(%w), calls=%all-reduce-scatter.3
}
"""


def test_the_forms_of_the_tpu_compiler_count_once_each():
  by_kind = {one.kind: one for one in collectives.collectives(TPU)}
  found = {k: (c.count, c.arrays) for k, c in by_kind.items()}
  assert found == {
    "all-gather": (24, (("bf16", (1, 256)),)),
    "all-reduce": (1, (("f32", (8,)),)),
    "collective-permute": (1, (("bf16", (4, 64)),)),
    "reduce-scatter": (1, (("bf16", (256, 256)),)),
  }
  every_other = ((0, 2, 4, 6), (1, 3, 5, 7))
  for kind in ("all-gather", "all-reduce", "reduce-scatter"):
    assert by_kind[kind].groups == every_other
  assert len(collectives.collectives(TPU)) == len(by_kind)


def test_layers_that_are_unrolled_share_channels_but_not_chains():
  begin, end = TPU.index("%start"), TPU.index("%body")
  other = TPU[begin:end].replace('chain_id="1"', 'chain_id="2"')
  for name in ("start", "done"):
    other = other.replace(f"%{name} ", f"%{name}.later ")
  calls = "  %f.3 = (s32[], bf16[1,64]) fusion(%b), calls=%start.later\n"
  calls += "  %f.4 = (s32[], bf16[1,64]) fusion(%f.3), calls=%done.later\n"
  text = (
    TPU[:begin]
    + other
    + TPU[begin:].replace("  ROOT %f.2", calls + "  ROOT %f.2")
  )
  found = collectives.totals(collectives.collectives(text))
  assert found["all-gather"] == (2 * 24, 2 * 24 * 2 * 256)


def test_collectives_of_one_computation_may_share_a_channel():
  # As a shard_map's do; and a mesh may be of other ids than 0, 1, 2, ...
  text = """
ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %a = f32[4]{0} all-reduce(%p), channel_id=1, replica_groups={{0,1},{2,3}}
  %b = f32[4]{0} all-reduce(%a), channel_id=1, GROUPS
}
"""
  groups = "replica_groups=mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'x'}"
  text = text.replace("GROUPS", groups)
  first, second = collectives.collectives(text)
  assert first.groups == second.groups == ((0, 1), (2, 3))
