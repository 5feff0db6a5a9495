"""The manifest of a corpus of bytes: its files and splits, with a fingerprint of both."""

import dataclasses
import hashlib
import json
import os

from flaxae.data.shared_strings import LENGTH
from flaxae.errors import ConfigError, require
from flaxae.storage.paths import as_path, read_text, write_text

_RECIPE = "bytes-1"  # part of the fingerprint: change it when a rule of the splits changes


@dataclasses.dataclass
class ByteFile:
    """A file of a corpus.

    Attributes:
        path: path in the corpus, with slashes.
        size: bytes.
        sha256: hash of the content, hexadecimal.
        split: "train", "dev" or "test"; "all" if it is split by position; "" if it is left out.
        shared: share of its bytes that occur in training files; 0 for training files.
        reason: cause of leaving it out.
    """

    path: str
    size: int
    sha256: str
    split: str
    shared: float = 0.0
    reason: str = ""


@dataclasses.dataclass
class Manifest:
    """The files of a corpus. Numbers of two models compare only if their manifests are the same.

    Attributes:
        name: name of the corpus.
        python: version of Python whose library it is; "" for other data.
        files: all files, also those that are left out, in the order in which they are joined.
        sizes: bytes of each split, separators included.
        shared: share of the bytes of each held-out split that occur in training files.
        notes: remarks on what was read and what was not.
    """

    name: str
    python: str
    files: list[ByteFile]
    sizes: dict[str, int]
    shared: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that identify the content and the splits."""
        rows = [[f.path, f.size, f.sha256, f.split] for f in self.files if f.split]
        text = json.dumps([_RECIPE, self.python, self.sizes, rows])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def totals(self) -> dict[str, tuple[int, int]]:
        """Return the number of files and of bytes of each split."""
        return {split: (self.count(split), size) for split, size in self.sizes.items()}

    def count(self, split: str) -> int:
        """Return the number of files in a split."""
        return sum(file.split in (split, "all") for file in self.files)

    def summary(self) -> str:
        """Return name, fingerprint, totals and notes, one per line."""
        lines = [f"{self.name}, fingerprint {self.fingerprint}"]
        for split, size in self.sizes.items():
            line = f"{split}: {self.count(split)} files, {size:,} bytes"
            if split in self.shared:
                line += f", {self.shared[split]:.1%} of them in training strings of {LENGTH} bytes"
            lines.append(line)
        return "\n".join(lines + self.notes)

    def save(self, path: str | os.PathLike) -> None:
        """Write the manifest as JSON, whole or not at all."""
        data = {"fingerprint": self.fingerprint, **dataclasses.asdict(self)}
        write_text(as_path(path), json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Manifest":
        """Read a manifest.

        Raises:
            ConfigError: if the file is missing, damaged or was changed.
        """
        try:
            data = json.loads(read_text(as_path(path)))
            wanted = data.pop("fingerprint")
            out = cls(**data | {"files": [ByteFile(**file) for file in data["files"]]})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{os.fspath(path)!r} is not a readable manifest: {error}") from None
        require(
            out.fingerprint == wanted,
            f"{os.fspath(path)!r} was changed or belongs to another version of flaxae: its"
            f" fingerprint is {out.fingerprint}, not {wanted}",
        )
        return out

    def require_same(self, other: "Manifest") -> None:
        """Check that a run continues with its own data.

        Args:
            other: manifest that the run began with.

        Raises:
            ConfigError: if the two differ; the message names the first difference.
        """
        if self.fingerprint == other.fingerprint:
            return
        raise ConfigError(
            f"the data changed: {self.name} ({self.fingerprint}) is not the {other.name}"
            f" ({other.fingerprint}) that the run began with; {self._difference(other)}. Continue"
            " with the data and the Python of its start, or begin a new run"
        )

    def _difference(self, other: "Manifest") -> str:
        if self.python != other.python:
            return f"Python is {self.python or 'not used'}, it was {other.python or 'not used'}"
        now, then = ({f.path: (f.sha256, f.split) for f in m.files} for m in (self, other))
        changed = [path for path in [*then, *now] if now.get(path) != then.get(path)]
        if not changed:
            return f"the sizes of the splits are {self.sizes}, they were {other.sizes}"
        path = changed[0]
        kind = "new" if path not in then else "missing" if path not in now else "different"
        return f"{len(set(changed))} files differ, the first: {path!r} is {kind}"
