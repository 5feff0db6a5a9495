"""KL terms of an autoencoder's loss, and the weights of loss terms over time."""

import enum

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.losses import kl_to_standard_normal
from flaxae.task import Carry

NEVER = 2.0**30  # a step that no run reaches
DECAY = 0.98  # decay per (micro-)batch of the running average of the reconstruction loss


class WeightSchedule(enum.Enum):
    """The form of a loss term's weight over the train steps.

    LINEAR rises from `start` times the weight to the weight over `ramp` steps (0: constant).
    SIGMOID is the weight / (1 + exp(6.25 - 0.0025 step)), half of it at step 2,500.
    BAR is `start` times the weight until the reconstruction loss has passed a bar (see
    `BarMonitor`), and from that step on LINEAR.
    """

    LINEAR = "linear"
    SIGMOID = "sigmoid"
    BAR = "bar"


def weight_factor(
    schedule: WeightSchedule,
    step: Int[Array, ""],
    *,
    start: float,
    ramp: int,
    passed: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Return the factor of a weight at a step, in [0, 1] for `start` up to 1.

    Args:
        schedule: the form of the weight over time.
        step: the train step.
        start: see WeightSchedule.
        ramp: see WeightSchedule.
        passed: the step at which the bar was passed; only for BAR.
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


def cyclical_factor(step: Int[Array, ""], horizon: int, cycles: int) -> Float[Array, ""]:
    """Return the factor of OPTIMUS' cyclical KL annealing (Li et al. 2020, Fu et al. 2019).

    The run is divided into equal cycles. Each spends its first half at 0, then a quarter rising
    linearly to 1, then a quarter at 1. After the horizon the factor stays at 1.

    Args:
        step: the train step.
        horizon: steps of all cycles together.
        cycles: number of cycles; 0: the factor is always 1.
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
    """Return the KL to N(0, I) in nats, summed over texts: the plain sum, and the loss term.

    With KL_bi of text b and dimension i, the loss term is

        threshold: sum_b sum_i max(KL_bi, threshold)            (OPTIMUS: a floor for each text)
        free_bits: B sum_i max(mean_b KL_bi, free_bits)         (free bits, Kingma et al. 2016)

    A threshold allows each text a few free nats per dimension, free bits allow them to the batch's
    average. Under gradient accumulation the mean is taken over each micro-batch.

    Args:
        mean: means of q(z|x), all latents of a text flattened to one axis.
        log_variance: logarithms of the variances of q(z|x).
        rows: 0 for rows that only pad a batch, otherwise 1.
        free_bits: nats per dimension; 0: off.
        threshold: nats per dimension; 0: off. Not together with free_bits.
    """
    each = kl_to_standard_normal(mean, log_variance) * rows[:, None]
    raw = jnp.sum(each)
    count = jnp.maximum(jnp.sum(rows), 1)
    if free_bits:
        return raw, count * jnp.sum(jnp.maximum(jnp.sum(each, axis=0) / count, free_bits))
    if threshold:
        return raw, jnp.sum(jnp.maximum(each, threshold) * rows[:, None])
    return raw, raw


class BarMonitor(nnx.Module):
    """The step at which the reconstruction loss, averaged over about 50 batches, passed a bar."""

    def __init__(self) -> None:
        # Running sums of losses and of weights, whose ratio is the average (unbiased from the first
        # step on), and the step at which the bar was passed.
        self.values = Carry(jnp.asarray([0.0, 0.0, NEVER], jnp.float32))

    @property
    def passed(self) -> Float[Array, ""]:
        """The step; NEVER if the bar has not been passed yet."""
        return self.values[...][2]

    def update(self, loss: Float[Array, ""], bar: float, step: Int[Array, ""]) -> None:
        """Add one (micro-)batch to the average.

        Args:
            loss: its reconstruction loss per token.
            bar: the loss to fall below.
            step: the train step.
        """
        total, weight, passed = self.values[...]
        total = DECAY * total + (1 - DECAY) * jax.lax.stop_gradient(loss)
        weight = DECAY * weight + (1 - DECAY)
        now = jnp.where(total / weight < bar, step.astype(jnp.float32), NEVER)
        self.values[...] = jnp.stack([total, weight, jnp.minimum(passed, now)])
