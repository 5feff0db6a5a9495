"""Parts that all probes share: standardised features, probabilities, the sign of a direction."""

from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from flaxae.errors import ConfigError

FLOOR = 1e-5  # standard deviation, relative to the mean, below which a feature counts as constant
Tensors = dict[str, np.ndarray]


@runtime_checkable
class Probe(Protocol):
    """A fitted probe.

    Attributes:
        kind: name of the probe in saved files.
    """

    kind: ClassVar[str]

    def scores(self, x: Float[np.ndarray, "N ..."]) -> Float[np.ndarray, "N"]:
        """Return the log odds of label 1."""
        ...

    def predict_proba(self, x: Float[np.ndarray, "N ..."]) -> Float[np.ndarray, "N 2"]:
        """Return the probabilities of label 0 and of label 1."""
        ...

    def tensors(self) -> Tensors:
        """Return the arrays that a file contains."""
        ...

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> "Probe":
        """Build a probe from the arrays of a file."""
        ...


class FromScores:
    """Base class of probes that define `scores`."""

    def scores(self, x: Float[np.ndarray, "N ..."]) -> Float[np.ndarray, "N"]:
        """Return the log odds of label 1."""
        raise NotImplementedError

    def predict_proba(self, x: Float[np.ndarray, "N ..."]) -> Float[np.ndarray, "N 2"]:
        """Return the probabilities of label 0 and of label 1."""
        scores = self.scores(x)
        return np.stack([sigmoid(-scores), sigmoid(scores)], axis=1)


class Scaler(NamedTuple):
    """Mean and standard deviation of each feature over the training examples.

    Attributes:
        mean: shape of one example.
        std: the same; 1 for constant features.
    """

    mean: Float[np.ndarray, "..."]
    std: Float[np.ndarray, "..."]

    @classmethod
    def fit(cls, x: Float[np.ndarray, "N ..."]) -> "Scaler":
        """Return the scaler of training examples."""
        mean, std = np.mean(x, 0, dtype=np.float64), np.std(x, 0, dtype=np.float64)
        std = np.where(std > np.maximum(FLOOR * np.abs(mean), 1e-12), std, 1.0)
        return cls(np.asarray(mean, np.float32), np.asarray(std, np.float32))

    def __call__(self, x: Float[np.ndarray, "N ..."]) -> Float[np.ndarray, "N ..."]:
        """Return examples with mean 0 and standard deviation 1."""
        return ((np.asarray(x, np.float32) - self.mean) / self.std).astype(np.float32)

    def tensors(self) -> Tensors:
        """Return the arrays by their names in a file."""
        return {"dataset_mean": self.mean, "dataset_std": self.std}

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> "Scaler":
        """Build a scaler from a file's arrays."""
        return cls(tensors["dataset_mean"], tensors["dataset_std"])


def sigmoid(x: ArrayLike) -> np.ndarray:
    """Return 1 / (1 + exp(-x)) without overflow, and exactly also where it is almost 0."""
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1.0) / (1 + small)


def log_odds(p: ArrayLike) -> np.ndarray:
    """Return log(p / (1 - p)), finite also for 0 and 1."""
    p = np.clip(np.asarray(p, np.float64), 1e-300, 1 - 2.0**-53)
    return np.log(p) - np.log1p(-p)


def both_classes(labels: ArrayLike) -> Bool[np.ndarray, "N"]:
    """Return labels as booleans.

    Raises:
        ConfigError: if one of the two classes is missing.
    """
    labels = np.asarray(labels)
    if not np.isin(labels, (0, 1)).all():
        raise ConfigError("a probe's labels are 0 or 1")
    labels = labels.astype(bool)
    for value in (False, True):
        if not (labels == value).any():
            raise ConfigError(f"no example has label {int(value)}: a probe needs both classes")
    return labels


def train_sign(scores: Float[np.ndarray, "N"], labels: Bool[np.ndarray, "N"]) -> float:
    """Return 1 or -1, by which scores of training examples are higher for label 1.

    Args:
        scores: scores of the training examples; a sign is never chosen on others.
        labels: their labels.
    """
    return 1.0 if scores[labels].mean() >= scores[~labels].mean() else -1.0
