"""What a T5-VAE minimises beside its reconstruction, and the weights of these terms over time.

    total = CE summed over real tokens
          + tokens * mmd_weight(t) * MMD^2(z + noise, N(0, I))
          + kl_weight(t) * sum over texts of KL(q(z|x) || N(0, I))
          + tokens * (cycle_weight * cycle + critic_weight * (autoencoder's + critic's part))

and the step divides it by the number of real tokens. So the CE is a mean over tokens, a term times
`tokens` enters as it is, and CE + KL is the negative ELBO of the texts at kl_weight 1 (in nats, per
token: Kingma & Welling 2014, eq. 3).
"""

import enum
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.losses import kl_to_standard_normal
from flaxae.task import Carry

NEVER = 2.0**30  # a step after all others
DECAY = 0.98  # of the running reconstruction loss, a (micro-)batch


class WeightSchedule(enum.Enum):
    LINEAR = "linear"  # from `start` of the weight to all of it over `ramp` steps; 0: constant
    SIGMOID = "sigmoid"  # 1 / (1 + exp(6.25 - 0.0025 step)): half at step 2,500 (the original's)
    BAR = (
        "bar"  # `start`, and once the reconstruction loss is below `bar`, LINEAR from that step on
    )


def check(prefix: str, weight: float, start: float, ramp: int) -> None:
    """Raises ConfigError where the fields of one weight make no sense."""
    for name, value in (("weight", weight), ("start", start), ("ramp", ramp)):
        require(value >= 0, f"task.{prefix}_{name}={value} must not be negative")


