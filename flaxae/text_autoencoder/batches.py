"""Batches of texts of several lengths: their rows, their devices, and comparison with output."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flaxae.data.tokenizer import PAD


def one_device() -> bool:
    """Return True if the traced program runs on one device (the loop traces under its mesh)."""
    return jax.sharding.get_abstract_mesh().size <= 1


def rows_of(batch: dict[str, Any]) -> tuple[list[Int[Array, "B S"]], Float[Array, "N"]]:
    """Return the ids of each bucket, shortest first, and the weights of all rows in that order."""
    buckets = [batch[key] for key in sorted(batch)]
    return [b["ids"] for b in buckets], jnp.concatenate([b["weight"] for b in buckets])


def compare(
    output: Int[Array, "N T"], ids: list[Int[Array, "B S"]], max_length: int
) -> tuple[Float[Array, "N"], Float[Array, "N"], Float[Array, "N"]]:
    """Compare free-running output with the texts.

    Args:
        output: generated ids of all rows, padded to max_length.
        ids: the texts, one array per length.
        max_length: T.

    Returns:
        Per row: 1 if output and text are equal, otherwise 0; the number of equal tokens; and the
        number of tokens of the longer one.
    """
    truth = jnp.concatenate(
        [jnp.pad(x, ((0, 0), (0, max_length - x.shape[1])), constant_values=PAD) for x in ids]
    )
    longest = jnp.sum((truth != PAD) | (output != PAD), axis=1)
    same = output == truth
    matches = jnp.sum(same & (truth != PAD), axis=1)
    exact = jnp.all(same, axis=1)
    return exact.astype(jnp.float32), matches.astype(jnp.float32), longest.astype(jnp.float32)
