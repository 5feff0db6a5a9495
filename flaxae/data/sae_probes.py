"""Labelled texts of the package sae-probes: 165 real data sets for probes of language models.

`pip install --no-deps sae-probes` (45 MB): its code, which is not imported, needs PyTorch and other
versions of packages. The data sets come from many sources (Kantamneni et al. 2025, "Are Sparse
Autoencoders Useful?") and keep their licences.

A file is a CSV with the columns prompt and target, compressed by zstd. Most files repeat prompts,
which would put the same text into the training and the test part, and some give a prompt two
labels; the reader keeps one of each, and none with two labels.
"""

import dataclasses
import hashlib
import importlib.util
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool
from pyarrow import csv

from flaxae.errors import ConfigError, require

SUFFIX = ".csv.zst"
# The same file under two names: population and density, mc and difficulty, yelp and amzn.
TWINS = ("16_us_density", "38_arith_difficulty", "112_amzn_rev")
LEAKING = ("100_news_fake",)  # its texts name their source
TEST_SHARE = 1 / 3  # of the groups


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """The distinct texts of a data set with two classes.

    Attributes:
        name: name of the data set.
        texts: the texts.
        labels: True for the class whose name comes last in alphabetical order.
        groups: name of each text's group, such as the question that texts answer. Texts of a group
            must be on the same side of a split.
    """

    name: str
    texts: tuple[str, ...]
    labels: Bool[np.ndarray, "N"]
    groups: tuple[str, ...]


def folder() -> Path:
    """Return the folder of the installed package's data sets.

    Raises:
        ConfigError: if it is not installed.
    """
    spec = importlib.util.find_spec("sae_probes")
    if spec is None or not spec.origin:
        raise ConfigError(
            "the data sets of sae-probes are not installed: run "
            "`pip install --no-deps sae-probes` (its dependencies are not needed)"
        )
    return Path(spec.origin).parent / "data" / "cleaned_data"


def installed() -> bool:
    """Return True if the package is installed."""
    return importlib.util.find_spec("sae_probes") is not None


def names(directory: Path | None = None) -> list[str]:
    """Return the data sets in the order of their numbers, without twins and those that leak.

    Args:
        directory: folder of the files; None: that of the package.
    """
    found = [p.name.removesuffix(SUFFIX) for p in (directory or folder()).glob(f"*{SUFFIX}")]
    kept = [name for name in found if name not in (*TWINS, *LEAKING)]
    return sorted(kept, key=lambda name: (int(name.split("_")[0]), name))


def read(name: str, directory: Path | None = None) -> LabelledTexts:
    """Read a data set of two classes.

    Args:
        name: name of its file without the suffix.
        directory: folder of the files; None: that of the package.

    Raises:
        ConfigError: if there is no such file, it cannot be read, it leaks its labels or is another
            one's copy, or it does not have two classes.
    """
    require(name not in TWINS, f"{name} is the same file as another data set: use that one")
    require(name not in LEAKING, f"{name}: its texts name their source, which gives the label away")
    prompts, targets = columns(name, directory)
    classes = sorted(set(targets))
    require(
        len(classes) == 2,
        f"{name} has {len(classes)} classes: a probe needs two, such as those of 92_glue_sst2",
    )
    labels_of = defaultdict(set)
    for prompt, target in zip(prompts, targets, strict=True):
        labels_of[prompt].add(target)
    clear = {text: next(iter(found)) for text, found in labels_of.items() if len(found) == 1}
    labels = np.asarray([target == classes[1] for target in clear.values()], bool)
    return LabelledTexts(name, tuple(clear), labels, tuple(_group(text) for text in clear))


def columns(name: str, directory: Path | None = None) -> tuple[list[str], list[str]]:
    """Return the columns prompt and target of a file, with its repeated texts.

    Args:
        name: name of its file without the suffix.
        directory: folder of the files; None: that of the package.

    Raises:
        ConfigError: if the file does not exist or cannot be read.
    """
    path = (directory or folder()) / f"{name}{SUFFIX}"
    require(path.is_file(), f"{path}: no such data set; `names()` lists them")
    options = csv.ConvertOptions(
        column_types={"prompt": pa.string(), "target": pa.string()},
        include_columns=["prompt", "target"],
        strings_can_be_null=False,
    )
    lines = csv.ParseOptions(newlines_in_values=True)
    try:
        with pa.input_stream(str(path), compression="zstd") as file:
            table = csv.read_csv(file, parse_options=lines, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise ConfigError(
            f"{path}: not a CSV with the columns prompt and target, compressed by zstd ({error})"
        ) from None
    prompts, targets = (table[name].to_pylist() for name in ("prompt", "target"))
    require(all(prompts), f"{path}: a text is empty")
    return prompts, targets


def _group(text: str) -> str:
    """Return a text without its last line, which is an answer where there are several lines."""
    question = text.rstrip().rsplit("\n", 1)
    return question[0].strip() if len(question) == 2 else text


def split(data: LabelledTexts, train: int, test: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose texts for training and test: both classes equally often, and no group on both sides.

    A text's place depends on hashes of it and of its group, not on the order of the file.

    Args:
        data: the data set.
        train: number of training texts, even.
        test: number of test texts, even.

    Returns:
        Indices of the training texts, and of the test texts.

    Raises:
        ConfigError: if there are fewer.
    """
    require(train % 2 == 0 and test % 2 == 0, f"{train} and {test} texts must be even numbers")
    sides: tuple[list[int], list[int]] = ([], [])
    taken: Counter = Counter()
    for i in sorted(range(len(data.texts)), key=lambda i: _fraction(data.texts[i])):
        side = int(_fraction(f"group {data.groups[i]}") < TEST_SHARE)
        label = bool(data.labels[i])
        if taken[side, label] < (train, test)[side] // 2:
            taken[side, label] += 1
            sides[side].append(i)
    have = [len(side) for side in sides]
    require(
        have == [train, test],
        f"{data.name}: {train} training and {test} test texts were asked for; with both classes "
        f"equally often and no group on both sides there are {have[0]} and {have[1]}",
    )
    return np.asarray(sides[0]), np.asarray(sides[1])


def _fraction(text: str) -> float:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
