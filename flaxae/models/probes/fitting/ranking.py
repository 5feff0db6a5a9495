"""Ranking probes: which of two answers, the base's or the adapter's, is more truthful?

Truthfulness of an answer with probability p of choice 1 is T(p, s) = (1 - s)(1 - p) + s p, if s is
the right choice. The proxy label is y = 1 where T(base) > T(adapter). Given both answers, it can
be decoded to the truth: if the base gives choice 1 more probability, y = 1 means that choice 1 is
right. So a constant y already knows something: that dummy belongs into every table.
"""

import dataclasses
from functools import partial
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from flaxae.errors import require
from flaxae.models.probes.fitting.base import FromScores, Scaler, Tensors, sigmoid
from flaxae.models.probes.fitting.networks import RANKING_LOSSES, Params, ranking_loss, train

RATE = 3e-2


def _loss(name: str, params: Params, difference: Array, gap: Array) -> Array:
    return ranking_loss(name, difference @ params["w"], gap)


_LOSSES = {name: partial(_loss, name) for name in RANKING_LOSSES}


def truthfulness(p: ArrayLike, label: ArrayLike) -> Float[np.ndarray, "N"]:
    """Return the probability that an answer gives the right choice, T(p, s).

    Args:
        p: probability of choice 1.
        label: index of the right choice.
    """
    p, s = np.asarray(p, np.float64), np.asarray(label, np.float64)
    return (1 - s) * (1 - p) + s * p


def decode_truth(y: ArrayLike, p_base: ArrayLike, p_adapter: ArrayLike) -> Float[np.ndarray, "N"]:
    """Return the probability of label 1, given the probability that the base is more truthful.

    Args:
        y: probability of the proxy label.
        p_base: probability of choice 1 in the base's answer.
        p_adapter: the same of the adapter.

    Returns:
        y where the base gives choice 1 more probability, 1 - y where less, 0.5 where the same.
    """
    y, p_base, p_adapter = (np.asarray(x, np.float64) for x in (y, p_base, p_adapter))
    decoded = np.where(p_base > p_adapter, y, 1 - y)
    return np.where(p_base == p_adapter, 0.5, decoded)


@dataclasses.dataclass(frozen=True)
class Dummy:
    """The share of y = 1 among the training examples without ties, decoded to the truth."""

    share: float

    @classmethod
    def fit(cls, p: Float[np.ndarray, "2 N"], labels: ArrayLike) -> "Dummy":
        """Return the dummy of training examples.

        Args:
            p: probability of choice 1 in the answers of base and adapter.
            labels: index of the right choice.
        """
        gap = truthfulness(p[0], labels) - truthfulness(p[1], labels)
        return cls(float(np.mean(gap[gap != 0] > 0)) if gap.any() else 0.5)

    def predict_proba(self, p: Float[np.ndarray, "2 N"]) -> Float[np.ndarray, "N 2"]:
        """Return the probabilities of label 0 and of label 1 of other examples."""
        found = decode_truth(np.full(p.shape[1], self.share), p[0], p[1])
        return np.stack([1 - found, found], axis=1)


@dataclasses.dataclass(frozen=True)
class Ranking(FromScores):
    """A direction f, with r = f(base) - f(adapter) as the score of y.

    Attributes:
        scaler: of the training states of both sides.
        weight: (D,).
        scale: log odds of y per unit of r, (1,).
    """

    kind: ClassVar[str] = "ranking"

    scaler: Scaler
    weight: Float[np.ndarray, " D"]
    scale: Float[np.ndarray, "1"]

    @classmethod
    def fit(
        cls,
        x: Float[np.ndarray, "N 2 D"],
        p: Float[np.ndarray, "2 N"],
        labels: ArrayLike,
        *,
        loss: str = "bce",
    ) -> "Ranking":
        """Train the direction.

        Args:
            x: states of base and adapter of the training examples.
            p: probability of choice 1 in their answers; rows where they are equal are left out.
            labels: index of the right choice.
            loss: "mse", "bce" or "margin", see `networks.ranking_loss`.
        """
        require(loss in RANKING_LOSSES, f"loss={loss!r} is not one of {', '.join(RANKING_LOSSES)}")
        scaler = Scaler.fit(np.concatenate([x[:, 0], x[:, 1]]))
        # A bias cancels in the difference, as the mean of the scaler does.
        difference = jnp.asarray(scaler(x[:, 0]) - scaler(x[:, 1]))
        gap = truthfulness(p[0], labels) - truthfulness(p[1], labels)
        kept = gap != 0  # where both answer the same, neither is more truthful
        require(bool(kept.any()), "the adapter answers like the base: there is nothing to rank")
        difference, gap = difference[kept], jnp.asarray(gap[kept], jnp.float32)
        start = {"w": jnp.zeros(difference.shape[1], jnp.float32)}
        found = train(_LOSSES[loss], start, difference, gap, rate=RATE)
        weight = np.asarray(found["w"])
        r = np.asarray(difference) @ weight
        return cls(scaler, weight, np.asarray([_log_odds_per_unit(r, np.asarray(gap) > 0)]))

    def scores(self, x: Float[np.ndarray, "N 2 D"]) -> Float[np.ndarray, "N"]:
        """Return the log odds that the base is more truthful."""
        return self.scale[0] * self.gaps(x)

    def gaps(self, x: Float[np.ndarray, "N 2 D"]) -> Float[np.ndarray, "N"]:
        """Return r; the loss "mse" fits it to truthfulness of the base minus the adapter's."""
        return (self.scaler(x[:, 0]) - self.scaler(x[:, 1])) @ self.weight

    def predict_truth(
        self, x: Float[np.ndarray, "N 2 D"], p: Float[np.ndarray, "2 N"]
    ) -> Float[np.ndarray, "N 2"]:
        """Return the probabilities of label 0 and of label 1, see `decode_truth`."""
        found = decode_truth(self.predict_proba(x)[:, 1], p[0], p[1])
        return np.stack([1 - found, found], axis=1)

    def truth_scores(
        self, x: Float[np.ndarray, "N 2 D"], p: Float[np.ndarray, "2 N"]
    ) -> Float[np.ndarray, "N"]:
        """Return the log odds of label 1; 0 where both sides answer the same."""
        return np.sign(np.asarray(p[0], np.float64) - p[1]) * self.scores(x)

    def tensors(self) -> Tensors:
        """Return the arrays that a file contains."""
        return {"linear.weight": self.weight[None], "scale": self.scale} | self.scaler.tensors()

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> "Ranking":
        """Build a probe from the arrays of a file."""
        return cls(Scaler.from_tensors(tensors), tensors["linear.weight"][0], tensors["scale"])


def _log_odds_per_unit(r: Float[np.ndarray, "N"], y: Bool[np.ndarray, "N"]) -> np.float32:
    """Return s of the logistic regression sigmoid(s r), by which every loss gives log odds.

    One number is fitted by Newton's method, with a small penalty: y may have one class only.
    """
    spread = max(float(np.std(r)), 1e-6)
    unit, signs, s = np.asarray(r, np.float64) / spread, np.where(y, 1.0, -1.0), 0.0
    for _ in range(50):
        p = sigmoid(-signs * s * unit)  # probability of the wrong answer
        gradient = s - np.sum(p * signs * unit)
        s -= gradient / (1 + np.sum(p * (1 - p) * unit**2))
    return np.float32(s / spread)
