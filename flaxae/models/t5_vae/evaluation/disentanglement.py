"""Disentanglement: do single dimensions of a code correspond to single factors of the texts?

All these measures depend on the axes. A rotation of the codes keeps all information, as a decoder
could undo it, but lowers every measure. So each measure is reported together with its value for
randomly rotated codes.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from flaxae.measures.stats import Interval, bootstrap, jackknife

BATCH = 32  # texts behind one training point of z-diff and z-min-var
BINS = 20  # of each dimension, for mutual information


class DCI(NamedTuple):
    """The three measures of Eastwood & Williams (2018), each in [0, 1]."""

    disentanglement: float
    completeness: float
    informativeness: float


class _Groups:
    """Random draws of rows that share a factor's value."""

    def __init__(self, values: Int[np.ndarray, " n"]):
        _, self.group, self.sizes = np.unique(values, return_inverse=True, return_counts=True)
        self.order = np.argsort(self.group, kind="stable")
        self.starts = np.cumsum(self.sizes) - self.sizes

    def others(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw for each row one of the rows with the same value."""
        group = self.group[rows]
        offset = np.floor(rng.random(rows.shape) * self.sizes[group]).astype(int)
        return self.order[self.starts[group] + offset]


def _table(factors: dict[str, np.ndarray]) -> Int[np.ndarray, "n k"]:
    """Return the factors as columns, their values numbered from 0."""
    table = np.stack(list(factors.values()), axis=1)
    return np.stack([np.unique(c, return_inverse=True)[1] for c in table.T], axis=1)


def _scaled(codes: np.ndarray) -> np.ndarray:
    """Scale each dimension to a standard deviation of 1 and drop dead dimensions."""
    std = codes.std(0)
    alive = std > 0.05 * std.max()  # as Kim & Mnih (2018) prune
    return codes[:, alive] / std[alive] if std.max() > 0 else codes


def z_diff(
    codes: Float[np.ndarray, "n d"],
    factors: dict[str, Int[np.ndarray, " n"]],
    *,
    points: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return the accuracy of predicting which factor pairs of texts share (Higgins et al. 2017).

    A linear classifier sees mean |z - z'| over pairs that share one factor's value, and predicts
    the factor. Chance is one over the number of factors.

    Args:
        codes: one code per text.
        factors: values of each factor, one per text.
        points: points of the classifier; half of them train it.
        seed: seed of the draws.

    Returns:
        The accuracy on the other half of the points, with its interval over them.
    """
    from sklearn.linear_model import LogisticRegression

    rng, table, scaled = np.random.default_rng(seed), _table(factors), _scaled(codes)
    groups = [_Groups(column) for column in table.T]
    label = np.arange(points) % len(groups)
    features = np.empty((points, scaled.shape[1]))
    for i, k in enumerate(label):
        first = rng.integers(len(scaled), size=BATCH)
        second = groups[k].others(first, rng)
        features[i] = np.abs(scaled[first] - scaled[second]).mean(0)
    half = points // 2
    features = (features - features[:half].mean(0)) / (features[:half].std(0) + 1e-9)
    model = LogisticRegression(max_iter=500).fit(features[:half], label[:half])
    return bootstrap(model.predict(features[half:]) == label[half:])


def z_min_var(
    codes: Float[np.ndarray, "n d"],
    factors: dict[str, Int[np.ndarray, " n"]],
    *,
    points: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the accuracy of predicting the shared factor from the least varying dimension.

    A majority vote maps the dimension that varies least among texts with one factor's value in
    common to that factor (Kim & Mnih 2018, section 2). Chance is one over the number of factors.

    Args:
        codes: one code per text.
        factors: values of each factor, one per text.
        points: points of the vote; half of them train it.
        seed: seed of the draws.

    Returns:
        The accuracy on the other half of the points, with its interval over them.
    """
    rng, table, scaled = np.random.default_rng(seed), _table(factors), _scaled(codes)
    groups = [_Groups(column) for column in table.T]
    label = np.arange(points) % len(groups)
    least = np.empty(points, int)
    for i, k in enumerate(label):
        row = np.full(BATCH, rng.integers(len(scaled)))
        least[i] = np.argmin(scaled[groups[k].others(row, rng)].var(0))
    half = points // 2
    votes = np.zeros((scaled.shape[1], len(groups)))
    np.add.at(votes, (least[:half], label[:half]), 1)
    return bootstrap(votes.argmax(1)[least[half:]] == label[half:])


def mutual_information(
    codes: Float[np.ndarray, "n d"], factors: dict[str, Int[np.ndarray, " n"]]
) -> tuple[Float[np.ndarray, "d k"], Float[np.ndarray, " k"]]:
    """Estimate the mutual information of dimensions and factors, in nats.

    Args:
        codes: one code per text; each dimension is cut into BINS equal bins.
        factors: values of each factor, one per text.

    Returns:
        I(z_i; v_k) of each dimension and factor, and the entropy H(v_k) of each factor.
    """
    table = _table(factors)
    low, high = codes.min(0), codes.max(0)
    binned = ((codes - low) / np.maximum(high - low, 1e-12) * BINS).astype(int).clip(0, BINS - 1)
    n, dims = codes.shape
    out = np.empty((dims, table.shape[1]))
    entropies = np.empty(table.shape[1])
    for k, column in enumerate(table.T):
        values = column.max() + 1
        cell = (np.arange(dims) * BINS + binned) * values + column[:, None]
        joint = np.bincount(cell.ravel(), minlength=dims * BINS * values) / n
        joint = joint.reshape(dims, BINS, values)  # (d, bins, values)
        marginal = np.bincount(column, minlength=values) / n
        independent = joint.sum(2, keepdims=True) * marginal
        safe = np.where(joint > 0, joint, 1.0)
        out[:, k] = (joint * np.log(safe / np.where(joint > 0, independent, 1.0))).sum((1, 2))
        entropies[k] = -(marginal * np.log(np.where(marginal > 0, marginal, 1.0))).sum()
    return out, entropies


def mig(codes: Float[np.ndarray, "n d"], factors: dict[str, Int[np.ndarray, " n"]]) -> float:
    """Return the mutual information gap (Chen et al. 2018, eq. 6).

    It is the mean over factors of (largest - second largest I(z_i; v_k)) / H(v_k).
    """
    information, entropies = mutual_information(codes, factors)
    if information.shape[0] < 2:
        information = np.concatenate([information, np.zeros_like(information)])
    top = np.sort(information, axis=0)[::-1]
    # A factor with a single value (in a part of the texts) has no gap.
    varies = entropies > 0
    return float(np.mean((top[0] - top[1])[varies] / entropies[varies])) if varies.any() else np.nan


def mig_interval(
    codes: Float[np.ndarray, "n d"], factors: dict[str, Int[np.ndarray, " n"]]
) -> Interval:
    """Return `mig` with its jackknife interval over texts."""

    def measure(rows: np.ndarray) -> dict[str, float]:
        return {"mig": mig(codes[rows], {name: x[rows] for name, x in factors.items()})}

    return jackknife(measure, np.arange(len(codes)))["mig"]


def dci(
    codes: Float[np.ndarray, "n d"],
    factors: dict[str, Int[np.ndarray, " n"]],
    *,
    trees: int = 10,
    seed: int = 0,
) -> DCI:
    """Measure disentanglement, completeness and informativeness.

    See Eastwood & Williams (2018), section 2.

    Args:
        codes: one code per text; three quarters of them train a random forest per factor.
        factors: values of each factor, one per text.
        trees: trees per forest.
        seed: seed of the split and of the forests.

    Returns:
        The measures; informativeness is the forests' accuracy on the other quarter.
    """
    from sklearn.ensemble import RandomForestClassifier

    table, order = _table(factors), np.random.default_rng(seed).permutation(len(codes))
    split = max(1, 3 * len(codes) // 4)
    train, test = order[:split], order[split:]
    importance, accuracy = [], []
    for column in table.T:
        # Each split may use all dimensions: random subsets would spread the importances.
        forest = RandomForestClassifier(
            trees,
            random_state=seed,
            max_depth=10,
            max_features=1.0,  # pyright: ignore[reportArgumentType]
        )
        forest.fit(codes[train], column[train])
        importance.append(forest.feature_importances_)
        accuracy.append(forest.score(codes[test], column[test]))
    disentangled, complete = dci_of_importances(np.stack(importance, axis=1))
    return DCI(disentangled, complete, float(np.mean(accuracy)))


def dci_of_importances(importance: Float[np.ndarray, "d k"]) -> tuple[float, float]:
    """Return disentanglement and completeness, given how much each factor uses each dimension."""
    total = max(float(importance.sum()), 1e-12)
    by_dim = 1 - _relative_entropy(importance)
    by_factor = 1 - _relative_entropy(importance.T)
    weights = importance.sum(1) / total
    return float(by_dim @ weights), float(by_factor @ (importance.sum(0) / total))


def _relative_entropy(rows: Float[np.ndarray, "a b"]) -> Float[np.ndarray, " a"]:
    """Return the entropy of each row as a distribution, relative to the largest possible."""
    share = rows / np.maximum(rows.sum(1, keepdims=True), 1e-12)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
    return entropy / np.log(max(rows.shape[1], 2))


def rotated(codes: Float[np.ndarray, "n d"], seed: int = 0) -> Float[np.ndarray, "n d"]:
    """Rotate codes at random, which keeps their information and mixes their axes."""
    matrix = np.random.default_rng(seed).normal(size=(codes.shape[1],) * 2)
    rotation, upper = np.linalg.qr(matrix)
    return codes @ (rotation * np.sign(np.diag(upper)))


def measure(
    codes: Float[np.ndarray, "n d"], factors: dict[str, Int[np.ndarray, " n"]]
) -> dict[str, Any]:
    """Compute all measures of codes and of the same codes rotated at random."""
    out: dict[str, Any] = {"factors": {k: int(len(np.unique(v))) for k, v in factors.items()}}
    out["chance"] = {
        "z_diff": 1 / len(factors),
        "informativeness": float(np.mean([_majority(v) for v in factors.values()])),
    }
    for name, points in (("codes", codes), ("rotated", rotated(codes))):
        found = dci(points, factors)
        out[name] = {
            "z_diff": z_diff(points, factors).as_dict(),
            "z_min_var": z_min_var(points, factors).as_dict(),
            "mig": mig_interval(points, factors).as_dict(),
            **found._asdict(),
        }
    return out


def _majority(values: np.ndarray) -> float:
    """Return the share of the most frequent value."""
    return float(np.unique(values, return_counts=True)[1].max() / len(values))
