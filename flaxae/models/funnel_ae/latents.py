"""The bottleneck: from the states of the innermost block to a code, and back."""

import dataclasses
import enum
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.config import Section
from flaxae.config.ranges import NonNegative, Whole, Wholes
from flaxae.errors import require
from flaxae.losses import Kernel
from flaxae.nn.linear import Linear
from flaxae.task import Carry, Context


class Bottleneck(enum.Enum):
    """The regularisation of the codes."""

    AE = "ae"  # none
    MMD = "mmd"  # codes of all texts together are drawn to N(0, I)
    KL = "kl"  # each text has a Gaussian that is drawn to N(0, I)


class Encoding(enum.Enum):
    """The code that the decoder reads: the encoder's, or a baseline's."""

    TRAINED = "trained"
    FROZEN = "frozen"  # the encoder keeps its initial weights
    RANDOM = "random"  # noise with the mean and standard deviation of the encoder's codes


@dataclasses.dataclass(unsafe_hash=True)
class LatentConfig(Section):
    """Sizes and regularisation of the codes.

    A code has one latent vector per state of the innermost block. With `block_dims` it is one
    vector: the innermost latents, and those of the blocks outside of it.
    """

    section: ClassVar[str] = "task.latent"

    dim: Whole = 64  # width of a latent vector; 0: the states themselves, without a linear map
    kind: Bottleneck = Bottleneck.AE
    encoding: Encoding = Encoding.TRAINED
    weight: NonNegative = 0.0  # weight of the MMD per token, or of the KL per text in nats
    ramp: Whole = 0  # steps over which the weight rises linearly from 0; 0: it is constant
    kernel: Kernel = Kernel.IMQ
    noise: NonNegative = 0.0  # standard deviation of the noise on codes in training
    # Latents of the blocks outside of the innermost, outermost first (as in NVAE): numbers per
    # state; 0: none.
    block_dims: Wholes = ()

    def check(self, blocks: int) -> None:
        """Raise ConfigError for sizes that do not go together."""
        require(
            (self.weight > 0) == (self.kind is not Bottleneck.AE),
            f"task.latent.weight={self.weight}: kind={self.kind.value} needs "
            f"{'no weight (0)' if self.kind is Bottleneck.AE else 'a weight above 0'}",
        )
        require(
            self.kind is not Bottleneck.KL or self.dim > 0,
            "task.latent.kind=kl needs task.latent.dim: a width of the latents",
        )
        require(
            not self.block_dims or len(self.block_dims) == blocks - 1,
            f"task.latent.block_dims={self.block_dims} must have {blocks - 1} numbers, one per "
            "block but the innermost, or be empty",
        )


class Latents(nnx.Module):
    """Linear maps between the states of one block and its latents."""

    def __init__(self, width: int, dim: int, gaussian: bool, dtype: Any, *, rngs: nnx.Rngs):
        self.down = Linear(width, dim * (1 + gaussian), use_bias=True, dtype=dtype, rngs=rngs)
        self.up = Linear(dim, width, use_bias=True, dtype=dtype, rngs=rngs)
        self.gaussian = gaussian

    def posterior(
        self, x: Float[Array, "B P D"], ctx: Context
    ) -> tuple[Float[Array, "B P Z"], Float[Array, "B P Z"] | None]:
        """Return means and logarithms of variances, float32; None without a Gaussian."""
        out = self.down(x, ctx.at("down")).astype(jnp.float32)
        if not self.gaussian:
            return out, None
        mean, log_variance = jnp.split(out, 2, axis=-1)
        return mean, log_variance

    def states(self, z: Float[Array, "B P Z"], ctx: Context) -> Float[Array, "B P D"]:
        """Return the states that the decoder reads."""
        return self.up(z, ctx.at("up"))


MOMENTUM = 0.99  # of the running moments


class Moments(nnx.Module):
    """Running mean and variance of each number of the codes, for random codes."""

    def __init__(self, shape: tuple[int, ...]):
        self.values = Carry(jnp.zeros((2, *shape), jnp.float32))  # weighted sums of z and z ** 2
        self.weight = Carry(jnp.zeros((), jnp.float32))

    def update(self, z: Float[Array, "B L Z"], rows: Float[Array, "B"]) -> None:
        """Add the codes of one (micro-)batch.

        Args:
            z: codes.
            rows: 0 for rows that only pad the batch, else 1.
        """
        share = rows / jnp.maximum(rows.sum(), 1)
        z = jax.lax.stop_gradient(z)
        now = jnp.stack([jnp.einsum("blz,b->lz", power, share) for power in (z, z * z)])
        self.values[...] = MOMENTUM * self.values[...] + (1 - MOMENTUM) * now
        self.weight[...] = MOMENTUM * self.weight[...] + (1 - MOMENTUM)

    @property
    def mean(self) -> Float[Array, "L Z"]:
        """The mean; 0 before the first batch."""
        return self.values[...][0] / jnp.maximum(self.weight[...], 1e-9)

    @property
    def std(self) -> Float[Array, "L Z"]:
        """The standard deviation; 0 before the first batch."""
        square = self.values[...][1] / jnp.maximum(self.weight[...], 1e-9)
        return jnp.sqrt(jnp.maximum(square - jnp.square(self.mean), 0.0))

    def draw(self, rows: int, ctx: Context) -> Float[Array, "B L Z"]:
        """Return random codes."""
        noise = jax.random.normal(ctx.key, (rows, *self.mean.shape), jnp.float32)
        return self.mean[None] + self.std[None] * noise
