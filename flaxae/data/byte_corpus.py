"""Bytes for byte language models: the embedded library, a file or a folder, in three splits.

Files of one library resemble each other, so a split by file would put near-copies of the training
text into the held-out splits. Whole modules, packages or folders are held out instead, and the
share of held-out bytes that also occur in training files is measured.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import sysconfig

import numpy as np
from jaxtyping import UInt8

from flaxae.data import folders
from flaxae.data.byte_manifest import ByteFile, Manifest
from flaxae.data.embedded import python_version
from flaxae.data.shared_strings import SharedStrings
from flaxae.errors import ConfigError, require

SPLITS: tuple[str, ...] = ("train", "dev", "test")
SEPARATOR = b"\0"  # between the files of a split
LARGE = 400_000  # bytes; a library module or package with more is always in the training split
LARGE_SHARE = 0.04  # a folder's entry with more than this share of its bytes, and LARGE, likewise
MAX_SHARED = 0.2  # share of a held-out file's bytes that may occur in training files
ENWIK8 = 100_000_000  # bytes
SKIPPED = {"site-packages", "dist-packages", "test", "tests"}  # are not the library itself


@dataclasses.dataclass
class ByteCorpus:
    """A corpus of bytes.

    Attributes:
        manifest: its files.
        splits: "train", "dev" and "test": bytes, uint8.
    """

    manifest: Manifest
    splits: dict[str, UInt8[np.ndarray, " n"]]

    def require_length(self, split: str, length: int, what: str) -> None:
        """Check that a split has enough bytes.

        Args:
            split: its name.
            length: bytes that are needed.
            what: the reason, such as "data.batch_size * task.update".

        Raises:
            ConfigError: if it has fewer.
        """
        found = len(self.splits[split])
        require(
            found >= length,
            f"the {split} split of {self.manifest.name} has {found:,} bytes, fewer than {what} ="
            f" {length:,}: give a longer text with data.path, or lower them",
        )


def read(path: str = "") -> ByteCorpus:
    """Read a corpus of bytes.

    Args:
        path: `data.path`. "": the library of the running Python. A folder: its text files, split by
            the top-level name, or by position if a held-out split would be empty. A file: the first
            90 % of its bytes for training, then 5 % (dev) and 5 % (test), as usual for enwik8.

    Returns:
        The corpus. The library is read once per process.

    Raises:
        ConfigError: if there is nothing to read, or too little to be split.
    """
    if not path:
        return _library()
    path = os.path.expanduser(path)
    what = f"data.path={path!r}"
    require(os.path.exists(path), f"{what} does not exist: give a text file, or a folder of them")
    if os.path.isdir(path):
        return _folder(path, what)
    require(os.path.isfile(path), f"{what} is neither a file nor a folder")
    folders.check_content(path, what)
    data = _content(path, what)
    require(bool(data), f"{what} is empty: give a file with text")
    notes = []
    name = os.path.basename(path)
    if name == "enwik8" and len(data) != ENWIK8:
        notes.append(
            f"{what} has {len(data):,} bytes, not {ENWIK8:,}: numbers do not compare with others'"
            " of enwik8"
        )
    return _by_position(name, [_file(name, data, "all")], [data], notes, what)


def top_name(path: str) -> str:
    """Return the first component of a path: a folder, or a file with its ending."""
    return path.split("/", 1)[0]


def split_of(name: str) -> str:
    """Return the split of a top-level name by its hash: 80 % train, 10 % dev, 10 % test."""
    part = int(hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest(), 16) % 20
    return "dev" if part < 2 else "test" if part < 4 else "train"


@functools.cache
def _library() -> ByteCorpus:
    root = sysconfig.get_paths()["stdlib"]
    found = _list(root, SKIPPED, ".py")
    corpus = None
    if found:
        contents = {name: _content(path, name) for name, path in found.items()}
        name = f"the library of {python_version()}"
        corpus = _by_name(name, python_version(), contents, LARGE, [])
    if corpus is None:
        raise ConfigError(
            f"this Python has no source files of its library at {root!r}: set data.path to a text"
            " file or a folder"
        )
    return corpus


def _folder(root: str, what: str) -> ByteCorpus:
    name = os.path.basename(os.path.abspath(root))
    found = _list(root, {"__pycache__"}, "", hidden=False)
    texts = {n: text for n, p in found.items() if (text := _text(p))}
    require(
        bool(texts),
        f"{what} contains no text: {len(found)} files, of which all are empty or binary",
    )
    notes = []
    if other := len(found) - len(texts):
        notes.append(f"{what}: {other} of {len(found)} files are empty or binary and are not used")
    large = max(LARGE, int(LARGE_SHARE * sum(map(len, texts.values()))))
    if (corpus := _by_name(name, "", texts, large, notes)) is not None:
        return corpus
    notes.append(
        f"{what} has {len(set(map(top_name, texts)))} top-level names, too few to hold out whole"
        " ones: its files are joined and split by position"
    )
    order = _ordered(texts)
    files = [_file(n, texts[n], "all") for n in order]
    return _by_position(name, files, [texts[n] for n in order], notes, what)


def _by_position(
    name: str, files: list[ByteFile], contents: list[bytes], notes: list[str], what: str
) -> ByteCorpus:
    data = np.frombuffer(SEPARATOR.join(contents), np.uint8)
    ends = [len(data) * 90 // 100, len(data) * 95 // 100]
    splits = dict(zip(SPLITS, np.split(data, ends), strict=True))
    require(
        all(len(x) for x in splits.values()),
        f"{what} has {len(data)} bytes, too few for three splits: give a longer text",
    )
    sizes = {split: len(x) for split, x in splits.items()}
    return ByteCorpus(Manifest(name, "", files, sizes, notes=notes), splits)


def _by_name(
    name: str, python: str, contents: dict[str, bytes], large: int, notes: list[str]
) -> ByteCorpus | None:
    """Split files by their top-level names; return None if a split would be empty."""
    sizes: dict[str, int] = {}
    for path, data in contents.items():
        sizes[top_name(path)] = sizes.get(top_name(path), 0) + len(data)
    files = []
    for path in _ordered(contents):
        top = top_name(path)
        split = "train" if sizes[top] > large else split_of(top)
        files.append(_file(path, contents[path], split))
    _leave_out_copies(files)
    train = [contents[file.path] for file in files if file.split == "train"]
    held_out = [file for file in files if file.split in SPLITS[1:]]
    shared = SharedStrings(train, [contents[file.path] for file in held_out])
    for file, covered in zip(held_out, shared.covered, strict=True):
        file.shared = covered / file.size
        if file.shared > MAX_SHARED:
            file.split = ""
            file.reason = f"{file.shared:.0%} of its bytes occur in training files"
    splits = {
        split: np.frombuffer(
            SEPARATOR.join(contents[file.path] for file in files if file.split == split), np.uint8
        )
        for split in SPLITS
    }
    if not all(len(x) for x in splits.values()):
        return None
    shares = {
        split: sum(f.shared * f.size for f in files if f.split == split) / len(splits[split])
        for split in SPLITS[1:]
    }
    lengths = {split: len(x) for split, x in splits.items()}
    return ByteCorpus(Manifest(name, python, files, lengths, shares, notes), splits)


def _leave_out_copies(files: list[ByteFile]) -> None:
    """Keep one of identical files, in the training split if one is there, and no empty file."""
    first: dict[str, str] = {}
    for file in sorted(files, key=lambda file: file.split != "train"):
        same = first.setdefault(file.sha256, file.path)
        if not file.size:
            file.split, file.reason = "", "empty"
        elif same != file.path:
            file.split, file.reason = "", f"identical to {same}"


def _ordered(paths: dict[str, bytes]) -> list[str]:
    """Return paths in the order of their hashes, so that related files are not neighbours."""
    return sorted(paths, key=lambda x: hashlib.sha256(x.encode("utf-8", "surrogatepass")).digest())


def _file(path: str, data: bytes, split: str) -> ByteFile:
    return ByteFile(path, len(data), hashlib.sha256(data).hexdigest(), split)


def _list(root: str, skipped: set[str], ending: str, hidden: bool = True) -> dict[str, str]:
    """Return the regular files below a folder: path in the folder, with slashes -> path."""
    found = {}
    for folder, below, names in os.walk(root):
        below[:] = [x for x in below if x not in skipped and (hidden or not x.startswith("."))]
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(ending) and (hidden or not name.startswith(".")):
                if os.path.isfile(path):
                    found[pathlib.Path(os.path.relpath(path, root)).as_posix()] = path
    return found


def _text(path: str) -> bytes:
    """Return the content of a file; b"" for a binary one and for a pointer of Git LFS."""
    if folders.pointer(path) or SEPARATOR in _content(path, repr(path), 8192):
        return b""
    data = _content(path, repr(path))
    return b"" if SEPARATOR in data else data


def _content(path: str, what: str, size: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror or error}") from None
