"""A cache in the workdir for arrays that are slow to compute."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

FOLDER = "explore"


class Cache:
    """Named arrays in a folder; without a writable folder they are computed each time.

    Attributes:
        note: message that explains why nothing is cached; "" if arrays are cached.
    """

    def __init__(self, folder: Path | None, key: str):
        """Choose the folder.

        Args:
            folder: folder of the files; None: nothing is cached.
            key: hash of the model and the corpus, part of every file name.
        """
        self.folder, self.key = folder, key
        self.note = ""

    def path(self, name: str) -> Path | None:
        """Return the file of an array; None if nothing is cached."""
        return self.folder / f"{name}-{self.key}.safetensors" if self.folder else None

    def find(self, name: str, rows: int) -> np.ndarray | None:
        """Return a cached array; None if its file is missing, damaged or of another length."""
        path = self.path(name)
        if path is None:
            return None
        try:
            found = load_file(path)[name]
        except (OSError, KeyError, SafetensorError):
            return None  # missing, or truncated when it was written
        return found if len(found) == rows and np.isfinite(found).all() else None

    def get(self, name: str, rows: int, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a cached array, or compute and store it.

        Args:
            name: name of the array.
            rows: expected length.
            make: computes the array.
        """
        found = self.find(name, rows)
        if found is not None:
            return found
        made = np.ascontiguousarray(make())
        self.put(name, made)
        return made

    def put(self, name: str, array: np.ndarray) -> None:
        """Store an array; if that fails, `note` says why."""
        path = self.path(name)
        if path is None:
            return
        temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: np.ascontiguousarray(array)}, temporary)
            temporary.replace(path)
        except (OSError, SafetensorError) as e:
            reason = getattr(e, "strerror", None) or e
            self.note = f"nothing is cached in {path.parent}: {reason}"
