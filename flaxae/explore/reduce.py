"""UMAP in a separate process: `python -m flaxae.explore.reduce CODES OUT`.

UMAP's compiler would delay the answers to sliders if it ran in the same process.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file, save_file

from flaxae.errors import ConfigError

MISSING = "UMAP needs a package that is not installed: pip install umap-learn"
NEIGHBOURS = 15


def umap(codes: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n 2"]:
    """Lay codes out in two dimensions by UMAP; equal codes have equal layouts.

    Args:
        codes: one code per row.

    Returns:
        Two coordinates per code, float32.

    Raises:
        ConfigError: if umap-learn is not installed, there are too few codes, or UMAP fails.
    """
    if importlib.util.find_spec("umap") is None:
        raise ConfigError(MISSING)
    if len(codes) <= NEIGHBOURS + 1:
        raise ConfigError(
            f"UMAP needs more than {NEIGHBOURS + 1} texts, and there are {len(codes)}"
        )
    with tempfile.TemporaryDirectory() as folder:
        codes_file, out_file = (Path(folder) / f"{x}.safetensors" for x in ("codes", "out"))
        save_file({"codes": np.ascontiguousarray(codes, np.float32)}, codes_file)
        done = subprocess.run(
            [sys.executable, "-m", "flaxae.explore.reduce", str(codes_file), str(out_file)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ConfigError(f"UMAP failed: {last}")
        return load_file(out_file)["map"]


def main(argv: list[str]) -> None:
    """Read codes from a file, and write their UMAP layout into another."""
    warnings.simplefilter("ignore")
    if hasattr(os, "nice"):
        os.nice(10)
    from umap import UMAP

    codes = load_file(argv[1])["codes"]
    found = UMAP(n_neighbors=NEIGHBOURS, random_state=0, n_jobs=1).fit_transform(codes)
    save_file({"map": np.ascontiguousarray(found, np.float32)}, argv[2])


if __name__ == "__main__":
    main(sys.argv)
