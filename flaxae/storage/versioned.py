"""Small texts that several processes replace without losing each other's: compare, then swap.

In a bucket each write has a precondition on the object's generation (0: absent); on a disk it
happens under a lock of the folder.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from flaxae.storage import paths


class Versioned(Protocol):
    """A text that several processes replace only if they have seen its present version."""

    def read(self) -> tuple[str, Any]:
        """Return the text, "" if there is none, and its version."""
        ...

    def swap(self, version: Any, text: str) -> bool:
        """Replace the text, or remove it with ""; return False if it has another version now."""
        ...


def open_versioned(path: Path) -> Versioned:
    """Return the text at a path, on a disk or in a bucket; it need not exist."""
    return _InBucket(path) if paths.is_remote(path) else _OnDisk(path)


class _OnDisk:
    """A file; its version is its text.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        self._path = path

    def read(self) -> tuple[str, Any]:
        """See `Versioned`."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            text = ""
        return text, text

    def swap(self, version: Any, text: str) -> bool:
        """See `Versioned`. The folder is created if it is missing."""
        if text:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self._path.parent):
            if self.read()[1] != version:
                return False
            if text:
                paths.write_text(self._path, text)
            else:
                self._path.unlink(missing_ok=True)
        return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time in; without a lock on file systems that have none."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # frees the lock


class _InBucket:
    """An object; its version is its generation, 0 if there is none.

    Args:
        path: the object.
    """

    def __init__(self, path: Path):
        storage: Any = importlib.import_module("google.cloud.storage")
        self._errors: Any = importlib.import_module("google.api_core.exceptions")
        bucket, _, self._name = os.fspath(path).removeprefix("gs://").partition("/")
        self._bucket = storage.Client().bucket(bucket)

    def read(self) -> tuple[str, Any]:
        """See `Versioned`."""
        blob = self._bucket.get_blob(self._name)
        if blob is None:
            return "", 0
        try:
            text = blob.download_as_bytes(if_generation_match=blob.generation)
        except (self._errors.NotFound, self._errors.PreconditionFailed):
            return self.read()
        return text.decode(errors="replace"), blob.generation

    def swap(self, version: Any, text: str) -> bool:
        """See `Versioned`."""
        blob = self._bucket.blob(self._name)
        try:
            if text:
                blob.upload_from_string(text, if_generation_match=version)
            else:
                blob.delete(if_generation_match=version)
        except (self._errors.NotFound, self._errors.PreconditionFailed):
            return False
        return True
