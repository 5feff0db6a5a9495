"""Maximum and log-sum-exp of each row of logits, by one pass over them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from flaxae.nn.gpu.call import call

ROWS = 4  # per program
PART, PARTS = 256, 4  # columns of a part, and parts read together
LEAST = 128  # columns of the narrowest part, a power of 2


def supported(logits: Array) -> bool:
    """Return True if the kernel takes logits of this shape."""
    rows, width = logits.shape
    return rows % ROWS == 0 and width % LEAST == 0 and width >= PART * PARTS


def max_and_logsumexp(logits: Float[Array, "N V"]) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """Return the maximum and the log-sum-exp of each row, float32."""
    out = [jax.ShapeDtypeStruct(logits.shape[:1], jnp.float32)] * 2
    grid = (logits.shape[0] // ROWS,)
    return tuple(call(_kernel, (logits,), out, grid, name="max_and_logsumexp"))


def _kernel(logits_ref: Any, top_ref: Any, out_ref: Any) -> None:
    at, width = pl.ds(pl.program_id(0) * ROWS, ROWS), logits_ref.shape[1]

    def update(start: Any, sizes: list[int], top: Array, total: Array) -> tuple[Array, Array]:
        """Return the maximum so far, and the sum of exponentials relative to it."""
        parts = []
        for size in sizes:
            parts.append(logits_ref[at, pl.ds(start, size)].astype(jnp.float32))
            start = start + size
        new = top
        for part in parts:
            new = jnp.maximum(new, jnp.max(part, axis=1))
        total = total * jnp.exp(top - new)
        for part in parts:
            total = total + jnp.sum(jnp.exp(part - new[:, None]), axis=1)
        return new, total

    step = PART * PARTS
    lowest = float(jnp.finfo(jnp.float32).min)  # not -inf: all of a part may be -inf
    carry = jnp.full(ROWS, lowest, jnp.float32), jnp.zeros(ROWS, jnp.float32)
    top, total = jax.lax.fori_loop(
        0, width // step, lambda n, carry: update(n * step, [PART] * PARTS, *carry), carry
    )
    start, rest = width // step * step, width % step
    sizes = [PART] * (rest // PART) + [LEAST] * (rest % PART // LEAST)
    if sizes:
        top, total = update(start, sizes, top, total)
    top_ref[at] = top
    out_ref[at] = top + jnp.log(total)
