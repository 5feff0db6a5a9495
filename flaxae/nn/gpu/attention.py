"""Attention over short rows, with all segments, heads and rows in one kernel."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from flaxae.nn.gpu.call import call
from flaxae.nn.segments import Segments

Arrays = tuple[Array, ...]
Slice = Any  # a slice of positions
ROWS = 8  # at most per program, which sums the bias' gradient over them
SCORES = 64 * 64  # at most per row; they stay in registers


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The sizes that are fixed when a kernel is made.

    Attributes:
        heads: H.
        width: K, the width of a head.
        queries: rows and length of each segment of the queries.
        keys: rows and length of each segment of the keys.
    """

    heads: int
    width: int
    queries: Segments
    keys: Segments

    def rows(self, segment: int) -> int:
        """Return the rows per program."""
        return math.gcd(self.queries[segment][0], ROWS)

    def programs(self, segment: int) -> int:
        """Return the number of programs of a segment, per head."""
        return self.queries[segment][0] // self.rows(segment)

    @property
    def grid(self) -> tuple[int, int]:
        """The numbers of programs: over all segments, and heads."""
        return sum(self.programs(i) for i in range(len(self.queries))), self.heads


def supported(heads: int, width: int, queries: Segments, keys: Segments) -> bool:
    """Return True if the kernels take these sizes: powers of 2, and one row's scores fit."""
    sizes = {length for _, length in (*queries, *keys)} | {width}
    if heads < 1 or any(n < 16 or n.bit_count() > 1 for n in sizes):
        return False
    scores = (s * t for (_, s), (_, t) in zip(queries, keys, strict=True))
    return width <= 64 and max(scores) <= SCORES


def fused_attention(
    joined: Sequence[Float[Array, "_ _"]],
    bias: Sequence[Float[Array, "H S T"]],
    mask: Float[Array, "M"] | None,
    *,
    heads: int,
    width: int,
    queries: Segments,
    keys: Segments,
) -> Float[Array, "N HK"]:
    """Return softmax(q k^T + bias + mask) v of each row and head, the softmax in float32.

    Scores are never in the device's memory: the backward pass recomputes them. The gradients are
    joined like the arguments.

    Args:
        joined: one array (N, 3 HK) of queries, keys and values side by side, or two: (N, HK) of
            queries and (M, 2 HK) of keys and values.
        bias: learned terms added to the scores of all rows of a segment, one table per segment; or
            empty.
        mask: constant added to all scores of a key; None: nothing.
        heads: H.
        width: K.
        queries: rows and length of each segment of the queries.
        keys: the same of the keys; each segment has as many rows as its queries.

    Returns:
        The heads side by side, (N, HK).

    Raises:
        ValueError: if an array has another shape; the kernels would access memory outside of it.
    """
    plan = _Plan(heads, width, queries, keys)
    n, m = (sum(rows * length for rows, length in side) for side in (queries, keys))
    inner = heads * width
    wanted = [(n, 3 * inner)] if len(joined) == 1 else [(n, inner), (m, 2 * inner)]
    wanted += [(heads, s, t) for (_, s), (_, t) in zip(queries, keys, strict=True) if bias]
    wanted += [] if mask is None else [(m,)]
    found = [x.shape for x in (*joined, *bias, *([] if mask is None else [mask]))]
    if [rows for rows, _ in queries] != [rows for rows, _ in keys] or found != wanted:
        raise ValueError(f"arrays {found} for segments {queries}, keys {keys}: needs {wanted}")
    return _attention(plan, tuple(joined), tuple(bias), mask)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan: _Plan, joined: Arrays, bias: Arrays, mask: Array | None) -> Array:
    return _forward(plan, joined, bias, mask)[0]


def _forward(
    plan: _Plan, joined: Arrays, bias: Arrays, mask: Array | None
) -> tuple[Array, tuple[Arrays, Arrays, Array | None]]:
    shape = joined[0].shape[0], plan.heads * plan.width
    out = jax.ShapeDtypeStruct(shape, joined[0].dtype)
    kernel = partial(_forward_kernel, plan, len(joined), len(bias))
    masks = () if mask is None else (mask,)
    out = call(kernel, (*joined, *bias, *masks), out, plan.grid, name="attention")
    return out, (joined, bias, mask)


def _backward(
    plan: _Plan, saved: tuple[Arrays, Arrays, Array | None], grad: Array
) -> tuple[Arrays, Arrays, Array | None]:
    joined, bias, mask = saved
    out = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in joined]
    for i, table in enumerate(bias):
        out.append(jax.ShapeDtypeStruct((plan.programs(i), *table.shape), jnp.float32))
    kernel = partial(_backward_kernel, plan, len(joined), len(bias))
    masks = () if mask is None else (mask,)
    args = (*joined, grad, *bias, *masks)
    out = call(kernel, args, out, plan.grid, name="attention_backward")
    grads, parts = out[: len(joined)], out[len(joined) :]
    zero = None if mask is None else jnp.zeros_like(mask)
    sums = (jnp.sum(part, axis=0).astype(t.dtype) for part, t in zip(parts, bias, strict=True))
    return tuple(grads), tuple(sums), zero


