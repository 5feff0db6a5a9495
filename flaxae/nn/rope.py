"""Rotary position embeddings (Su et al. 2021), with linear scaling and Llama 3's."""

import dataclasses
import enum
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class RopeScaling(enum.Enum):
    """The change of frequencies for texts longer than those of training."""

    NONE = "default"
    LINEAR = "linear"  # all by one factor (Chen et al. 2023)
    LLAMA3 = "llama3"  # long waves by the factor, short ones not, a ramp in between (Llama 3.1)


@dataclasses.dataclass(frozen=True)
class Rope:
    """The rotation of queries and keys.

    Attributes:
        dim: number of rotated features per head, the first ones; even.
        theta: base of the wave lengths.
        scaling: kind of scaling.
        factor: factor of the scaling.
        low: Llama 3: waves longer than original_length / low are scaled.
        high: Llama 3: waves shorter than original_length / high are not scaled.
        original_length: Llama 3: positions of the unscaled model.
    """

    dim: int
    theta: float = 10000.0
    scaling: RopeScaling = RopeScaling.NONE
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192

    def frequencies(self) -> Float[np.ndarray, " half"]:
        """Return radians per position, one number per pair of features, float32."""
        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        waves = 1.0 / np.float32(self.theta) ** exponents
        if self.scaling is RopeScaling.LINEAR:
            waves = waves / self.factor
        elif self.scaling is RopeScaling.LLAMA3:
            lengths = 2 * math.pi / waves
            ramp = (self.original_length / lengths - self.low) / (self.high - self.low)
            ramp = np.clip(ramp, 0, 1)
            waves = (1 - ramp) * waves / self.factor + ramp * waves
        return waves.astype(np.float32)

    def angles(
        self, positions: Int[Array, "B S"]
    ) -> tuple[Float[Array, "B S half"], Float[Array, "B S half"]]:
        """Return cosine and sine of each position's angles, float32."""
        waves = jnp.asarray(self.frequencies())[None, None]
        turned = positions.astype(jnp.float32)[:, :, None] * waves
        return jnp.cos(turned), jnp.sin(turned)


def rotate(
    x: Float[Array, "B S H K"],
    cos: Float[Array, "B S half"],
    sin: Float[Array, "B S half"],
) -> Float[Array, "B S H K"]:
    """Rotate feature i with feature i + half; features from 2 * half on are unchanged.

    Args:
        x: queries or keys.
        cos: cosines of `Rope.angles`.
        sin: sines of `Rope.angles`.

    Returns:
        Rotated queries or keys, of x's type.
    """
    half = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]  # (B, S, 1, half)
    wide = x[..., : 2 * half].astype(jnp.float32)
    first, second = wide[..., :half], wide[..., half:]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    turned = turned.astype(x.dtype)
    if 2 * half == x.shape[-1]:
        return turned
    return jnp.concatenate([turned, x[..., 2 * half :]], axis=-1)
