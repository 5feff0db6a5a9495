"""The choice of the next id from its scores: the best one, or a random one."""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flaxae.config.ranges import Count, Finite, Range, Whole, check_value, field_rules
from flaxae.errors import ConfigError

# (scores, position, indices of these rows in the batch) -> ids
ChooseFn = Callable[[Float[Array, "B V"], Int[Array, ""], Int[Array, "B"]], Int[Array, "B"]]

NEVER = -1e9  # a score that no real sequence has; finite, so that sums of it stay ordered


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Options of the choice of ids; the default is greedy decoding.

    It is a pytree: other values of temperature, top_p and length_penalty compile nothing new.

    Attributes:
        temperature: temperature of the softmax from which ids are drawn; None or 0: the most
            likely id is taken.
        top_k: number of the most likely ids to draw from; 0: all.
        top_p: probability of the most likely ids to draw from (Holtzman et al. 2020); None or 1:
            all ids.
        beams: number of beams; above 1, beam search is used and nothing is drawn.
        length_penalty: beam search ranks by log-probability / length ** length_penalty.
    """

    temperature: Annotated[float | None, Range(0)] = None
    top_k: Whole = 0
    top_p: Annotated[float | None, Range(0, 1, "(]")] = None
    beams: Count = 1
    length_penalty: Finite = 1.0

    def __post_init__(self) -> None:
        for name in field_rules(Sampling):
            value = getattr(self, name)
            if _known(value):
                check_value(Sampling, name, name, value)
        if self.beams > 1 and self.temperature:
            raise ConfigError(
                f"beams={self.beams} and temperature={self.temperature} exclude each other: beam "
                "search draws nothing; set only one of them"
            )
        if _known(self.temperature) and self.temperature == 0:
            object.__setattr__(self, "temperature", None)
        if _known(self.top_p) and self.top_p == 1:
            object.__setattr__(self, "top_p", None)


def _known(value: Any) -> bool:
    """Return True for a number; leaves of a pytree may also be tracers, None or placeholders."""
    return isinstance(value, numbers.Real)


jax.tree_util.register_dataclass(
    Sampling,
    data_fields=["temperature", "top_p", "length_penalty"],
    meta_fields=["top_k", "beams"],
)


def chooser(sampling: Sampling, key: Any) -> ChooseFn:
    """Return the function that chooses the next ids.

    Args:
        sampling: how ids are chosen, not by beams.
        key: random key; unused if the best id is taken.

    Returns:
        A function from scores, position and row indices to ids.
    """
    temperature: Any = sampling.temperature

    def best(logits: Array, index: Array, rows: Array) -> Array:
        return best_id(logits)

    def drawn(logits: Array, index: Array, rows: Array) -> Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        logits = logits / temperature
        if sampling.top_p is None and not sampling.top_k:
            return draw_id(keys, logits)
        size = logits.shape[-1]
        logits, ids = jax.lax.top_k(logits, min(sampling.top_k or size, size))  # best first
        if sampling.top_p is not None:
            logits = nucleus(logits, sampling.top_p)
        chosen = draw_id(keys, logits)
        return jnp.take_along_axis(ids, chosen[:, None], axis=1)[:, 0]

    return best if temperature is None else drawn


def best_id(scores: Float[Array, "... V"]) -> Int[Array, "..."]:
    """Return the first index of the highest score, like `jnp.argmax` on the last axis.

    XLA's CPU backend computes an argmax by comparing (score, index) pairs one after the other. For
    thousands of ids this takes as long as the matmul before it. A maximum and a minimum are
    vectorised.

    Args:
        scores: scores; NaN counts as the highest.

    Returns:
        Indices, int32.
    """
    highest = jnp.max(scores, axis=-1, keepdims=True)
    ids = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    is_best = (scores == highest) | jnp.isnan(scores)
    return jnp.min(jnp.where(is_best, ids, scores.shape[-1] - 1), axis=-1)


def draw_id(keys: Key[Array, "B"], logits: Float[Array, "B V"]) -> Int[Array, "B"]:
    """Draw the ids that `jax.random.categorical` draws from each row's key, by `best_id`."""
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:], logits.dtype))(keys)
    return best_id(noise + logits)


def nucleus(logits: Float[Array, "B K"], top_p: float | Array) -> Float[Array, "B K"]:
    """Keep the fewest of the best ids whose probability reaches top_p (Holtzman et al. 2020).

    Args:
        logits: logits, sorted in descending order.
        top_p: probability of the nucleus.

    Returns:
        The logits, with NEVER for ids outside of the nucleus; the best id is always inside.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities  # probability of the better ids
    inside = (before < top_p).at[:, 0].set(True)
    return jnp.where(inside, logits, NEVER)


def is_end(ids: Int[Array, "..."], eos: int | tuple[int, ...]) -> Bool[Array, "..."]:
    """Return True for ids that end a sequence."""
    ends = (eos,) if isinstance(eos, int) else eos
    found = ids == ends[0]
    for end in ends[1:]:
        found = found | (ids == end)
    return found


def mask_unused(logits: Float[Array, "... V"], num_tokens: int) -> Float[Array, "... V"]:
    """Set the scores of ids that the tokenizer does not have to NEVER."""
    if num_tokens >= logits.shape[-1]:
        return logits
    unused = jnp.arange(logits.shape[-1]) >= num_tokens
    unused = unused.reshape((1,) * (logits.ndim - 1) + unused.shape)  # (1, ..., V)
    return jnp.where(unused, jnp.float32(NEVER), logits)
