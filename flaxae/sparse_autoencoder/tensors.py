"""Tensors of a file by name, read without running code; pickles are refused."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flaxae.errors import ConfigError, require
from flaxae.pointers import require_content

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_FLOATS = ("F64", "F32", "F16", "BF16")


def refuse_pickle(path: Path) -> None:
    """Raise ConfigError for a file that PyTorch or Python pickled."""
    require(
        path.suffix not in PICKLES,
        f"{path}: a pickle, which can run code, is not opened: convert it where PyTorch is "
        "installed, as docs/families/sae.md shows",
    )


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file, float32.

    Raises:
        ConfigError: if it is missing, broken, or has tensors that are not floats.
    """
    refuse_pickle(path)
    require(path.is_file(), f"{path}: there is no such file")
    require_content(path)
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():
                kind = file.get_slice(name).get_dtype()
                require(kind in _FLOATS, f"{path}: {name} is of type {kind}, not of floats")
            return {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a complete safetensors file ({error})") from None


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file, float32, without unpickling any.

    Raises:
        ConfigError: if it is missing, broken, or has an array of objects, which is a pickle.
    """
    require(path.is_file(), f"{path}: there is no such file")
    require_content(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        pickled = "pickle" in str(error)
        what = "a pickle, which can run code, is not opened" if pickled else "not an npz file"
        raise ConfigError(f"{path}: {what} ({error})") from None
    for name, array in found.items():
        require(array.dtype.kind == "f", f"{path}: {name} is of {array.dtype}, not of floats")
    return {name: array.astype(np.float32) for name, array in found.items()}


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors as float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}
    save_file(arrays, path, metadata={"format": "pt"})