_attention.defvjp(_forward, _backward)


def _each_segment(plan: _Plan, body: Callable[[int, Any], None]) -> None:
    """Call body(segment, index of this program in the segment) for this program's segment."""
    program, first = pl.program_id(0), 0
    for i in range(len(plan.queries)):
        last = first + plan.programs(i)
        if len(plan.queries) == 1:
            body(i, program)
        else:
            pl.when((program >= first) & (program < last))(partial(body, i, program - first))
        first = last


def _parts(plan: _Plan, refs: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return the array and the columns of this program's queries, keys and values."""
    q, kv = refs[0], refs[-1]
    begin = 0 if len(refs) == 2 else 1  # index of the keys among its parts of H * K columns
    parts = ((q, 0), (kv, begin), (kv, begin + 1))
    head = pl.program_id(1) * plan.width
    return [(ref, pl.ds(n * plan.heads * plan.width + head, plan.width)) for ref, n in parts]


def _row(plan: _Plan, segment: int, row: Any) -> tuple[Slice, Slice]:
    """Return the positions of a row's queries and keys."""
    slices = []
    for side in (plan.queries, plan.keys):
        start = sum(rows * length for rows, length in side[:segment])
        slices.append(pl.ds(start + row * side[segment][1], side[segment][1]))
    return slices[0], slices[1]


def _dot(a: Array, b: Array, contract: tuple[int, int]) -> Array:
    dims = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _weights(q: Array, k: Array, table: Array | None, mask: Array | None) -> Array:
    scores = _dot(q, k, (1, 1))
    if table is not None:
        scores = scores + table.astype(jnp.float32)
    if mask is not None:
        scores = scores + mask[None, :].astype(jnp.float32)
    scores = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
    return scores * (1 / jnp.sum(scores, axis=1, keepdims=True))


def _forward_kernel(plan: _Plan, joined: int, tables: int, *refs: Any) -> None:
    (q_ref, at_q), (k_ref, at_k), (v_ref, at_v) = _parts(plan, refs[:joined])
    *more, out_ref = refs[joined:]
    mask_ref = more[tables] if len(more) > tables else None
    head = pl.program_id(1)

    def segment(i: int, program: Any) -> None:
        table = more[i][head] if tables else None

        def row(n: Any, carry: Any) -> Any:
            queries, keys = _row(plan, i, program * plan.rows(i) + n)
            mask = None if mask_ref is None else mask_ref[keys]
            weights = _weights(q_ref[queries, at_q], k_ref[keys, at_k], table, mask)
            v = v_ref[keys, at_v]
            out = _dot(weights.astype(v.dtype), v, (1, 0))
            out_ref[queries, at_q] = out.astype(out_ref.dtype)
            return carry

        jax.lax.fori_loop(0, plan.rows(i), row, 0)

    _each_segment(plan, segment)


def _backward_kernel(plan: _Plan, joined: int, tables: int, *refs: Any) -> None:
    (q_ref, at_q), (k_ref, at_k), (v_ref, at_v) = _parts(plan, refs[:joined])
    grad_ref, more = refs[joined], refs[joined + 1 :]
    outs = more[len(more) - joined - tables :]
    mask_ref = more[tables] if len(more) > tables + len(outs) else None
    (dq_ref, _), (dk_ref, _), (dv_ref, _) = _parts(plan, outs[:joined])
    head = pl.program_id(1)

    def segment(i: int, program: Any) -> None:
        table = more[i][head] if tables else None

        def row(n: Any, total: Array) -> Array:
            queries, keys = _row(plan, i, program * plan.rows(i) + n)
            mask = None if mask_ref is None else mask_ref[keys]
            q, k, v = q_ref[queries, at_q], k_ref[keys, at_k], v_ref[keys, at_v]
            grad = grad_ref[queries, at_q]
            weights = _weights(q, k, table, mask)
            dv_ref[keys, at_v] = _dot(weights.astype(v.dtype), grad, (0, 0)).astype(dv_ref.dtype)
            product = weights * _dot(grad, v, (1, 1))
            scores = product - weights * jnp.sum(product, axis=1, keepdims=True)
            small = scores.astype(q.dtype)
            dq_ref[queries, at_q] = _dot(small, k, (1, 0)).astype(dq_ref.dtype)
            dk_ref[keys, at_k] = _dot(small, q, (0, 0)).astype(dk_ref.dtype)
            return total + scores if tables else total

        shape = (plan.queries[i][1], plan.keys[i][1]) if tables else ()
        total = jax.lax.fori_loop(0, plan.rows(i), row, jnp.zeros(shape, jnp.float32))
        if tables:
            outs[joined + i][program, head] = total

    _each_segment(plan, segment)
