"""Recurrences of three dynamics, with backpropagation through time that is cut at given steps.

Only the product of the state with the recurrent weights is inside the scan over time. The gradient
is written by hand: the forward scan keeps states and activations, the backward scan returns the
gradients of the pre-activations, and the weights' gradient is one matmul over all steps and rows.

Letters in shapes: T steps, B rows, N states, G gates (matrices) of the dynamic. Time is the first
axis.
"""

import enum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from flaxae.nn.linear import product


class Dynamic(enum.Enum):
    """Update of the state s from its activations, s' being the state before."""

    TANH = "tanh"  # s = h
    GATED = "gated"  # s = z h + (1 - z) s'
    DOUBLY_GATED = "doubly_gated"  # s = u h + f s', which is unbounded

    @property
    def gates(self) -> int:
        """The number of its matrices: one of h, and one per gate."""
        return {Dynamic.TANH: 1, Dynamic.GATED: 2, Dynamic.DOUBLY_GATED: 3}[self]


class Kept(NamedTuple):
    """Values that the forward scan keeps for the gradient.

    Attributes:
        acts: h and the gates, (T, B, G, N).
        before: the state before each step, (T, B, N).
        weights: the recurrent weights, (N, G * N).
    """

    acts: Array
    before: Array
    weights: Array


def activate(dynamic: Dynamic, total: Float[Array, "... GN"]) -> Float[Array, "... G N"]:
    """Return h and the gates from pre-activations.

    The forget gate f of the doubly gated dynamic has 1 added to its pre-activation.
    """
    total = rearrange(total, "... (g n) -> ... g n", g=dynamic.gates)
    first, gates = jnp.tanh(total[..., :1, :]), total[..., 1:, :]
    if dynamic is Dynamic.TANH:
        return first
    if dynamic is Dynamic.DOUBLY_GATED:
        gates = jnp.concatenate([gates[..., :1, :] + 1, gates[..., 1:, :]], axis=-2)
    return jnp.concatenate([first, jax.nn.sigmoid(gates)], axis=-2)


def slopes(acts: Float[Array, "... G N"]) -> Float[Array, "... G N"]:
    """Return the derivatives of activations by their pre-activations."""
    first, gates = acts[..., :1, :], acts[..., 1:, :]
    return jnp.concatenate([1 - first * first, gates * (1 - gates)], axis=-2)


def combine(
    dynamic: Dynamic, acts: Float[Array, "... G N"], before: Float[Array, "... N"]
) -> Float[Array, "... N"]:
    """Return the new state from activations and the state before."""
    h = acts[..., 0, :]
    if dynamic is Dynamic.TANH:
        return h
    if dynamic is Dynamic.GATED:
        return before + acts[..., 1, :] * (h - before)
    return acts[..., 1, :] * before + acts[..., 2, :] * h


def _forward(
    dynamic: Dynamic, inputs: Array, weights: Array, start: Array
) -> tuple[Array, tuple[Array, Array]]:
    """Return the states after all steps, and activations and states before each step."""

    def step(before: Array, one: Array) -> tuple[Array, tuple[Array, Array]]:
        acts = activate(dynamic, one + before @ weights)  # (B, G, N)
        after = combine(dynamic, acts, before)
        return after, (acts, after)

    _, (acts, states) = jax.lax.scan(step, start, inputs)
    before = jnp.concatenate([start[None], states[:-1]])  # (T, B, N)
    return states, (acts, before)


def _backward_step(
    dynamic: Dynamic, acts: Array, before: Array, grad: Array
) -> tuple[Array, Array]:
    """Return the gradients of pre-activations and of the state before.

    The latter is without the part that passes through the weights.
    """
    _, pull = jax.vjp(partial(combine, dynamic), acts, before)
    of_acts, direct = pull(grad)
    of_total = rearrange(of_acts * slopes(acts), "... g n -> ... (g n)")
    return of_total, direct