def share(
    schedule: WeightSchedule,
    step: Int[Array, ""],
    *,
    start: float,
    ramp: int,
    passed: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """The part of a weight that counts at a step.

    Args:
        schedule: its form.
        step: the train step.
        start, ramp: see WeightSchedule.
        passed: BAR's: the step at which the bar was passed.
    """
    now = step.astype(jnp.float32)
    if schedule is WeightSchedule.SIGMOID:
        return jax.nn.sigmoid(0.0025 * now - 6.25)
    if schedule is WeightSchedule.BAR and passed is not None:
        now = now - passed
        rise = jnp.where(now >= 0, jnp.minimum(now / ramp, 1.0) if ramp else 1.0, 0.0)
        return start + (1 - start) * rise
    if not ramp:
        return jnp.float32(1)
    return start + (1 - start) * jnp.minimum(now / ramp, 1.0)


def cyclical(step: Int[Array, ""], horizon: int, cycles: int) -> Float[Array, ""]:
    """KL annealing of OPTIMUS (Li et al. 2020, after Fu et al. 2019).

    The run is cut into equal cycles; each spends half at 0, a quarter rising linearly to 1, and a
    quarter at 1. After the horizon it stays at 1.
    """
    if not cycles:
        return jnp.float32(1)
    now = step.astype(jnp.float32) * (cycles / horizon)
    rise = jnp.clip((now - jnp.floor(now) - 0.5) * 4, 0.0, 1.0)
    return jnp.where(now >= cycles, 1.0, rise)


def kl_terms(
    mean: Float[Array, "B Z"],
    log_variance: Float[Array, "B Z"],
    rows: Float[Array, "B"],
    *,
    free_bits: float = 0.0,
    threshold: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """KL to N(0, I), in nats, summed over texts: as it is, and as it is minimised.

    With KL_bi of text b and dimension i, the second is

        threshold: sum_b sum_i max(KL_bi, threshold)            (OPTIMUS: a floor for each text)
        free_bits: B sum_i max(mean_b KL_bi, free_bits)         (free bits, Kingma et al. 2016)

    The first lets single texts carry nothing in a dimension for free, the second a dimension on
    average. A mean over a micro-batch stands for that over the batch under accumulation.

    Args:
        mean, log_variance: of q(z|x), all latents of a text on one axis.
        rows: 0 for rows that only pad a batch, else 1.
        free_bits, threshold: nats a dimension; 0: off. Only one of them is above 0.
    """
    each = kl_to_standard_normal(mean, log_variance) * rows[:, None]
    raw = jnp.sum(each)
    count = jnp.maximum(jnp.sum(rows), 1)
    if free_bits:
        return raw, count * jnp.sum(jnp.maximum(jnp.sum(each, axis=0) / count, free_bits))
    if threshold:
        return raw, jnp.sum(jnp.maximum(each, threshold) * rows[:, None])
    return raw, raw


class Progress(nnx.Module):
    """When the reconstruction loss, averaged over the last fifty or so batches, passed a bar."""

    def __init__(self) -> None:
        # Two running sums (the average is their ratio, right from the first step) and the step.
        self.values = Carry(jnp.asarray([0.0, 0.0, NEVER], jnp.float32))

    @property
    def passed(self) -> Float[Array, ""]:
        return self.values[...][2]

    def update(self, loss: Float[Array, ""], bar: float, step: Int[Array, ""]) -> None:
        """Takes in the loss a token of one more (micro-)batch."""
        total, weight, passed = self.values[...]
        total = DECAY * total + (1 - DECAY) * jax.lax.stop_gradient(loss)
        weight = DECAY * weight + (1 - DECAY)
        now = jnp.where(total / weight < bar, step.astype(jnp.float32), NEVER)
        self.values[...] = jnp.stack([total, weight, jnp.minimum(passed, now)])


class Critic(nnx.Module):
    """Guesses from a code how much of another text was mixed in: two layers, sigmoid times 1/2."""

    def __init__(self, size: int, rngs: nnx.Rngs):
        width = max(size, 32)
        self.hidden = nnx.Param(_normal(rngs, (size, width)))
        self.hidden_bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.out = nnx.Param(_normal(rngs, (width,)))

    def __call__(self, z: Float[Array, "B Z"]) -> Float[Array, "B"]:
        hidden = jax.nn.leaky_relu(z @ self.hidden[...] + self.hidden_bias[...][None], 0.2)
        return 0.5 * jax.nn.sigmoid(hidden @ self.out[...])

    def fixed(self) -> "Critic":
        """The same critic, which no gradient changes."""
        graphdef, state = nnx.split(self)
        return nnx.merge(graphdef, jax.lax.stop_gradient(state))


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
    return shape[0] ** -0.5 * jax.random.normal(rngs.params(), shape, jnp.float32)


def cycle_loss(
    again: Float[Array, "B Z"], z: Float[Array, "B Z"], rows: Float[Array, "B"]
) -> Float[Array, ""]:
    """Mean squared distance, an entry, of re-encoded outputs to the codes they were made from.

    The codes are the target and get no gradient: the outputs must say what the code holds, codes
    must not move to where outputs are.
    """
    squared = jnp.mean(jnp.square(again - jax.lax.stop_gradient(z)), axis=-1)
    return jnp.sum(squared * rows) / jnp.maximum(jnp.sum(rows), 1)


def critic_losses(
    critic: Critic,
    mixed: Float[Array, "B Z"],
    plain: Float[Array, "B Z"],
    alpha: Float[Array, "B"],
    rows: Float[Array, "B"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """ACAI (Berthelot et al. 2019, eqs. 1 and 2), with a critic that reads codes, not texts.

    A text is discrete, so the critic gets the code of the decoder's soft output instead. With d the
    critic, c the re-encoded output of a code that is (1 - alpha) its own and alpha another's, and
    c0 that of the unmixed code:

        critic:       mean (d(c) - alpha)^2 + d(c0)^2     c, c0 without gradient
        autoencoder:  mean d(c)^2                         d without gradient

    Returns:
        (autoencoder's part, critic's part).
    """
    fixed = jax.lax.stop_gradient
    own = jnp.square(critic(fixed(mixed)) - alpha) + jnp.square(critic(fixed(plain)))
    fooled = jnp.square(critic.fixed()(mixed))
    count = jnp.maximum(jnp.sum(rows), 1)
    return jnp.sum(fooled * rows) / count, jnp.sum(own * rows) / count


def rolled(x: Float[Array, "B ..."], counts: list[int]) -> Any:
    """Each row's neighbour in its own bucket, a text of like length."""
    starts = [sum(counts[:i]) for i in range(len(counts))]
    parts = [x[start : start + count] for start, count in zip(starts, counts, strict=True)]
    return jnp.concatenate([jnp.roll(part, 1, axis=0) for part in parts])
