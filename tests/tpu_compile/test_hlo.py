"""Parsing a compiled program's text: trip counts of loops, messages with their axes, costs."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from flaxae.errors import ConfigError
from flaxae.tpu_compile.hlo import Program
from flaxae.tpu_compile.report import peak_bytes

LOOP = """HloModule test

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%compare (p0: s32[], p1: s32[]) -> pred[] {
  %p0 = s32[] parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %lt = pred[] compare(%p1, %p0), direction=LT
}

%condition (x: (s32[], f32[8])) -> pred[] {
  %x = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%x), index=0
  %limit = s32[] constant(11)
  ROOT %less = pred[] CONDITION
}

%body (y: (s32[], f32[8])) -> (s32[], f32[8]) {
  %y = (s32[], f32[8]{0}) parameter(0)
  %j = s32[] get-tuple-element(%y), index=0
  %step = s32[] constant(STEP)
  %next = s32[] add(%j, %step)
  %v = f32[8]{0} get-tuple-element(%y), index=1
  %r = f32[8]{0} all-reduce(%v), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %out = (s32[], f32[8]{0}) tuple(%next, %r)
}

ENTRY %main (v: f32[8]) -> (s32[], f32[8]) {
  %v.1 = f32[8]{0} parameter(0)
  %start = s32[] constant(2)
  %copy = s32[] copy(%start)
  %init = (s32[], f32[8]{0}) tuple(%copy, %v.1)
  ROOT %loop = (s32[], f32[8]{0}) while(%init), condition=%condition, body=%body
}
"""


def program(condition: str = "compare(%i, %limit), direction=LT", step: int = 1) -> Program:
    return Program(LOOP.replace("CONDITION", condition).replace("STEP", str(step)))


@pytest.mark.parametrize(("step", "count"), [(1, 9), (2, 5), (4, 3)])
def test_trip_count_of_a_loop_with_a_counter(step, count):
    assert program(step=step).loops == [("%main", "%body", count)]


def test_trip_count_if_the_comparison_is_fused():
    fused = program("fusion(%limit, %i), kind=kLoop, calls=%compare")
    assert fused.loops == [("%main", "%body", 9)]


def test_a_loop_with_an_unknown_trip_count_counts_once_and_is_listed():
    unknown = program("compare(%i, %limit), direction=NE")
    assert unknown.loops == [("%main", "%body", 1)] and unknown.unknown_loops == ["%loop"]


def test_messages_in_a_loop_count_once_per_trip():
    (message,) = program().collectives({"replica": 2, "fsdp": 2, "model": 1})
    assert (message.kind, message.axis, message.times) == ("all-reduce", "fsdp", 9)
    assert message.size == 32 and message.sent == 2 * 32 * 0.5 and message.shape == (8,)


def test_all_messages_of_a_shared_channel_count():
    """Check programs of libtpu, where all reduce-scatters share a channel."""
    start = "  %r = f32[8]{0} all-reduce(%v), channel_id=1"
    text = LOOP.replace("CONDITION", "compare(%i, %limit), direction=LT").replace("STEP", "1")
    line = next(x for x in text.splitlines() if x.startswith(start))
    text = text.replace(line, line + "\n" + line.replace("%r =", "%again ="))
    assert len(Program(text).collectives({"replica": 2, "fsdp": 2, "model": 1})) == 2


@pytest.mark.parametrize(
    ("groups", "axis"),
    [
        ("{{0,1},{2,3}}", "fsdp"),
        ("{{0,2},{1,3}}", "replica"),
        ("[2,2]<=[4]", "fsdp"),
        ("[2,2]<=[2,2]T(1,0)", "replica"),
        ("[1,4]<=[4]", "replica+fsdp"),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", "fsdp"),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_0','axis_1'}", "replica+fsdp"),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=2], device_ids=([2,2]T(1,0)) {'axis_0'}", "fsdp"),
    ],
)
def test_axes_of_each_notation_of_replica_groups(groups, axis):
    text = LOOP.replace("CONDITION", "compare(%i, %limit), direction=LT").replace("STEP", "1")
    text = text.replace("{{0,1},{2,3}}", groups)
    (message,) = Program(text).collectives({"replica": 2, "fsdp": 2, "model": 1})
    assert message.axis == axis


def test_a_reduce_scatter_as_tpu_programs_write_it():
    text = """HloModule test

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter (input: f32[8]) -> f32[4] {
  %input = f32[8]{0} parameter(0)
  %r = f32[8]{0} all-reduce(%input), channel_id=3, replica_groups={{0,1}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[4]{0} dynamic-slice(%r, %zero), dynamic_slice_sizes={4}
}

ENTRY %main (v: f32[8]) -> f32[4] {
  %v = f32[8]{0} parameter(0)
  ROOT %out = f32[4]{0} fusion(%v), kind=kCustom, calls=%all-reduce-scatter
}
"""
    (message,) = Program(text).collectives({"replica": 1, "fsdp": 2, "model": 1})
    assert (message.kind, message.size, message.sent) == ("reduce-scatter", 32.0, 16.0)


def test_costs_of_nested_scans_are_multiplied_by_their_trip_counts():
    weights = jnp.ones((3, 5, 16, 16))

    def f(x, weights):
        def outer(x, ws):
            return jax.lax.scan(lambda x, w: (x @ w, None), x, ws)

        return jax.lax.scan(outer, x, weights)[0]

    compiled = jax.jit(f).lower(jnp.ones((8, 16)), weights).compile()
    cost = Program(compiled.as_text()).cost()
    once = 2 * 8 * 16 * 16
    assert cost["flops"] == pytest.approx(15 * once, rel=0.02)
    assert cost["flops_once"] == pytest.approx(once, rel=0.1)


def test_a_text_without_entry_is_an_error():
    with pytest.raises(ConfigError, match="no ENTRY"):
        Program("nothing")


@pytest.mark.parametrize(("peak", "expected"), [(0, 10 + 20 + 3), (18, 18)])
def test_peak_bytes_with_and_without_a_reported_peak(peak, expected):
    sizes = {"argument": 10, "temp": 20, "output": 12, "alias": 9}
    sizes = {f"{name}_size_in_bytes": size for name, size in sizes.items()}
    memory = SimpleNamespace(**sizes, peak_memory_in_bytes=peak)
    assert peak_bytes(memory) == expected