def _weights_gradient(kept: Kept, of_total: Array) -> Array:
    """Return the recurrent weights' gradient: one matmul over all steps and rows."""
    # Rows first: a mesh splits them, and merging them with the steps then moves no data.
    before, of_total = (rearrange(x, "T B ... -> B T ...") for x in (kept.before, of_total))
    return jax.vjp(lambda w: product(before, w), kept.weights)[1](of_total)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(
    dynamic: Dynamic,
    inputs: Float[Array, "T B GN"],
    weights: Float[Array, "N GN"],
    start: Float[Array, "B N"],
    cut: Bool[Array, " T"],
) -> Float[Array, "T B N"]:
    """Return the states after each step.

    Args:
        dynamic: the dynamic.
        inputs: what the steps' inputs add to the pre-activations.
        weights: the recurrent weights.
        start: the state before the first step.
        cut: whether a step sees the state before it as a constant. It changes the gradient only,
            and is data: another cut needs no compilation.
    """
    del cut
    return _forward(dynamic, inputs, weights, start)[0]


def _recur_forward(
    dynamic: Dynamic, inputs: Array, weights: Array, start: Array, cut: Array
) -> tuple[Array, tuple[Kept, Array]]:
    states, (acts, before) = _forward(dynamic, inputs, weights, start)
    return states, (Kept(acts, before, weights), cut)


def _recur_backward(dynamic: Dynamic, saved: tuple[Kept, Array], grads: Array) -> Any:
    kept, cut = saved
    transposed = kept.weights.T  # (GN, N)

    def step(later: Array, one: Any) -> tuple[Array, Array]:
        acts, before, grad, is_cut = one
        of_total, direct = _backward_step(dynamic, acts, before, grad + later)
        through = direct + of_total @ transposed
        return jnp.where(is_cut, jnp.zeros_like(through), through), of_total

    zero = jnp.zeros_like(kept.before[0])
    steps = (kept.acts, kept.before, grads, cut)
    start, of_total = jax.lax.scan(step, zero, steps, reverse=True)
    return of_total, _weights_gradient(kept, of_total), start, None


recur.defvjp(_recur_forward, _recur_backward)


def cuts(steps: int, k: Int[Array, ""] | int) -> Bool[Array, " T"]:
    """Return the steps that see the state before them as a constant: multiples of k."""
    return jnp.arange(steps) % k == 0


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur_in_chunks(
    dynamic: Dynamic,
    length: int,
    inputs: Float[Array, "T B GN"],
    weights: Float[Array, "N GN"],
    start: Float[Array, "B N"],
) -> Float[Array, "T B N"]:
    """Return the states after each step; gradients really stop after `length` steps.

    It equals `recur` with a cut at each multiple of `length`, but its backward pass takes only
    `length` steps, through all chunks side by side, and none through the cuts.

    Args:
        dynamic: the dynamic.
        length: steps of a chunk, which divides T.
        inputs: what the steps' inputs add to the pre-activations.
        weights: the recurrent weights.
        start: the state before the first step.
    """
    return _forward(dynamic, inputs, weights, start)[0]


def _chunks_forward(
    dynamic: Dynamic, length: int, inputs: Array, weights: Array, start: Array
) -> tuple[Array, Kept]:
    states, (acts, before) = _forward(dynamic, inputs, weights, start)
    return states, Kept(acts, before, weights)


def _chunks_backward(dynamic: Dynamic, length: int, kept: Kept, grads: Array) -> Any:
    acts, before, grads = (
        rearrange(x, "(chunks k) ... -> k chunks ...", k=length)
        for x in (kept.acts, kept.before, grads)
    )
    transposed, found = kept.weights.T, []
    later = jnp.zeros_like(grads[0])  # (chunks, B, N)
    for i in reversed(range(length)):
        of_total, direct = _backward_step(dynamic, acts[i], before[i], grads[i] + later)
        found.append(of_total)
        later = direct + of_total @ transposed if i else direct
    of_total = rearrange(jnp.stack(found[::-1]), "k chunks ... -> (chunks k) ...")
    start = jnp.zeros_like(kept.before[0])
    return of_total, _weights_gradient(kept, of_total), start


recur_in_chunks.defvjp(_chunks_forward, _chunks_backward)
