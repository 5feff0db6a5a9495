"""Corpora of distinct texts, and their split into training and held-out data."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

from flaxae.errors import ConfigError

FILE_SHARE = {"test_file": 0.03, "dev": 0.015}  # share of the files that are held out completely
LINE_SHARE = {"test_line": 0.02, "dev": 0.015}  # share of the distinct lines of other files
MIN_FILES = 20  # with fewer files only lines are held out
MAX_EVAL_LINES = 2000
MIN_LINES = 10


@dataclasses.dataclass
class Corpus:
    """Distinct texts and the files that contain them.

    Attributes:
        name: name with the origin of the texts (version of Python, path).
        examples: distinct texts in order of first occurrence.
        files: for each example, the index of the first file that contains it.
        file_names: names of the files; a corpus without files has one.
        also: example index -> indices of the other files that contain it.
        notes: remarks on texts that were left out.
        labels: text -> label, if the data have labels.
        held_out: file index -> split ("dev", "test_file") that the authors of the data chose.
    """

    name: str
    examples: list[str]
    files: list[int]
    file_names: list[str]
    also: dict[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    held_out: dict[int, str] = dataclasses.field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Name and hash of all texts."""
        return f"{self.name} {digest(self.examples)}"


class Splits(dict[str, list[str]]):
    """Lines by split name; a line is in one split only.

    Attributes:
        overlap: for each held-out split, the share of its lines that also occur in training files.
            They are not trained on.
        notes: remarks on sizes.
    """

    def __init__(self, lines: dict[str, list[str]], overlap: dict[str, float], notes: list[str]):
        super().__init__(lines)
        self.overlap, self.notes = overlap, notes


def unicode_fault(text: str) -> str:
    """Return why a text is not valid Unicode; "" if it is.

    Halves of surrogate pairs come from escapes in JSON and from arguments of a command that are not
    UTF-8; they can neither be encoded nor tokenized.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ascii(error.object[error.start])
        before = error.object[max(0, error.start - 20) : error.start]
        return (
            f"the text contains {code} after {before!r}, half of a surrogate pair, which is not a"
            " character (was it UTF-8?): repair or remove it"
        )
    return ""


def printable(text: str) -> str:
    """Return a text with escapes for what UTF-8 cannot encode, such as file names in Latin-1."""
    return text.encode("utf-8", "backslashreplace").decode()


def check_unicode(texts: Sequence[str]) -> None:
    """Raise ConfigError that names the first text that is not valid Unicode."""
    for number, text in enumerate(texts, 1):
        if isinstance(text, str) and (fault := unicode_fault(text)):
            which = f"text {number} of {len(texts)}: " if len(texts) > 1 else ""
            raise ConfigError(f"{which}{fault}")


def digest(parts: Iterable[str]) -> str:
    """Return a hash of a sequence of strings as sixteen hex digits."""
    sha = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        sha.update(len(raw).to_bytes(8, "little") + raw)
    return sha.hexdigest()[:16]


def make_corpus(
    name: str, texts_by_file: Iterable[tuple[str, list[str]]], max_lines: int = 0
) -> Corpus:
    """Make a corpus of the distinct texts of files.

    Args:
        name: name of the corpus.
        texts_by_file: (file name, texts) of each file.
        max_lines: number of distinct texts after which reading stops; 0: all.
    """
    index: dict[str, int] = {}
    files: list[int] = []
    file_names: list[str] = []
    also: dict[int, list[int]] = {}
    for file_name, texts in texts_by_file:
        if max_lines and len(index) >= max_lines:
            break
        number = len(file_names)
        file_names.append(file_name)
        for text in dict.fromkeys(texts):
            found = index.get(text)
            if found is not None:
                also.setdefault(found, []).append(number)
            elif not max_lines or len(index) < max_lines:
                index[text] = len(files)
                files.append(number)
    others = {i: tuple(numbers) for i, numbers in also.items()}
    return Corpus(name, list(index), files, file_names, others)


def split_corpus(corpus: Corpus, seed: int) -> Splits:
    """Split a corpus by whole files and by single lines.

    Files and lines are ranked by a hash of (seed, text), and a split depends on nothing else. A
    line of a held-out file belongs to that file's split even if training files contain it too; it
    is then not trained on, and counted in `overlap`.

    Args:
        corpus: the texts.
        seed: seed of the split.

    Returns:
        train, dev, test_line, and test_file if the corpus has at least 20 files or a given test
        split.

    Raises:
        ConfigError: if the corpus is too small to be split, or files that are held out contain its
            training lines.
    """
    if len(corpus.examples) < MIN_LINES:
        reasons = f" ({'; '.join(corpus.notes)})" if corpus.notes else ""
        raise ConfigError(
            f"{corpus.name} has {len(corpus.examples)} distinct lines;"
            f" training and held-out splits need at least {MIN_LINES}{reasons}"
        )
    file_split = corpus.held_out or _held_out_files(corpus, seed)
    pools: dict[str, list[int]] = {"test_file": [], "dev": [], "rest": []}
    seen_in_training: set[int] = set()
    for i, first in enumerate(corpus.files):
        homes = {file_split.get(f, "rest") for f in (first, *corpus.also.get(i, ()))}
        pools[next(name for name in pools if name in homes)].append(i)
        if "rest" in homes:
            seen_in_training.add(i)

    def rank(i: int) -> bytes:
        return _rank(seed, "line", corpus.examples[i])

    rest = sorted(pools["rest"], key=rank)
    chosen: dict[str, list[int]] = {}
    for name, share in LINE_SHARE.items():
        room = MAX_EVAL_LINES if name not in file_split.values() else MAX_EVAL_LINES // 2
        count = min(max(1, round(share * len(rest))), room)
        chosen[name], rest = rest[:count], rest[count:]
    notes = []
    for name in ("test_file", "dev"):
        pool = sorted(pools[name], key=rank)
        room = MAX_EVAL_LINES - len(chosen.get(name, []))
        if pool:
            chosen[name] = chosen.get(name, []) + pool[:room]
            files = sum(1 for split in file_split.values() if split == name)
            notes.append(
                f"{name}: {files} of {len(corpus.file_names)} files held out completely, with"
                f" {len(pool)} lines that are not trained on, of which {min(len(pool), room)} are"
                " evaluated"
            )
    overlap = {
        name: sum(i in seen_in_training for i in chosen[name]) / len(chosen[name])
        for name in ("dev", "test_file", "test_line")
        if chosen.get(name)
    }
    if not rest:
        raise ConfigError(
            f"{corpus.name}: no line is left for training: of {len(corpus.examples)} distinct lines"
            f" {len(pools['test_file']) + len(pools['dev'])} are in held-out files and at least 1"
            " per split is held out besides; give more training lines that the held-out files do"
            " not contain"
        )
    chosen["train"] = rest
    lines = {
        name: [corpus.examples[i] for i in sorted(chosen[name])]
        for name in ("train", "dev", "test_file", "test_line")
        if name in chosen
    }
    return Splits(lines, overlap, notes)


def _held_out_files(corpus: Corpus, seed: int) -> dict[int, str]:
    """Return the split of each held-out file by its index."""
    count = len(corpus.file_names)
    if count < MIN_FILES:
        return {}
    order = sorted(range(count), key=lambda f: _rank(seed, "file", corpus.file_names[f]))
    out: dict[int, str] = {}
    for name, share in FILE_SHARE.items():
        number = max(1, round(share * count))
        out |= dict.fromkeys(order[:number], name)
        order = order[number:]
    return out


def _rank(seed: int, kind: str, text: str) -> bytes:
    raw = f"{seed}/{kind}/{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=16).digest()
