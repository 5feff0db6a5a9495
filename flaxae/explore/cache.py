"""Arrays that are slow to make, kept in the workdir."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

FOLDER = "explore"


class Cache:
    """Named arrays in a folder; where it cannot be written they are made anew each time."""

    def __init__(self, folder: Path | None, key: str):
        """Takes its place.

        Args:
            folder: None: nothing is kept.
            key: of the model and the corpus; part of all names.
        """
        self.folder, self.key = folder, key
        self.note = ""

    def path(self, name: str) -> Path | None:
        return self.folder / f"{name}-{self.key}.safetensors" if self.folder else None

    def find(self, name: str, rows: int) -> np.ndarray | None:
        """The array of a name, if it is there, whole and of so many rows."""
        path = self.path(name)
        if path is None:
            return None
        try:
            found = load_file(path)[name]
        except (OSError, KeyError, SafetensorError):
            return None  # not there, or cut off when it was written
        return found if len(found) == rows and np.isfinite(found).all() else None

    def get(self, name: str, rows: int, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a name, made and kept where it is not there."""
        found = self.find(name, rows)
        if found is not None:
            return found
        made = np.ascontiguousarray(make())
        self.put(name, made)
        return made

    def put(self, name: str, made: np.ndarray) -> None:
        path = self.path(name)
        if path is None:
            return
        temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: np.ascontiguousarray(made)}, temporary)
            temporary.replace(path)
        except (OSError, SafetensorError) as e:
            self.note = f"nothing is kept in {path.parent}: {getattr(e, 'strerror', None) or e}"
