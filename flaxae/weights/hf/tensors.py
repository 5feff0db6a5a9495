"""Tensors by name, read by slices: of safetensors files here, of GGUF files in `weights.gguf`."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from flaxae.errors import ConfigError, require
from flaxae.foreign_json import read_fields
from flaxae.weights.hf.directory import INDEX, SINGLE

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
_ROWS = 4096  # rows per read, when two tensors are compared


class TensorSource(Protocol):
    """Tensors by name, as `read_params` reads them.

    Attributes:
        directory: the directory or file, for messages.
    """

    directory: Path

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        ...

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Return a slice of a tensor; (): all of it."""
        ...

    def same(self, one: str, other: str) -> bool:
        """Compare two tensors, part after part, so that neither is in memory as a whole."""
        if self.shape(one) != self.shape(other):
            return False
        rows = self.shape(one)[0]
        parts = [(slice(i, min(i + _ROWS, rows)),) for i in range(0, rows, _ROWS)]
        return all(np.array_equal(self.read(one, p), self.read(other, p)) for p in parts)


class Tensors(TensorSource):
    """The tensors of a directory's safetensors files, read by slices.

    Args:
        directory: a local directory.

    Raises:
        ConfigError: if there are no safetensors files, or a file is broken or contradicts the
            index.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._slices: dict[str, Any] = {}
        if (directory / SINGLE).is_file():
            self._open(directory / SINGLE)
            return
        if not (directory / INDEX).is_file():
            raise ConfigError(self._no_weights())
        index = read_fields(directory / INDEX, {"weight_map": dict[str, str]})
        files = index.get("weight_map") or {}
        require(bool(files), f"{directory / INDEX}: it has no weight_map")
        for file in sorted(set(files.values())):
            require(Path(file).name == file, f"{directory / INDEX}: {file!r} is not a file name")
            require(
                (directory / file).is_file(), f"{directory}: {file}, named in {INDEX}, is missing"
            )
            named = {name for name, its_file in files.items() if its_file == file}
            wrong = sorted(named ^ self._open(directory / file))
            require(not wrong, f"{directory / file}: {INDEX} and the file disagree on {wrong[:5]}")

    def _open(self, path: Path) -> set[str]:
        """Open a file; return the names of its tensors."""
        try:
            file = safe_open(path, framework="numpy")
            new = {name: file.get_slice(name) for name in file.keys()}
        except SafetensorError as error:
            raise ConfigError(f"{path}: not a complete safetensors file ({error})") from None
        self._slices |= new
        return set(new)

    def _no_weights(self) -> str:
        pickles = sorted(path.name for kind in PICKLES for path in self.directory.glob(kind))
        if not pickles:
            return f"{self.directory}: neither {SINGLE} nor {INDEX}"
        return (
            f"{self.directory}: only {', '.join(pickles[:3])}, which is not opened (a pickle can "
            "run code); convert it where PyTorch is installed: "
            "AutoModelForSeq2SeqLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._slices)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self._slices[name].get_shape())

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Return a slice of a tensor in its stored dtype; the rest of it is not read."""
        return self._slices[name][index if index else ...]
