"""UMAP in a process of its own: `python -m flaxae.explore.reduce CODES OUT`.

Its compiler would hold up whoever answers sliders in the same process.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from flaxae.errors import ConfigError

MISSING = "UMAP needs a package that is not installed: pip install umap-learn"
NEIGHBOURS = 15


def umap(codes: np.ndarray) -> np.ndarray:
    """Two coordinates a code, the same for the same codes.

    Args:
        codes: (n, D).

    Returns:
        (n, 2) float32.

    Raises:
        ConfigError: umap-learn is not installed, or it failed.
    """
    import importlib.util

    if importlib.util.find_spec("umap") is None:
        raise ConfigError(MISSING)
    if len(codes) <= NEIGHBOURS + 1:
        raise ConfigError(f"UMAP needs more than {NEIGHBOURS + 1} texts, these are {len(codes)}")
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "codes.safetensors", Path(folder) / "out.safetensors"
        save_file({"codes": np.ascontiguousarray(codes, np.float32)}, given)
        done = subprocess.run(
            [sys.executable, "-m", "flaxae.explore.reduce", str(given), str(made)],
            capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ConfigError(f"UMAP failed: {last}")
        return load_file(made)["map"]


def main(argv: list[str]) -> None:
    import os
    import warnings

    warnings.simplefilter("ignore")
    if hasattr(os, "nice"):
        os.nice(10)
    from umap import UMAP

    codes = load_file(argv[1])["codes"]
    found = UMAP(n_neighbors=NEIGHBOURS, random_state=0, n_jobs=1).fit_transform(codes)
    save_file({"map": np.ascontiguousarray(found, np.float32)}, argv[2])


if __name__ == "__main__":
    main(sys.argv)
