"""Hidden states with their examples, and the checks that keep what is tested out of what is fitted.

A probe is fitted on `StateTable.training()`, which refuses other rows, and leaves a `FitRecord`.
`check_evaluation` compares the record with the rows that the probe is applied to.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from flaxae.errors import ConfigError, require

SIDES = ("base", "adapter")
ARMS = (*SIDES, "both", "diff")
CONTROLS = 500  # rows that a threshold of 1 % false positives should have at least


@dataclasses.dataclass(frozen=True)
class StateTable:
    """Hidden states of prompts, one row per prompt.

    Attributes:
        states: hook -> states of base and adapter, (2, N, L, D).
        layers: the layers, ascending.
        p: probability of choice 1 in the answers of base and adapter, (2, N).
        cov: probability of both choices together, (2, N).
        columns: key, dataset, group, split, label, lie and polarity of each row, (N,) each.
        adapter: hash of the adapter.
        seed: seed of the run that trained it.
        model: name of the base model; "": unknown.
    """

    states: dict[str, Float[np.ndarray, "2 N L D"]]
    layers: tuple[int, ...]
    p: Float[np.ndarray, "2 N"]
    cov: Float[np.ndarray, "2 N"]
    columns: dict[str, np.ndarray]
    adapter: str
    seed: int = 0
    model: str = ""

    def __post_init__(self) -> None:
        require(
            list(self.layers) == sorted(set(self.layers)),
            f"layers {self.layers} are not in ascending order",
        )

    def __len__(self) -> int:
        return self.p.shape[1]

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column."""
        return self.columns[name]

    @property
    def labels(self) -> Int[np.ndarray, "N"]:
        """Index of each row's right choice."""
        return self.columns["label"]

    def select(self, rows: Bool[np.ndarray, "N"]) -> "StateTable":
        """Return the rows for which a mask is True."""
        rows = np.asarray(rows, bool)
        return dataclasses.replace(
            self,
            states={hook: x[:, rows] for hook, x in self.states.items()},
            p=self.p[:, rows],
            cov=self.cov[:, rows],
            columns={name: x[rows] for name, x in self.columns.items()},
        )

    def where(self, **wanted: Any) -> "StateTable":
        """Return the rows whose columns have the given values; a tuple allows each of its values.

        Args:
            **wanted: name of a column -> value, or a tuple of values.
        """
        rows = np.ones(len(self), bool)
        for name, value in wanted.items():
            values = value if isinstance(value, tuple) else (value,)
            rows &= np.isin(self.columns[name], values)
        return self.select(rows)

    def training(self, **wanted: Any) -> "StateTable":
        """Return the rows that probes may be fitted on, see `where`.

        Raises:
            ConfigError: if there are none.
        """
        table = self.where(split="train", **wanted)
        require(len(table) > 0, f"no training rows with {wanted}: collect more states")
        return table

    def features(self, hook: str, arm: str = "adapter") -> Float[np.ndarray, "L N F"]:
        """Return the features of an arm, by layer.

        Args:
            hook: name of the hidden states.
            arm: "base" or "adapter"; "both": one after the other; "diff": adapter minus base.

        Raises:
            ConfigError: if there is no such hook or arm.
        """
        require(
            hook in self.states, f"no states of hook {hook!r}; there are {', '.join(self.states)}"
        )
        base, adapter = np.moveaxis(self.states[hook], 2, 1)  # each (L, N, D)
        if arm == "both":
            return np.concatenate([base, adapter], axis=-1)
        if arm == "diff":
            return adapter - base
        require(arm in SIDES, f"arm {arm!r} is not one of {', '.join(ARMS)}")
        return base if arm == "base" else adapter

    def sides(self, hook: str, layer: int) -> Float[np.ndarray, "N 2 D"]:
        """Return the states of base and adapter at one layer, for ranking probes."""
        require(hook in self.states, f"no states of {hook}; there are {', '.join(self.states)}")
        require(layer in self.layers, f"no states of layer {layer}; there are {self.layers}")
        return np.moveaxis(self.states[hook][:, :, self.layers.index(layer)], 0, 1)

    def record(self) -> "FitRecord":
        """Return the names of these rows, for a probe that is fitted on them.

        Raises:
            ConfigError: if a row is not of the split "train".
        """
        splits = sorted(set(self.columns["split"]) - {"train"})
        require(
            not splits,
            f"rows of split {', '.join(splits)} may not be fitted on: only those of train",
        )
        keys = sorted(set(self.columns["key"]))
        digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        groups = frozenset(self.columns["group"])
        sets = tuple(sorted(set(self.columns["dataset"])))
        return FitRecord(frozenset(keys), groups, sets, digest, self.adapter, self.seed)


