"""Whether single dimensions of a code stand for single factors of the texts.

Every measure is about the axes: a rotation of the codes changes nothing that a decoder could not
undo, and lowers all of them. So each is shown beside the same measure of randomly rotated codes.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from flaxae.measures.stats import Interval, bootstrap, jackknife

BATCH = 32  # rows behind one training point of z-diff and z-min-var
BINS = 20


class DCI(NamedTuple):
    """Eastwood & Williams (2018): each in [0, 1]."""

    disentanglement: float
    completeness: float
    informativeness: float


class _Groups:
    """Draws of rows that share a factor's value."""

    def __init__(self, values: Int[np.ndarray, " n"]):
        _, self.group, self.sizes = np.unique(values, return_inverse=True, return_counts=True)
        self.order = np.argsort(self.group, kind="stable")
        self.starts = np.cumsum(self.sizes) - self.sizes

    def others(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For each row, one drawn from those of the same value."""
        group = self.group[rows]
        place = np.floor(rng.random(rows.shape) * self.sizes[group]).astype(int)
        return self.order[self.starts[group] + place]


def _table(factors: dict[str, np.ndarray]) -> Int[np.ndarray, "n k"]:
    table = np.stack(list(factors.values()), axis=1)
    return np.stack([np.unique(c, return_inverse=True)[1] for c in table.T], axis=1)


def _scaled(codes: np.ndarray) -> np.ndarray:
    """Codes in units of each dimension's standard deviation, without dead dimensions."""
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
    """How well the fixed factor is told from mean |z - z'| of pairs that share it.

    Accuracy of a linear classifier on unseen points (Higgins et al. 2017); chance is one over the
    number of factors.

    Args:
        codes: one a text.
        factors: name -> a value a text.
        points: of the classifier, half of them to train it.
        seed: of the draws.

    Returns:
        The accuracy, with its interval over points.
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
    """How well the fixed factor is told from the dimension that varies least among such texts.

    Accuracy of a majority vote on unseen points (Kim & Mnih 2018, section 2); chance is one over
    the number of factors.

    Args, Returns: as for `z_diff`.
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
    """I(z_i; v_k) in nats, of dimensions cut into BINS equal bins, and the entropy of each v_k."""
    table = _table(factors)
    low, high = codes.min(0), codes.max(0)
    cut = ((codes - low) / np.maximum(high - low, 1e-12) * BINS).astype(int).clip(0, BINS - 1)
    n, dims = codes.shape
    out = np.empty((dims, table.shape[1]))
    entropies = np.empty(table.shape[1])
    for k, column in enumerate(table.T):
        values = column.max() + 1
        cell = (np.arange(dims) * BINS + cut) * values + column[:, None]
        joint = np.bincount(cell.ravel(), minlength=dims * BINS * values) / n
        joint = joint.reshape(dims, BINS, values)
        own = np.bincount(column, minlength=values) / n
        independent = joint.sum(2, keepdims=True) * own
        safe = np.where(joint > 0, joint, 1.0)
        out[:, k] = (joint * np.log(safe / np.where(joint > 0, independent, 1.0))).sum((1, 2))
        entropies[k] = -(own * np.log(np.where(own > 0, own, 1.0))).sum()
    return out, entropies


def mig(codes: Float[np.ndarray, "n d"], factors: dict[str, Int[np.ndarray, " n"]]) -> float:
    """The mutual information gap (Chen et al. 2018, eq. 6).

    The mean over factors of (largest - second largest I(z_i; v_k)) / H(v_k).
    """
    information, entropies = mutual_information(codes, factors)
    if information.shape[0] < 2:
        information = np.concatenate([information, np.zeros_like(information)])
    top = np.sort(information, axis=0)[::-1]
    return float(np.mean((top[0] - top[1]) / entropies))


def mig_interval(
    codes: Float[np.ndarray, "n d"], factors: dict[str, Int[np.ndarray, " n"]]
) -> Interval:
    """`mig` with its interval over texts, by the jackknife."""

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
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 2).

    Args:
        codes: one a text; three quarters train a random forest for each factor.
        factors: name -> a value a text.
        trees: of each forest.
        seed: of the split and the forests.

    Returns:
        The three, from the forests' importances; informativeness is their accuracy on the rest.
    """
    from sklearn.ensemble import RandomForestClassifier

    table, order = _table(factors), np.random.default_rng(seed).permutation(len(codes))
    cut = max(1, 3 * len(codes) // 4)
    train, test = order[:cut], order[cut:]
    importance, accuracy = [], []
    for column in table.T:
        # All dimensions at each split: a forest of random ones would spread its use over them.
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
    """Disentanglement and completeness of how much each factor's predictor uses each dimension."""
    total = max(float(importance.sum()), 1e-12)
    by_dim = 1 - _relative_entropy(importance)
    by_factor = 1 - _relative_entropy(importance.T)
    weights = importance.sum(1) / total
    return float(by_dim @ weights), float(by_factor @ (importance.sum(0) / total))


def _relative_entropy(rows: Float[np.ndarray, "a b"]) -> Float[np.ndarray, " a"]:
    """Entropy of each row as a distribution, in units of the largest possible."""
    share = rows / np.maximum(rows.sum(1, keepdims=True), 1e-12)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
    return entropy / np.log(max(rows.shape[1], 2))


def rotated(codes: Float[np.ndarray, "n d"], seed: int = 0) -> Float[np.ndarray, "n d"]:
    """The codes in randomly turned axes: the same information, no axis special."""
    matrix = np.random.default_rng(seed).normal(size=(codes.shape[1],) * 2)
    turn, upper = np.linalg.qr(matrix)
    return codes @ (turn * np.sign(np.diag(upper)))


def measure(
    codes: Float[np.ndarray, "n d"], factors: dict[str, Int[np.ndarray, " n"]]
) -> dict[str, Any]:
    """All measures of codes and, beside them, of the same codes rotated."""
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
    return float(np.unique(values, return_counts=True)[1].max() / len(values))
