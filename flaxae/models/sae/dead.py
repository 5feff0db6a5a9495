"""Latents that are never active: counted, and given new directions, inside the compiled step."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

ENCODER_SHARE = 0.2  # norm of a new encoder direction, as a share of the mean of living ones
RESAMPLED = ("w_enc", "w_dec", "b_enc")


class Activity(NamedTuple):
    """The latents that are active in a batch; rows that pad it do not count.

    Attributes:
        fired: number of rows in which each latent is active, (F,).
        active: number of active latents in each row, (B,).
        least: the least value of an active latent; infinite if there is none.
        rows: number of rows.
    """

    fired: Float[Array, " F"]
    active: Float[Array, " B"]
    least: Float[Array, ""]
    rows: Int[Array, ""]


def activity(
    f: Float[Array, "B K"],
    weights: Float[Array, "B"],
    indices: Int[Array, "B K"] | None = None,
    count: int = 0,
) -> Activity:
    """Return which latents are active, without gradients.

    Args:
        f: latents.
        weights: 0 for padding.
        indices: number of each latent, if only some are given; they are different in each row.
        count: number of all latents, then.
    """
    f = jax.lax.stop_gradient(f)
    real = weights > 0
    active = ((f > 0) & real[:, None]).astype(jnp.float32)
    fired = active.sum(0)
    if indices is not None:
        fired = jnp.zeros(count, jnp.float32).at[indices].add(active)
    least = jnp.min(jnp.where(active > 0, f, jnp.inf))
    return Activity(fired, active.sum(-1), least, real.astype(jnp.int32).sum(dtype=jnp.int32))


def updated_silence(silent: Int[Array, "F"], found: Activity) -> Int[Array, "F"]:
    """Return the number of tokens since each latent was active, after a batch.

    Args:
        silent: the number before the batch.
        found: activity in the batch.
    """
    return jnp.where(found.fired > 0, 0, jnp.minimum(silent, 2**30) + found.rows)


def resample(
    arrays: Mapping[str, Array],
    dead: Bool[Array, "F"],
    pool: Float[Array, "P I"],
    losses: Float[Array, "P"],
    key: Key[Array, ""],
    initial: Mapping[str, float] = MappingProxyType({}),
) -> tuple[dict[str, Array], Bool[Array, "F"]]:
    """Give dead latents the directions of inputs that are reconstructed badly.

    The inputs are drawn without replacement, with probabilities proportional to their squared
    losses (Bricken et al. 2023), by the largest of log p + Gumbel noise.

    Args:
        arrays: "w_enc" (I, F), "w_dec" (F, I), "b_enc" (F,), "b_dec" (I,), and `initial`'s, (F,).
        dead: the dead latents. If there are more than inputs, the first ones are changed.
        pool: inputs.
        losses: their losses; inputs of loss 0 (padding) are not drawn.
        key: random key.
        initial: name of a further array -> the value that a changed latent gets back.

    Returns:
        The new arrays, and the latents that were changed, whose optimizer moments must become 0.
    """
    size = min(pool.shape[0], dead.shape[0])
    usable = losses > 0
    scores = 2 * jnp.log(jnp.where(usable, losses, 1)) + jax.random.gumbel(key, losses.shape)
    _, drawn = jax.lax.top_k(jnp.where(usable, scores, -jnp.inf), size)
    rank = jnp.cumsum(dead.astype(jnp.int32)) - 1  # place of each dead latent among the dead
    changed = dead & (rank < jnp.minimum(usable.astype(jnp.int32).sum(dtype=jnp.int32), size))
    inputs = pool[drawn[jnp.clip(rank, 0, size - 1)]] - arrays["b_dec"][None]  # (F, I)
    directions = inputs / jnp.maximum(jnp.linalg.norm(inputs, axis=-1, keepdims=True), 1e-12)
    # Each latent's encoder is a column, its decoder a row.
    encoder_norm = _mean_of_living(jnp.linalg.norm(arrays["w_enc"], axis=0), dead)
    decoder_norm = _mean_of_living(jnp.linalg.norm(arrays["w_dec"], axis=1), dead)
    new = {
        "w_enc": (ENCODER_SHARE * encoder_norm) * directions.T,
        "w_dec": decoder_norm * directions,
        "b_enc": jnp.zeros_like(arrays["b_enc"]),
        **initial,
    }
    out = dict(arrays)
    for name, value in new.items():
        out[name] = jnp.where(_along(changed, name), value, arrays[name])
    return out, changed


def clear_moments(moments: Mapping[str, Array], changed: Bool[Array, "F"]) -> dict[str, Array]:
    """Return moments of an optimizer, by name of their parameter, with 0 at changed latents."""
    return {
        name: jnp.where(_along(changed, name), jnp.zeros_like(x), x) for name, x in moments.items()
    }


def _along(changed: Bool[Array, "F"], name: str) -> Any:
    """Return a mask of latents for an array: its columns, rows or entries."""
    return {"w_enc": changed[None], "w_dec": changed[:, None]}.get(name, changed)


def _mean_of_living(norms: Float[Array, "F"], dead: Bool[Array, "F"]) -> Float[Array, ""]:
    """Return the mean norm of living latents, of all if none lives."""
    living = (~dead).astype(jnp.float32)
    living = jnp.where(living.sum() > 0, living, 1)
    return jnp.sum(norms * living) / living.sum()
