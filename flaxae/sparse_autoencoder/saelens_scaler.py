"""SAELens' normalisation by fixed statistics, which checkpoints of its training keep in own files.

Its final dictionaries have the factor, or the whitening, in their weights.
"""

import dataclasses
from pathlib import Path

import numpy as np

from flaxae.errors import require
from flaxae.foreign_json import read_fields
from flaxae.sparse_autoencoder import folding
from flaxae.sparse_autoencoder.modules import SparseAutoencoder
from flaxae.sparse_autoencoder.origin import Origin
from flaxae.sparse_autoencoder.parameters import check
from flaxae.sparse_autoencoder.tensors import read_safetensors

FACTOR, WHITENING = "expected_average_only_in", "covariance_whitening"
FOLDED = (FACTOR, WHITENING)
SCALER, MATRICES = "activation_scaler.json", "activation_whitening.safetensors"


def fold(
    sae: SparseAutoencoder, origin: Origin, directory: Path, kind: str
) -> tuple[SparseAutoencoder, Origin]:
    """Fold the statistics of a checkpoint into its weights.

    Args:
        sae: the dictionary of normalised states.
        origin: the states that it was trained on.
        directory: the folder of the checkpoint.
        kind: FACTOR or WHITENING.

    Returns:
        The dictionary of raw states and the completed origin.

    Raises:
        ConfigError: if the statistics are missing or broken.
    """
    if kind == WHITENING:
        sae = folding.fold_whitening(sae, *_whitening(directory, sae.config.d_in))
        return sae, dataclasses.replace(origin, normaliser=WHITENING)
    factor = _factor(directory)
    sae = folding.fold_factor(sae, factor)
    return sae, dataclasses.replace(origin, factor=factor, normaliser="expected_norm")


def _factor(directory: Path) -> float:
    path = directory / SCALER
    require(
        path.is_file(),
        f"{directory}: normalize_activations is {FACTOR}, and the factor is not in the weights: "
        f'write {SCALER} with {{"scaling_factor": sqrt(d_in) / mean norm}}',
    )
    found = read_fields(path, {"scaling_factor": float}).get("scaling_factor")
    require(found is not None, f"{path}: scaling_factor is missing")
    return float(found or 0)


def _whitening(directory: Path, d_in: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    path = directory / MATRICES
    require(
        path.is_file(),
        f"{directory}: normalize_activations is {WHITENING}, and the matrix is not in the "
        f"weights: {MATRICES} of the checkpoint is missing",
    )
    found = read_safetensors(path)
    square = (d_in, d_in)
    wanted = {"mean": (d_in,), "matrix": square, "inverse_matrix": square}
    check(wanted, {name: x.shape for name, x in found.items()}, str(path))
    return found["mean"], found["matrix"], found["inverse_matrix"]