@dataclasses.dataclass(frozen=True)
class FitRecord:
    """The rows that a probe was fitted on.

    Attributes:
        keys: of the examples.
        groups: of the examples.
        sets: names of the data sets.
        digest: hash of the keys.
        adapter: hash of the adapter whose states they are.
        seed: seed of the run that trained it.
    """

    keys: frozenset[str]
    groups: frozenset[str]
    sets: tuple[str, ...]
    digest: str
    adapter: str
    seed: int


def check_evaluation(record: FitRecord, table: StateTable) -> None:
    """Check that no row was fitted on, and that it has states of the same adapter.

    Args:
        record: what the probe was fitted on.
        table: rows that it is applied to.

    Raises:
        ConfigError: if a row's example or group was fitted on, a row of an OOD set belongs to a
            set that was fitted on, or the adapters differ.
    """
    for name, seen in (("key", record.keys), ("group", record.groups)):
        shared = sorted(seen & set(table.columns[name]))
        require(
            not shared,
            f"leak: {len(shared)} {name}s of the evaluated rows were fitted on, {shared[:1]} first",
        )
    ood = table.columns["dataset"][table.columns["split"] == "ood"]
    fitted = sorted(set(ood) & set(record.sets))
    require(not fitted, f"leak: the OOD set {', '.join(fitted)} was fitted on")
    require(
        table.adapter == record.adapter,
        f"the probe was fitted on states of adapter {record.adapter}, and these are of "
        f"{table.adapter}",
    )


def check_controls(controls: StateTable, others: Iterable[StateTable]) -> list[str]:
    """Check that control rows are of both classes and in no other split.

    Returns:
        A warning if there are fewer than `CONTROLS` rows.

    Raises:
        ConfigError: if a group of them is in another split, or a class is missing.
    """
    for value in (0, 1):
        require(
            bool((controls.labels == value).any()),
            f"the split control has no example of label {value}: give it more examples",
        )
    groups = set(controls.columns["group"])
    for table in others:
        shared = sorted(groups & set(table.columns["group"]))
        require(not shared, f"leak: control group {shared[:1]} is also in another split")
    if len(controls) >= CONTROLS:
        return []
    return [
        f"there are {len(controls)} control rows, fewer than {CONTROLS}: the threshold of 1 % "
        "false positives is coarse"
    ]


def check_arms(records: Sequence[FitRecord]) -> None:
    """Check that compared arms were fitted on the same examples, adapter and seed.

    Raises:
        ConfigError: if they were not.
    """
    for name in ("digest", "adapter", "seed"):
        found = sorted({str(getattr(record, name)) for record in records})
        if len(found) > 1:
            raise ConfigError(
                f"the arms differ in {name} ({', '.join(found)}), so they cannot be compared"
            )


def layer_differences(states: Float[np.ndarray, "L N F"]) -> Float[np.ndarray, "L-1 N F"]:
    """Return the change of the residual stream from each collected layer to the next.

    Args:
        states: states by layer, as `StateTable.features` returns them.
    """
    return np.diff(states, axis=0)


def answer_threshold(
    p: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"], *, signed: bool = True
) -> float:
    """Return the threshold of one side's answers that best separates the labels.

    Small models prefer one choice whatever the question; fit the threshold on training rows.

    Args:
        p: probability of choice 1 in the answers to prompts that ask for the truth.
        labels: index of the right choice.
        signed: whether choice 1 should be the answer where it is right. An adapter that lies gives
            the other one: False takes the threshold whose balanced accuracy is farthest from 0.5.
    """
    values, place = np.unique(np.asarray(p, np.float64), return_inverse=True)
    truth = np.asarray(labels) > 0
    zeros, ones = (np.bincount(place[m], minlength=len(values)) for m in (~truth, truth))
    # Recall of label 0 up to each cut, plus recall of label 1 above it. A cut is between distinct
    # values, since equal ones are on the same side.
    below = np.concatenate([[0], np.cumsum(zeros)]) / max(zeros.sum(), 1)
    above = 1 - np.concatenate([[0], np.cumsum(ones)]) / max(ones.sum(), 1)
    middle = (values[1:] + values[:-1]) / 2
    middle = np.where(middle < values[1:], middle, values[:-1])  # neighbours in float64
    edges = np.concatenate([[-1.0], middle, [1.0]])
    quality = below + above - 1
    return float(edges[int(np.argmax(quality if signed else np.abs(quality)))])
