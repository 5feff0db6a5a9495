"""Contrast-consistent search: a direction without labels (Burns et al. 2023)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from flaxae.models.probes.fitting.base import (
    FromScores,
    Scaler,
    Tensors,
    both_classes,
    sigmoid,
    train_sign,
)
from flaxae.models.probes.fitting.networks import Params, train

RESTARTS, STEPS, RATE, DECAY = 10, 1000, 1e-2, 1e-2


@dataclasses.dataclass(frozen=True)
class CCS(FromScores):
    """A probe of pairs: each statement followed by choice 1, and by choice 0.

    Attributes:
        plus: scaler of the states after choice 1.
        minus: scaler of the states after choice 0. Each side is normalised alone, so that the
            words of the choices themselves do not separate them.
        weight: direction, (D,); its sign is fixed on the training examples.
        bias: (1,).
    """

    kind: ClassVar[str] = "ccs"

    plus: Scaler
    minus: Scaler
    weight: Float[np.ndarray, " D"]
    bias: Float[np.ndarray, "1"]

    @classmethod
    def fit(cls, x: Float[np.ndarray, "N 2 D"], labels: ArrayLike, *, seed: int = 0) -> "CCS":
        """Fit `RESTARTS` directions by one program, and keep that of the least loss.

        Args:
            x: states after choice 0 and after choice 1 of the training examples.
            labels: 0 or 1; they only decide the sign.
            seed: seed of the initial directions.
        """
        truth = both_classes(labels)
        minus, plus = Scaler.fit(x[:, 0]), Scaler.fit(x[:, 1])
        inputs = np.stack([minus(x[:, 0]), plus(x[:, 1])], axis=1)
        pairs, size = jnp.asarray(inputs), inputs.shape[-1]
        start = jax.random.normal(jax.random.key(seed), (RESTARTS, size), jnp.float32)
        found = train(
            _total,
            {"w": start / np.float32(size**0.5), "b": jnp.zeros(RESTARTS, jnp.float32)},
            pairs,
            steps=STEPS,
            rate=RATE,
            final=RATE,
            decay=DECAY,
        )
        best = int(np.argmin(np.asarray(_losses(found, pairs))))
        weight, bias = np.asarray(found["w"][best]), np.asarray(found["b"][best])[None]
        sign = train_sign(cls(plus, minus, weight, bias).scores(x), truth)
        # p becomes 1 - p if both are negated.
        return cls(plus, minus, np.float32(sign) * weight, np.float32(sign) * bias)

    def scores(self, x: Float[np.ndarray, "N 2 D"]) -> Float[np.ndarray, "N"]:
        """Return the log odds of p = (p+ + 1 - p-) / 2."""
        minus, plus = self.minus(x[:, 0]), self.plus(x[:, 1])
        minus, plus = (side @ self.weight + self.bias[0] for side in (minus, plus))
        # 1 - sigmoid(x) is sigmoid(-x), which keeps its digits where sigmoid(x) is 1.
        yes, no = sigmoid(plus) + sigmoid(-minus), sigmoid(-plus) + sigmoid(minus)
        return np.log(np.maximum(yes, 1e-300)) - np.log(np.maximum(no, 1e-300))

    def tensors(self) -> Tensors:
        """Return the arrays that a file contains."""
        out = {"linear.weight": self.weight[None], "linear.bias": self.bias}
        for side in ("plus", "minus"):
            scaler: Scaler = getattr(self, side)
            out |= {f"{side}.{name}": x for name, x in scaler.tensors().items()}
        return out

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> "CCS":
        """Build a probe from the arrays of a file."""
        plus, minus = (
            Scaler(tensors[f"{side}.dataset_mean"], tensors[f"{side}.dataset_std"])
            for side in ("plus", "minus")
        )
        return cls(plus, minus, tensors["linear.weight"][0], tensors["linear.bias"])


def ccs_loss(p_minus: Array, p_plus: Array) -> Float[Array, ""]:
    """Return the mean of (p+ - (1 - p-))^2 + min(p+, p-)^2."""
    consistent = jnp.square(p_plus - (1 - p_minus))
    confident = jnp.square(jnp.minimum(p_plus, p_minus))
    return jnp.mean(consistent + confident)


def _losses(params: Params, x: Float[Array, "N 2 D"]) -> Float[Array, " R"]:
    """Return the loss of each direction."""
    p = jax.nn.sigmoid(jnp.einsum("ncd,rd->rnc", x, params["w"]) + params["b"][:, None, None])
    return jax.vmap(ccs_loss)(p[..., 0], p[..., 1])


def _total(params: Params, x: Float[Array, "N 2 D"]) -> Float[Array, ""]:
    """Return the sum of the losses, whose gradient is that of each direction alone."""
    return _losses(params, x).sum()
