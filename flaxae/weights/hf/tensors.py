"""Tensors by name, read by slices: of safetensors files here, of GGUF files in `weights.gguf`."""

import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from flaxae.errors import ConfigError, require
from flaxae.foreign_json import read_fields, read_json
from flaxae.pointers import pointer, require_content
from flaxae.weights.hf import names as names_lib
from flaxae.weights.hf import quantised
from flaxae.weights.hf.directory import CONFIG, INDEX, SINGLE

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
_SHARD = re.compile(r"(.*-)(\d+)-of-(\d+)(\.safetensors)")
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

    def dtype(self, name: str) -> str:
        """Return the name of the type that a tensor is stored in, by safetensors: "F32"."""
        ...

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Return a slice of a tensor; (): all of it."""
        ...

    def same(self, one: str, other: str) -> bool:
        """Compare two tensors, part after part, so that neither is in memory as a whole."""
        if self.shape(one) != self.shape(other):
            return False
        rows = self.shape(one)[0] if self.shape(one) else 0
        parts: list[tuple[slice, ...]] = [
            (slice(i, min(i + _ROWS, rows)),) for i in range(0, rows, _ROWS)
        ]
        parts = parts if self.shape(one) else [()]
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
        index = directory / INDEX
        files: dict[str, str] = {}
        if index.is_file():
            files = read_fields(index, {"weight_map": dict[str, str]}).get("weight_map") or {}
        if (directory / SINGLE).is_file():
            have = self._open(directory / SINGLE)
            lost = sorted(set(files) - have)
            require(
                not lost,
                f"{directory}: {SINGLE} lacks {', '.join(lost[:3])}, which {INDEX} names: there "
                "are two models, or parts of one; remove the file that is not meant",
            )
        elif index.is_file():
            self._open_shards(files)
        else:
            raise ConfigError(self._no_weights())
        self._unwrap()

    def _open_shards(self, files: dict[str, str]) -> None:
        """Open the files of an index, name of a tensor -> its file, if they are all there."""
        directory, shards = self.directory, sorted(set(files.values()))
        require(bool(shards), f"{directory / INDEX}: it has no weight_map")
        for file in shards:
            require(Path(file).name == file, f"{directory / INDEX}: {file!r} is not a file name")
        unnamed = [file for file in _siblings(shards) if file not in shards]
        require(
            not unnamed,
            f"{directory / INDEX}: it does not name {', '.join(unnamed[:3])}: download all of the "
            "model's files again",
        )
        for file in shards:
            require(
                (directory / file).is_file(), f"{directory}: {file}, named in {INDEX}, is missing"
            )
            named = {name for name, its_file in files.items() if its_file == file}
            wrong = sorted(named ^ self._open(directory / file))
            require(not wrong, f"{directory / file}: {INDEX} and the file disagree on {wrong[:5]}")

    def _unwrap(self) -> None:
        """Remove what torch.compile and DataParallel add to the names."""
        plain = names_lib.without_wrappers(self._slices)
        self._slices = {plain[name]: value for name, value in self._slices.items()}

    def _open(self, path: Path) -> set[str]:
        """Open a file; return the names of its tensors."""
        require_content(path)
        try:
            file = safe_open(path, framework="numpy")
            new = {name: file.get_slice(name) for name in file.keys()}
        except SafetensorError as error:
            raise ConfigError(f"{path}: not a complete safetensors file ({error})") from None
        self._slices |= new
        return set(new)

    def _no_weights(self) -> str:
        paths = sorted(path for kind in PICKLES for path in self.directory.glob(kind))
        pickles = [f"{p.name}{f' ({text})' if (text := pointer(p)) else ''}" for p in paths]
        others = sorted(path.name for path in self.directory.glob("*.safetensors"))
        if others and not pickles:  # beside pickles they are something else, such as statistics
            return (
                f"{self.directory}: neither {SINGLE} nor {INDEX}, only {', '.join(others[:3])}: "
                f"a model of several files needs its {INDEX}, and one file the name {SINGLE}"
            )
        way_out = (
            "convert it where PyTorch is installed: "
            f"transformers.{self._class()}.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )
        if not pickles:  # of a Hub id, they are not downloaded
            return (
                f"{self.directory}: neither {SINGLE} nor {INDEX}; if the model has weights of "
                f"another format, such as pytorch_model.bin, {way_out}"
            )
        return (
            f"{self.directory}: only {', '.join(pickles[:3])}, which is not opened (a pickle can "
            f"run code); {way_out}"
        )

    def _class(self) -> str:
        """Return the class of transformers that config.json names."""
        path = self.directory / CONFIG
        found = read_json(path).get("architectures") if path.is_file() else None
        name = str(found[0]) if isinstance(found, list) and found else ""
        return name if name.isidentifier() else "AutoModel"

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._slices)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self._slices[name].get_shape())

    def dtype(self, name: str) -> str:
        """Return the name of the type that a tensor is stored in."""
        return self._slices[name].get_dtype()

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Return a slice of a tensor in its stored dtype; the rest of it is not read.

        Raises:
            ConfigError: if it is not stored as floats.
        """
        quantised.check_types(self.directory, {name: self.dtype(name)})
        return self._slices[name][index if index else ...]


def _siblings(files: list[str]) -> list[str]:
    """Return the names of all files that the numbers in names of shards promise."""
    out = []
    for match in filter(None, map(_SHARD.fullmatch, files)):
        start, number, count, end = match.groups()
        width = len(number)
        out += [f"{start}{i + 1:0{width}}-of-{count}{end}" for i in range(min(int(count), 9999))]
    return sorted(set(out))
