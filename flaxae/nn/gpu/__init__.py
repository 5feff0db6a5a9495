"""Kernels for one NVIDIA GPU, which do in one pass over memory what XLA does in several.

They are written with Pallas, which lowers them by Triton. This module is the only entrance: a layer
calls one of the `fused_...` functions, which returns None if no kernel takes the layer's arguments;
the layer then does the same in plain JAX. Pallas is imported by the first kernel that runs.
FLAXAE_GPU_KERNELS=off in the environment turns the kernels off.
"""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxae.nn.bias import Bias
from flaxae.nn.gpu.availability import FEW as FEW
from flaxae.nn.gpu.availability import MODES as MODES
from flaxae.nn.gpu.availability import mode as mode
from flaxae.nn.gpu.availability import usable as usable
from flaxae.nn.linear import Linear
from flaxae.nn.segments import Segments
from flaxae.task import Context


def fused_attention(
    x: Float[Array, "N D"],
    memory: Float[Array, "M D"] | None,
    projections: tuple[Linear, Linear, Linear],
    bias: Sequence[Bias],
    ctx: Context,
    *,
    num_heads: int,
    segments: Segments,
    memory_segments: Segments,
    dropout_rate: float,
) -> Float[Array, "N HK"] | None:
    """Return the heads of an attention layer, all segments in one kernel.

    Args:
        x: tokens of the queries.
        memory: source of keys and values; None: x.
        projections: maps to queries, keys and values.
        bias: terms added to the scores, one entry per segment.
        ctx: the layer's context.
        num_heads: H.
        segments: rows and length of each segment of x.
        memory_segments: rows and length of each segment of the keys.
        dropout_rate: probability that a weight is dropped; the kernel drops none.

    Returns:
        The heads of all tokens, or None if the kernel does not take these arguments.
    """
    positions = sum(rows * length for rows, length in segments)
    if dropout_rate > 0 or not usable(ctx, positions, projections[0].dtype):
        return None
    from flaxae.nn.gpu.attention_layer import attention_heads

    return attention_heads(x, memory, projections, bias, num_heads, segments, memory_segments)


def fused_gate(
    x: Float[Array, "... D"], gate: Linear, up: Linear, kind: Literal["gelu", "silu"], ctx: Context
) -> Float[Array, "N F"] | None:
    """Return act(gate(x)) * up(x) by one matmul and one kernel.

    Args:
        x: tokens.
        gate: projection of the activated half.
        up: projection of the other half.
        kind: the activation; gelu is its tanh form.
        ctx: the layer's context.

    Returns:
        Hidden units, or None if the kernel does not take these arguments.
    """
    if x.ndim != 2 or not usable(ctx, x.shape[0], gate.dtype):
        return None
    from flaxae.nn.gpu.gate import gated, supported
    from flaxae.nn.gpu.joined import joinable, joined_product

    if not joinable(gate, up) or not supported(gate.kernel.shape[1]):
        return None
    return gated(joined_product(x, gate, up), kind)


def fused_norm(
    x: Float[Array, "N D"],
    plus: Float[Array, "N D"] | None,
    scale: Float[Array, "D"],
    eps: float,
    dtype: jnp.dtype | type,
    ctx: Context,
) -> tuple[Float[Array, "N D"], Float[Array, "N D"]] | None:
    """Return x, or x + plus, and its RMS norm; the gradients of both meet in one kernel.

    Args:
        x: tokens.
        plus: added to x before the norm; None: nothing.
        scale: scale of the norm.
        eps: added to the mean square.
        dtype: type of the norm.
        ctx: the layer's context.

    Returns:
        Both arrays, or None if the kernels do not take these arguments.
    """
    alike = plus is None or plus.shape == x.shape
    if x.ndim != 2 or not alike or not usable(ctx, x.shape[0], dtype):
        return None
    from flaxae.nn.gpu import norm

    if not norm.supported(x):
        return None
    scale, dtype = scale.astype(jnp.float32), jnp.dtype(dtype)
    if plus is None:
        return norm.norm_with_input(x, scale, eps, dtype)
    return norm.add_and_norm(x, plus, scale, eps, dtype)


def takes_logits(logits: Float[Array, "N V"], ctx: Context | None) -> bool:
    """Return True if `max_and_logsumexp` takes these logits here; without a context it does not."""
    if ctx is None or not usable(ctx, logits.shape[0], logits.dtype):
        return False
    from flaxae.nn.gpu.loss import supported

    return supported(logits)


def max_and_logsumexp(logits: Float[Array, "N V"]) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """Return the maximum and the log-sum-exp of each row, float32, by one pass over the logits."""
    from flaxae.nn.gpu import loss

    return loss.max_and_logsumexp(logits)
