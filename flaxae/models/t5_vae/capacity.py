"""A controller that holds the bits per text that the channel can carry at a target.

The bits are the capacity of the channel for Gaussian codes of the covariance C of clean codes,

    log2 det(I + snr(sigma) C) / 2,

the same as `channel.bits` for the eigenvalues of C. C is a running average over about 100 batches
of training; if `task.noise` corrupts inputs, it is that of their codes. Each batch moves log sigma
by RATE times the difference to the target, over the number of dimensions: where codes have unit
variances, d log2(sigma) is minus the bits of the preserving channel, and the difference shrinks by
RATE per step.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.task import Carry
from flaxae.text_autoencoder.channel import Channel, signal_to_noise

DECAY = 0.99  # decay per (micro-)batch of the average of codes and their products
RATE = 0.05  # share of the difference to the target that a batch corrects, for unit variances
LARGEST_STEP = 0.02  # largest change of log sigma per (micro-)batch
SMALLEST = 1e-3  # sigma
LIMITS = {Channel.ADDITIVE: (SMALLEST, 1e2), Channel.PRESERVING: (SMALLEST, 0.995)}  # of sigma
LN2 = 0.6931471805599453


class CapacityControl(nnx.Module):
    """The sigma at which the channel carries `target` bits per text.

    Attributes:
        sigma: the standard deviation of the noise; it starts at the value for unit variances.
        weight: sum of the weights of all batches.
        first: weighted sum of codes, (d,).
        second: weighted sum of their outer products, (d, d).
    """

    def __init__(self, target: float, size: int, channel: Channel, lowest: float = 0.0):
        """Start at unit variances.

        Args:
            target: bits per text.
            size: numbers per code, d.
            channel: the form of the noise.
            lowest: sigma never falls below it.
        """
        self.target, self.channel = target, channel
        low, high = LIMITS[channel]
        self.limits = (max(low, lowest), high)
        start = jnp.float32(unit_sigma(target, size, channel))
        self.sigma = Carry(jnp.clip(start, *self.limits))
        self.weight = Carry(jnp.float32(0))
        self.first = Carry(jnp.zeros(size, jnp.float32))
        self.second = Carry(jnp.zeros((size, size), jnp.float32))

    def update(
        self, codes: Float[Array, "B d"], in_use: Float[Array, ""] | None = None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Add the clean codes of a (micro-)batch, and move sigma.

        Args:
            codes: the codes.
            in_use: the sigma of this step, if it still rises to that of the controller.

        Returns:
            The bits per text at the controller's sigma before, and at the sigma in use.
        """
        codes = jax.lax.stop_gradient(codes)
        products = jnp.matmul(codes.T, codes, precision=jax.lax.Precision.HIGHEST)  # (d, d)
        self.weight[...] = DECAY * self.weight[...] + (1 - DECAY)
        self.first[...] = DECAY * self.first[...] + (1 - DECAY) * jnp.mean(codes, 0)
        self.second[...] = DECAY * self.second[...] + (1 - DECAY) * products / codes.shape[0]
        mean = self.first[...] / self.weight[...]
        covariance = self.second[...] / self.weight[...] - mean[:, None] * mean[None, :]
        found = gaussian_bits(covariance, self.sigma[...], self.channel)
        change = RATE * LN2 * (found - self.target) / codes.shape[1]
        change = jnp.clip(change, -LARGEST_STEP, LARGEST_STEP)
        self.sigma[...] = jnp.clip(self.sigma[...] * jnp.exp(change), *self.limits)
        if in_use is None:
            return found, found
        return found, gaussian_bits(covariance, in_use, self.channel)


def unit_sigma(target: float, size: int, channel: Channel) -> float:
    """Return the sigma at which codes of unit variances carry a number of bits.

    Args:
        target: bits per text.
        size: numbers per code.
        channel: the form of the noise.
    """
    ratio = 4.0 ** (target / size)  # 1 + snr
    return (ratio if channel is Channel.PRESERVING else ratio - 1) ** -0.5


def gaussian_bits(
    covariance: Float[Array, "d d"], sigma: Float[Array, ""], channel: Channel
) -> Float[Array, ""]:
    """Return the capacity in bits for Gaussian codes of a covariance: log2 det(I + snr C) / 2."""
    identity = jnp.eye(len(covariance), dtype=jnp.float32)
    factor = jnp.linalg.cholesky(identity + signal_to_noise(sigma, channel) * covariance)
    return jnp.sum(jnp.log(jnp.diagonal(factor))) / LN2
