"""The place of config files: the current folder, or the installed package.

An installed flaxae contains the repository's configs/ as the package `flaxae.configs` (see
setup.py), so that `configs/t5_vae/python_lines.py` can be named without a checkout.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

FOLDER = "configs"
PACKAGE = "flaxae.configs"


def locate(file: str) -> Path | None:
    """Return the path of a config file.

    Args:
        file: path in the current folder; one that begins with configs/ may also be a path in the
            installed package.

    Returns:
        The path; None if there is no such file.
    """
    path = Path(file)
    if path.is_file():
        return path
    if path.parts[:1] != (FOLDER,) or ".." in path.parts:
        return None
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        found = Path(folder, *path.parts[1:])
        if found.is_file():
            # Config files import each other by the name that they have in a checkout.
            sys.modules.setdefault(FOLDER, importlib.import_module(PACKAGE))
            return found
    return None
