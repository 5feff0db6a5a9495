"""Examples with two choices, and their splits: no group, prompt or control row is in two."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from flaxae.errors import ConfigError, require

SPLITS = ("shots", "train", "dev", "test", "control")


@dataclasses.dataclass(frozen=True)
class Example:
    """A question with two choices.

    Attributes:
        prompt: text of the question.
        choices: the two answers.
        label: index of the right one, 0 or 1.
        group: examples that share it are decided by the same fact, and are in one split.
        dataset: name of the data set.
        polarity: -1 for a negated statement, else 1.
        split: the split that the data set itself names; "": it is chosen by the group.
        entities: what it is about, such as cities. No OOD set shares one with a set that is
            trained on.
    """

    prompt: str
    choices: tuple[str, str]
    label: int
    group: str
    dataset: str
    polarity: int = 1
    split: str = ""
    entities: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The prompt in lower case and with single spaces, by which prompts are compared."""
        return " ".join(self.prompt.casefold().split())

    @property
    def key(self) -> str:
        """A name that no other example of all data sets has."""
        about = "\0".join((self.text, *self.choices))
        digest = hashlib.blake2b(about.encode(), digest_size=8).hexdigest()
        return f"{self.dataset}/{digest}"


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of the groups in each split; the rest is for training.

    Attributes:
        dev: for the choice of layers and regularisations.
        test: for the reported numbers.
        control: for the threshold of 1 % false positives.
    """

    dev: float = 0.15
    test: float = 0.2
    control: float = 0.2

    def __post_init__(self) -> None:
        total = self.dev + self.test + self.control
        require(
            min(self.dev, self.test, self.control) > 0 and total < 1,
            f"shares of dev, test and control are {self.dev}, {self.test}, {self.control}: each "
            "must be above 0, and together they must be below 1",
        )


@dataclasses.dataclass(frozen=True)
class Splits:
    """Examples by split.

    Attributes:
        parts: "shots" (shown in prompts), "train", "dev", "test", "control" of the sets that are
            trained on, and "ood" of the others -> examples.
        repeated: number of examples that were left out as repetitions.
    """

    parts: Mapping[str, tuple[Example, ...]]
    repeated: int = 0

    def __getitem__(self, split: str) -> tuple[Example, ...]:
        """Return the examples of a split.

        Raises:
            ConfigError: if there is no such split.
        """
        require(
            split in self.parts,
            f"no split {split!r}; there are {', '.join(self.parts)}",
        )
        return self.parts[split]

    def check(self) -> None:
        """Check that no group and no prompt is in two splits, and no entity in OOD sets and others.

        Raises:
            ConfigError: if one is.
        """
        for what, name in (("group", lambda x: x.group), ("prompt", lambda x: x.text)):
            seen: dict[str, str] = {}
            for split, examples in self.parts.items():
                for example in examples:
                    first = seen.setdefault(name(example), split)
                    require(
                        first == split,
                        f"{what} {name(example)!r} is in two splits, {first} and {split}: give "
                        "examples that share a fact one group, and each group one split",
                    )
        examples = [x for part in self.parts.values() for x in part]
        sets = {x.dataset for x in self.parts.get("ood", ())}
        trained = {name for x in examples if x.dataset not in sets for name in x.entities}
        for example in (x for x in examples if x.dataset in sets):
            shared = sorted(trained & set(example.entities))
            require(
                not shared,
                f"{', '.join(shared)} of the OOD set {example.dataset} is also in a set that is "
                "trained on: leave such examples out of one of them",
            )


def split_examples(
    trained: Sequence[Example],
    ood: Sequence[Example] = (),
    *,
    shares: Shares | None = None,
    shots: int = 2,
    seed: int = 0,
) -> Splits:
    """Assign groups of examples to splits, in the order of a hash.

    Args:
        trained: examples of the sets that are trained on.
        ood: examples of sets that are only tested on; groups that are also trained on are an error.
        shares: sizes of the splits.
        shots: examples shown in each prompt; each set puts this number aside, half of each label.
        seed: seed of the assignment.

    Returns:
        The splits. Repetitions of an example of the same set are left out, and counted.

    Raises:
        ConfigError: if a group or a prompt is in two splits, an example has two labels, or a split
            has only one class or no examples.
    """
    shares = shares or Shares()
    parts: dict[str, list[Example]] = {name: [] for name in (*SPLITS, "ood")}
    given = _given_splits(trained)
    aside = _shot_groups([*trained, *ood], shots, seed)
    free = (x.group for x in trained if x.group not in aside and not given[x.group])
    chosen = _assigned(free, shares, seed)
    known: dict[str, int] = {}
    repeated = 0
    for example, is_ood in [*((x, False) for x in trained), *((x, True) for x in ood)]:
        label = known.get(example.key)
        require(
            label in (None, example.label),
            f"{example.dataset}: the prompt {example.prompt[:60]!r} has two labels: remove one",
        )
        if label is not None:
            repeated += 1
            continue
        known[example.key] = example.label
        if example.group in aside:
            parts["shots"].append(example)
        elif is_ood:
            parts["ood"].append(example)
        else:
            split = given[example.group] or chosen[example.group]
            parts[split].append(example)
    splits = Splits({name: tuple(examples) for name, examples in parts.items()}, repeated)
    splits.check()
    for name in ("train", "dev", "test"):
        _require_both_classes(name, splits[name])
    for name in sorted({x.dataset for x in splits["ood"]}):
        _require_both_classes(f"ood {name}", [x for x in splits["ood"] if x.dataset == name])
    return splits


def _given_splits(examples: Iterable[Example]) -> dict[str, str]:
    out: dict[str, str] = {}
    for example in examples:
        split = out.setdefault(example.group, example.split)
        require(
            example.split in ("", *SPLITS),
            f"{example.dataset}: split {example.split!r} is not one of {', '.join(SPLITS)}",
        )
        require(
            split == example.split,
            f"{example.dataset}: group {example.group!r} is in two splits, {split or 'none'} and "
            f"{example.split or 'none'}: give each group one split",
        )
    return out


def _shot_groups(examples: Sequence[Example], shots: int, seed: int) -> set[str]:
    """Return the groups whose examples are shown in prompts: the first of each set."""
    groups: set[str] = set()
    for name in dict.fromkeys(x.dataset for x in examples):
        own = sorted(
            (x for x in examples if x.dataset == name), key=lambda x: (_rank(seed, x.group), x.key)
        )
        for label in (0, 1):
            found = [x for x in own if x.label == label and x.split in ("", "shots")]
            # Each shown example is of another fact, so that none gives another one's label away.
            fresh = dict.fromkeys(x.group for x in found if x.group not in groups)
            wanted = shots // 2
            require(
                len(fresh) >= wanted,
                f"{name}: {wanted} groups with label {label} are needed for the examples in "
                f"prompts, and there are {len(fresh)}",
            )
            groups.update(list(fresh)[:wanted])
    return groups


def _assigned(groups: Iterable[str], shares: Shares, seed: int) -> dict[str, str]:
    """Return the split of each group: the first ones by a hash are for dev, then test, control."""
    order = sorted(set(groups), key=lambda group: _rank(seed, f"split/{group}"))
    out, start = dict.fromkeys(order, "train"), 0
    for name in ("dev", "test", "control"):
        stop = start + max(1, round(getattr(shares, name) * len(order)))
        out |= dict.fromkeys(order[start:stop], name)
        start = stop
    return out


def _rank(seed: int, text: str) -> float:
    digest = hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _require_both_classes(name: str, examples: Sequence[Example]) -> None:
    labels = {x.label for x in examples}
    if len(labels) < 2:
        found = f"only label {labels.pop()}" if labels else "no example"
        raise ConfigError(f"split {name} has {found}: probes need both classes; give more examples")
