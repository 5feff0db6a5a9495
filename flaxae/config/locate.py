"""Paths that users give; config files in the current folder, the installed package or the checkout.

An installed flaxae contains the repository's configs/ as the package `flaxae.configs` (see
setup.py), so that `configs/t5_vae/python_lines.py` can be named without a checkout. An editable
install does not contain it; there configs/ is in the checkout, beside the package flaxae.
"""

import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Iterable
from pathlib import Path

FOLDER = "configs"
PACKAGE = "flaxae.configs"
CHECKOUT = Path(__file__).resolve().parents[2] / FOLDER  # exists in a checkout only


def user_path(path: str | os.PathLike) -> Path:
    """Return a path with the home folder in place of a `~` at the beginning, as in a shell."""
    return Path(os.path.expanduser(path))


def locate(file: str) -> Path | None:
    """Return the path of a config file.

    Args:
        file: path in the current folder; one that begins with configs/ may also be a path in the
            installed package, or in the checkout that flaxae is imported from.

    Returns:
        The path; None if there is no such file.
    """
    path = user_path(file)
    if path.is_file():
        return path
    if path.parts[:1] != (FOLDER,) or ".." in path.parts:
        return None
    for folder in _folders():
        found = folder.joinpath(*path.parts[1:])
        if found.is_file():
            # Config files import each other by the name that they have in a checkout.
            sys.modules.setdefault(FOLDER, _package(folder))
            return found
    return None


def split_preset(text: str) -> tuple[str, str, str]:
    """Split FILE[:PRESET] into the file, the colon and the preset.

    The path of the file may contain colons of its own.
    """
    file, colon, preset = text.rpartition(":")
    if locate(text) is not None:
        return text, "", ""
    return (file, colon, preset) if locate(file) is not None else text.partition(":")


def _folders() -> Iterable[Path]:
    """Yield the folders of flaxae's own config files that exist."""
    spec = importlib.util.find_spec(PACKAGE)
    yield from map(Path, (spec.submodule_search_locations or ()) if spec else ())
    yield CHECKOUT


def _package(folder: Path) -> types.ModuleType:
    """Return a package whose modules are the files of a folder."""
    spec = importlib.machinery.ModuleSpec(FOLDER, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return importlib.util.module_from_spec(spec)
