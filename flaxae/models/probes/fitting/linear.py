"""Probes of one direction: logistic regression, difference of means, LDA, and TTPD."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from flaxae.errors import require
from flaxae.measures import linear_probe
from flaxae.models.probes.fitting.base import FromScores, Scaler, Tensors, both_classes
from flaxae.models.probes.metrics import auroc_of

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
STRENGTH = 10.0
NO_PENALTY = 1e-3


@dataclasses.dataclass(frozen=True)
class Logistic(FromScores):
    """Logistic regression on standardised features.

    Attributes:
        scaler: of the training examples.
        weight: direction in standardised units, (D,).
        bias: (1,).
    """

    kind: ClassVar[str] = "logistic"

    scaler: Scaler
    weight: Float[np.ndarray, " D"]
    bias: Float[np.ndarray, "1"]

    @classmethod
    def fit(
        cls,
        x: Float[np.ndarray, "N D"],
        labels: ArrayLike,
        strength: float = STRENGTH,
        *,
        importance: Float[np.ndarray, " D"] | None = None,
    ) -> "Logistic":
        """Fit a regression, see `measures.linear_probe`.

        Args:
            x: features of the training examples.
            labels: 0 or 1.
            strength: weight of the penalty, 1 / C in scikit-learn.
            importance: weight of each standardised feature: the larger, the less its direction is
                penalised; 0 leaves a feature out.
        """
        return fit_layers(np.asarray(x)[None], labels, (strength,), importance)[0][0]

    def scores(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N"]:
        """Return the log odds of label 1."""
        return self.scaler(x) @ self.weight + self.bias[0]

    def tensors(self) -> Tensors:
        """Return the arrays that a file contains."""
        linear = {"linear.weight": self.weight[None], "linear.bias": self.bias}
        return linear | self.scaler.tensors()

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> "Logistic":
        """Build a probe from the arrays of a file."""
        return cls(
            Scaler.from_tensors(tensors), tensors["linear.weight"][0], tensors["linear.bias"]
        )


def fit_layers(
    x: Float[np.ndarray, "L N D"],
    labels: ArrayLike,
    strengths: Sequence[float] = STRENGTHS,
    importance: Float[np.ndarray, "... D"] | None = None,
) -> list[list[Logistic]]:
    """Fit a regression per layer and penalty, all as one program.

    Args:
        x: features of the training examples in each layer.
        labels: 0 or 1.
        strengths: weights of the penalty.
        importance: weight of each feature, of all layers (D) or of each (L, D).

    Returns:
        The probes, by layer and then by penalty.
    """
    truth = both_classes(labels)
    scalers = [Scaler.fit(layer) for layer in x]
    inputs = np.stack([scale(layer) for scale, layer in zip(scalers, x, strict=True)])
    weights = np.ones((len(x), 1, x.shape[2]), np.float32)
    if importance is not None:
        shape = (len(x), 1, x.shape[2])
        weights = np.broadcast_to(np.expand_dims(importance, -2), shape).astype(np.float32)
    found = linear_probe.fit(
        inputs * weights, truth, np.asarray(strengths, np.float32), standardise=False
    )
    # The importance is folded into the direction, so that a probe reads plain features.
    folded = found.weights * weights
    return [
        [Logistic(s, folded[i, j], found.bias[i, j][None]) for j in range(len(strengths))]
        for i, s in enumerate(scalers)
    ]


def best_layer(
    probes: list[list[Logistic]], x: Float[np.ndarray, "L N D"], labels: ArrayLike
) -> tuple[int, Logistic, float]:
    """Return index of the layer, probe and AUROC of the best probe of `fit_layers`.

    Args:
        probes: by layer and then by penalty.
        x: features of the dev examples, which are neither trained nor tested on.
        labels: their labels.

    Raises:
        ConfigError: if a class is missing, or no regression has finite scores.
    """
    both_classes(labels)
    scores = {
        (-i, -j): probe.scores(x[i]) for i, row in enumerate(probes) for j, probe in enumerate(row)
    }
    found = [(auroc_of(s, labels), *at) for at, s in scores.items() if np.isfinite(s).all()]
    require(bool(found), "no regression has finite scores on dev: check the states for nan")
    value, i, j = max(found)  # of equal ones the earliest
    return -i, probes[-i][-j], value


@dataclasses.dataclass(frozen=True)
class MassMean(FromScores):
    """The difference of the classes' means, plain or by LDA (Marks and Tegmark 2023).

    Attributes:
        direction: (D,).
        threshold: projection at which both classes are equally probable, (1,).
        slope: log odds per unit of the projection, (1,).
    """

    kind: ClassVar[str] = "mass_mean"

    direction: Float[np.ndarray, " D"]
    threshold: Float[np.ndarray, "1"]
    slope: Float[np.ndarray, "1"]

    @classmethod
    def fit(
        cls, x: Float[np.ndarray, "N D"], labels: ArrayLike, *, shrinkage: float | None = None
    ) -> "MassMean":
        """Fit a direction; threshold and slope are those of two normal distributions.

        Args:
            x: features of the training examples.
            labels: 0 or 1.
            shrinkage: None: the plain difference of means; else LDA on standardised features,
                with the covariance within the classes moved by this share, in [0, 1], towards a
                multiple of the identity, as in scikit-learn.
        """
        truth, x = both_classes(labels), np.asarray(x, np.float64)
        means = [x[~truth].mean(0), x[truth].mean(0)]
        direction = means[1] - means[0]
        within = np.where(truth[:, None], x - means[1], x - means[0])
        if shrinkage is not None:
            std = Scaler.fit(x).std.astype(np.float64)
            cov = (within / std).T @ (within / std) / len(x)
            level = np.trace(cov) / len(cov)
            cov = (1 - shrinkage) * cov + shrinkage * level * np.eye(len(cov))
            direction = np.linalg.lstsq(cov, direction / std, rcond=None)[0] / std
        projected = within @ direction
        variance = max(float(np.mean(projected**2)), 1e-12)
        middle = float((means[0] + means[1]) @ direction / 2)
        gap = float((means[1] - means[0]) @ direction)
        slope = gap / variance
        prior = float(np.log(truth.mean() / (1 - truth.mean())))
        threshold = middle - (prior / slope if slope else 0.0)
        return cls(*(np.asarray(v, np.float32) for v in (direction, [threshold], [slope])))

    def scores(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N"]:
        """Return the log odds of label 1."""
        return self.slope[0] * (np.asarray(x, np.float32) @ self.direction - self.threshold[0])

    def tensors(self) -> Tensors:
        """Return the arrays that a file contains."""
        return dataclasses.asdict(self)

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> "MassMean":
        """Build a probe from the arrays of a file."""
        return cls(**tensors)


@dataclasses.dataclass(frozen=True)
class TTPD(FromScores):
    """Training of truth and polarity directions (Bürger et al. 2024, "Truth is Universal").

    Attributes:
        direction: t_G, which separates true from false statements of both polarities, (D,).
        polarity_direction: separates affirmative from negated statements, (D,).
        weight: of the two projections, (2,).
        bias: (1,).
    """

    kind: ClassVar[str] = "ttpd"

    direction: Float[np.ndarray, " D"]
    polarity_direction: Float[np.ndarray, " D"]
    weight: Float[np.ndarray, "2"]
    bias: Float[np.ndarray, "1"]

    @classmethod
    def fit(
        cls, x: Float[np.ndarray, "N D"], labels: ArrayLike, polarity: ArrayLike, sets: ArrayLike
    ) -> "TTPD":
        """Fit the two directions, and a regression on the projections.

        Args:
            x: features of the training examples.
            labels: 0 or 1.
            polarity: 1 for affirmative and -1 for negated statements; both are needed.
            sets: the data set of each example; t_G is fitted on states centred in each.

        Raises:
            ConfigError: if a class or a polarity is missing.
        """
        truth = both_classes(labels)
        affirmative = both_classes((np.asarray(polarity) > 0).astype(int))
        x, sets = np.asarray(x, np.float32), np.asarray(sets)
        centred = x.astype(np.float64)
        for name in np.unique(sets):
            centred[sets == name] -= centred[sets == name].mean(0)
        signs = np.where(truth, 1.0, -1.0)
        design = np.stack([signs, signs * np.where(affirmative, 1.0, -1.0)], axis=1)
        direction = np.linalg.lstsq(design, centred, rcond=None)[0][0].astype(np.float32)
        polarity_direction, _ = _regression(x, affirmative)
        plane = np.stack([x @ direction, x @ polarity_direction], axis=1)
        weight, bias = _regression(plane, truth)
        return cls(direction, polarity_direction, weight, bias)

    def scores(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N"]:
        """Return the log odds of label 1."""
        x = np.asarray(x, np.float32)
        plane = np.stack([x @ self.direction, x @ self.polarity_direction], axis=1)
        return plane @ self.weight + self.bias[0]

    def tensors(self) -> Tensors:
        """Return the arrays that a file contains."""
        return dataclasses.asdict(self)

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> "TTPD":
        """Build a probe from the arrays of a file."""
        return cls(**tensors)


def _regression(
    x: Float[np.ndarray, "N D"], labels: Bool[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "1"]]:
    """Return direction and bias of a logistic regression with almost no penalty.

    The source has none. For separable classes, as states of many features are, it has no finite
    solution, and scikit-learn's depends on where it stops.
    """
    from sklearn.linear_model import LogisticRegression

    scaler = Scaler.fit(x)
    found = LogisticRegression(C=1 / NO_PENALTY, max_iter=2000, tol=1e-6).fit(scaler(x), labels)
    weight = (found.coef_[0] / scaler.std).astype(np.float32)
    return weight, (found.intercept_ - weight @ scaler.mean).astype(np.float32)
