"""A folder of blocks of hidden states: one safetensors file each, float16."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flaxae.errors import ConfigError, require


class BlockCache:
    """Blocks by number, written whole or not at all.

    Args:
        folder: created when the first block is written.
        key: hash of what the states depend on; blocks with another one are an error.
    """

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key

    def path(self, number: int) -> Path:
        """Return the file of a block."""
        return self.folder / f"block_{number:06d}.safetensors"

    def has(self, number: int) -> bool:
        """Return True if a block is there, without reading its states.

        Raises:
            ConfigError: if the file is broken, or of other states.
        """
        path = self.path(number)
        if path.exists():
            with self._opened(path):
                return True
        return False

    def read(self, number: int) -> list[Float[np.ndarray, "M D"]] | None:
        """Return a block's states per tap, float32; None if it is not there.

        Raises:
            ConfigError: if the file is broken, or of other states.
        """
        path = self.path(number)
        if not path.exists():
            return None
        with self._opened(path) as file:
            return [file.get_tensor(name).astype(np.float32) for name in sorted(file.keys())]

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[Any]:
        """Open a block's file, and check that it belongs to these states."""
        try:
            with safe_open(path, framework="numpy") as file:
                key = (file.metadata() or {}).get("key")
                require(
                    key == self.key,
                    f"{path}: states of another model, hook, text or block size: name another "
                    "folder, or remove this one",
                )
                yield file
        except SafetensorError as error:
            raise ConfigError(f"{path}: not a complete file ({error}): remove it") from None

    def write(
        self, number: int, states: list[Float[np.ndarray, "M D"]]
    ) -> list[Float[np.ndarray, "M D"]]:
        """Write a block; return it as it will be read.

        Raises:
            ConfigError: if a state is beyond float16.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with np.errstate(over="ignore"):
            short = {f"tap_{i:03d}": x.astype(np.float16) for i, x in enumerate(states)}
        finite = all(np.isfinite(x).all() for x in short.values())
        require(
            finite,
            "a hidden state is beyond float16 (65,504): train without a cache, or skip the first "
            "tokens of rows",
        )
        temporary = self.path(number).with_suffix(f".{os.getpid()}.tmp")
        save_file(short, temporary, metadata={"key": self.key})
        os.replace(temporary, self.path(number))
        return [x.astype(np.float32) for _, x in sorted(short.items())]
