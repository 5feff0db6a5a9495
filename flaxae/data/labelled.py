"""The corpus `sentences`: labelled English texts of 4 to 64 words from the package sae-probes.

The package's files overlap: sst2 has phrases of sentences that are in rotten_tomatoes, and most
files repeat texts. A text that equals or is part of another one, letters and digits only, is left
out, so that no held-out text is in a training text or contains one. So is a text with two labels in
one file.

The labels of 97_news_class have wrong names in the package. The texts that it shares with
161_agnews_0 (world), 162_agnews_1 (sport) and 163_agnews_2 (business) give the right ones.
"""

import dataclasses
import hashlib
import importlib.metadata
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flaxae.data import sae_probes
from flaxae.data.files import Part, corpus_of
from flaxae.data.text import Corpus, unicode_fault
from flaxae.errors import require

NAME = "sentences"
MIN_WORDS, MAX_WORDS = 4, 64
SHARES = {"dev": 0.05, "test_file": 0.05}  # by a hash of a text's first words
SAME_WORDS = 8  # texts that begin with the same words, as in `justice`, are in the same split
LICENCE = "not stated by the package"
_PREFIX = 12  # letters and digits by which a text is found within others
# Addresses, names of users, markup and escapes are not English.
_NOT_ENGLISH = re.compile(r"https?:|www\.|@\w|&\w+;|<[^>]*>|[\n\r\t\\{}]|\[SEP\]|#\d+;")


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of the package and the names of its classes.

    Attributes:
        file: name of the file without suffix.
        link: origin that the package states.
        classes: class in the file -> name; others are left out; {}: the file's own names.
    """

    file: str
    link: str
    classes: dict[str, str] = dataclasses.field(default_factory=dict)


_HUB, _KAGGLE = "https://huggingface.co/datasets/", "https://www.kaggle.com/datasets/"
_SENTIMENT = {"0": "negative", "1": "positive"}
# The first part that contains a text gives its label.
PARTS = {
    "sst2": Source("92_glue_sst2", _HUB + "nyu-mll/glue", _SENTIMENT),
    "rotten_tomatoes": Source(
        "113_movie_sent", _HUB + "cornell-movie-review-data/rotten_tomatoes", _SENTIMENT
    ),
    "yelp": Source(
        "111_yelp_data",
        _HUB + "Yelp/yelp_review_full",
        {str(i): f"{i + 1} star{'s' * (i > 0)}" for i in range(5)},
    ),
    "cola": Source("87_glue_cola", _HUB + "nyu-mll/glue", {"0": "unacceptable", "1": "acceptable"}),
    "news": Source(
        "97_news_class",
        _KAGGLE + "tanishqdublish/text-classification-documentation",
        {
            "Politics": "world",
            "Sport": "sport",
            "Technology": "business",
            "Entertainment": "technology",
        },
    ),
    "headline": Source(
        "26_headline_isfrontpage",
        "https://github.com/wesg52/world-models (data/entity_datasets/headline.csv)",
        {"0": "inside", "1": "front page"},
    ),
    "clickbait": Source("105_click_bait", _HUB + "rkotari/clickbait"),
    "emotion": Source("102_twt_emotion", _KAGGLE + "pashupatigupta/emotion-detection-from-text"),
    "science": Source("99_sci_cat", _KAGGLE + "vivmankar/physics-vs-chemistry-vs-biology"),
    "justice": Source(
        "51_just_is",
        "https://github.com/hendrycks/ethics",
        {"0": "unreasonable", "1": "reasonable"},
    ),
    "commonsense": Source(
        "54_cs_tf", _HUB + "tasksource/commonsense_qa_2.0", {"no": "false", "yes": "true"}
    ),
    "question": Source("46_context_type", _HUB + "textmachinelab/quail"),
    "time": Source("43_temp_cat", "https://github.com/CogComp/MCTACO"),
}


@dataclasses.dataclass
class _Kept:
    """The texts of a part with their labels, and the numbers of rows and distinct texts."""

    rows: int
    distinct: int
    labels: dict[str, str]


def corpus(
    max_lines: int = 0,
    labels: bool = False,
    directory: Path | None = None,
    parts: Sequence[str] = (),
) -> Corpus:
    """Read the corpus.

    Args:
        max_lines: number of distinct texts after which reading stops; 0: all.
        labels: whether texts have labels, such as "sst2/positive".
        directory: folder of the package's files; None: that of the installed package.
        parts: names in PARTS; (): all.

    Returns:
        The corpus. Each part has three files: train, dev and test, which are held out.

    Raises:
        ConfigError: if the package is not installed, a file cannot be read, or a part is unknown.
    """
    wrong = [part for part in parts if part not in PARTS]
    require(not wrong, f"data.name={NAME}: no part {', '.join(wrong)}; give {', '.join(PARTS)}")
    kept = {part: x for part, x in _read(directory).items() if part in (parts or PARTS)}
    name = f"{NAME} of {'a folder' if directory else f'sae-probes {_version()}'}"
    found = corpus_of(name, _parts(kept, labels), max_lines)
    sizes = ", ".join(f"{part} {len(x.labels)} of {x.distinct}" for part, x in kept.items())
    found.notes.append(
        f"texts of {MIN_WORDS} to {MAX_WORDS} words that are not part of another one: {sizes}; "
        f"their licences are those of their sources ({LICENCE})"
    )
    return found


def manifest(directory: Path | None = None) -> list[dict[str, Any]]:
    """Return one entry per part: origin, licence, and numbers of texts.

    Args:
        directory: folder of the package's files; None: that of the installed package.

    Returns:
        Entries with part, file, source, licence, rows (of the file), distinct (texts with one
        label), kept, classes (label -> kept texts), and train, dev and test_file (kept texts).
    """
    out = []
    for part, kept in _read(directory).items():
        source = PARTS[part]
        splits = Counter(split_of(text) for text in kept.labels)
        out.append(
            {
                "part": part,
                "file": source.file,
                "source": source.link,
                "licence": LICENCE,
                "rows": kept.rows,
                "distinct": kept.distinct,
                "kept": len(kept.labels),
                "classes": dict(sorted(Counter(kept.labels.values()).items())),
                **{split: splits[split] for split in ("train", *SHARES)},
            }
        )
    return out


def split_of(text: str) -> str:
    """Return the split of a text, "train", "dev" or "test_file", by a hash of its first words."""
    start = squashed(" ".join(text.split()[:SAME_WORDS]))
    place = int.from_bytes(hashlib.blake2b(start.encode(), digest_size=8).digest(), "big") / 2**64
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return "train"


def _parts(kept: dict[str, _Kept], labels: bool) -> Iterator[Part]:
    for part, found in kept.items():
        for split in ("train", *SHARES):
            texts = [text for text in found.labels if split_of(text) == split]
            named = [f"{part}/{found.labels[text]}" for text in texts] if labels else None
            yield Part(f"{part}/{split}", texts, named, "" if split == "train" else split)


def _read(directory: Path | None) -> dict[str, _Kept]:
    """Return the kept texts of each part."""
    folder = directory or sae_probes.folder()
    found: dict[str, _Kept] = {}
    owners: dict[str, tuple[str, str]] = {}  # letters and digits -> first part and text
    for part, source in PARTS.items():
        prompts, targets = sae_probes.columns(source.file, folder)
        classes: dict[str, set[str]] = {}  # letters and digits -> classes
        spelled: dict[str, str] = {}  # letters and digits -> first text that can be used
        for text, target in zip((prompt.strip() for prompt in prompts), targets, strict=True):
            letters = squashed(text)
            classes.setdefault(letters, set()).add(target)
            if letters not in spelled and usable(text):
                spelled[letters] = text
        kept = _Kept(len(prompts), 0, {})
        for letters, named in classes.items():
            label = next(iter(named))
            if len(named) > 1 or (source.classes and label not in source.classes):
                continue
            kept.distinct += 1
            if letters in spelled and letters not in owners:
                text = spelled[letters]
                owners[letters] = (part, text)
                kept.labels[text] = source.classes.get(label, label.replace("_", " ").lower())
        found[part] = kept
    for letters in contained(list(owners)):
        part, text = owners[letters]
        del found[part].labels[text]
    require(any(x.labels for x in found.values()), f"{folder}: no text is left")
    return found


def usable(text: str) -> bool:
    """Return True if a text has 4 to 64 words and no address, name of a user, markup or escape."""
    enough = MIN_WORDS <= len(text.split()) <= MAX_WORDS
    return enough and not _NOT_ENGLISH.search(text) and not unicode_fault(text)


def squashed(text: str) -> str:
    """Return a text's letters and digits in lower case, without spaces."""
    return "".join(filter(str.isalnum, text.casefold()))


def contained(texts: list[str]) -> set[str]:
    """Return the texts that are part of another one; texts of under 12 characters are not found."""
    starts: dict[str, list[str]] = {}
    for text in texts:
        starts.setdefault(text[:_PREFIX], []).append(text)
    inside: set[str] = set()
    for text in texts:
        for i in range(len(text) - _PREFIX + 1):
            for other in starts.get(text[i : i + _PREFIX], ()):
                if len(other) < len(text) and text.startswith(other, i):
                    inside.add(other)
    return inside


def _version() -> str:
    """Return the package's version; "(unknown version)" if only its files are on the path."""
    try:
        return importlib.metadata.version("sae-probes")
    except importlib.metadata.PackageNotFoundError:
        return "(unknown version)"
