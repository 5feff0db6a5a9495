"""Priors of a trained model's codes.

normal          N(0, I)
gaussian, gmm   a Gaussian, a mixture of Gaussians; fitted in seconds
flow            a rectified flow, trained as a run
autoregressive  a causal transformer over the latents of a code, trained as a run
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae.config.ranges import SEEDS
from flaxae.errors import ConfigError, require
from flaxae.storage.paths import as_path
from flaxae.text_autoencoder.priors.autoregressive import AutoregressivePrior
from flaxae.text_autoencoder.priors.base import Prior, read
from flaxae.text_autoencoder.priors.flow import FlowPrior
from flaxae.text_autoencoder.priors.gaussian import GaussianPrior, StandardNormal
from flaxae.text_autoencoder.priors.mixture import GMMPrior
from flaxae.text_autoencoder.priors.trained import parameters_of, trained_prior

__all__ = [
    "AutoregressivePrior",
    "FlowPrior",
    "GMMPrior",
    "GaussianPrior",
    "Prior",
    "StandardNormal",
    "check_model",
    "fit",
    "flow_of",
    "load_prior",
    "parameters_of",
    "trained_prior",
]

FOLDER = "priors"  # the folder of a model's directory with one folder per kind

_KINDS: dict[str, Any] = {
    kind.kind: kind
    for kind in (StandardNormal, GaussianPrior, GMMPrior, FlowPrior, AutoregressivePrior)
}


def fit(kind: str, codes: Float[np.ndarray, "n D"], seed: int = 0) -> Prior:
    """Fit a prior to clean codes.

    Args:
        kind: "gaussian", or "gmm" with 10 components.
        codes: codes of training texts; (n, L, Z) is flattened.
        seed: seed of the mixture's initialisation.

    Raises:
        ConfigError: if the kind is unknown, or there are too few codes, all are equal, or a number
            is not finite.
    """
    if kind == "gaussian":
        return GaussianPrior.fit(codes)
    if kind == "gmm":
        SEEDS.check("seed", seed, int)
        return GMMPrior.fit(codes, seed=seed)
    raise ConfigError(
        f"prior {kind!r}: only 'gaussian' and 'gmm' can be fitted; train a flow or an "
        "autoregressive prior with python train.py --config=configs/t5_vae/flow_prior.py (or "
        "autoregressive_prior.py) and open it by trained_prior(WORKDIR)"
    )


def flow_of(workdir: str | Path, model: Any) -> Prior | None:
    """Return the flow that was saved with a run as priors/flow; None if there is none.

    Args:
        workdir: the run's folder, local or gs://BUCKET/FOLDER.
        model: the run's module, whose codes the flow must have learned.

    Raises:
        ConfigError: if its files are incomplete, or it is of other codes.
    """
    folder = as_path(workdir) / FOLDER / FlowPrior.kind
    if not folder.is_dir():
        return None
    prior = load_prior(folder)
    check_model(prior, model, folder)
    return prior


def check_model(prior: Prior, model: Any, folder: str | Path) -> None:
    """Raise ConfigError if a prior was made for the codes of other parameters than the model's."""
    require(
        not prior.made_for or prior.made_for == parameters_of(model),
        f"{folder}: this prior was trained on the codes of another checkpoint; train one on this "
        "one's codes and save it there, or remove the folder",
    )


def load_prior(folder: str | Path) -> Prior:
    """Open the prior that was saved into a folder.

    Raises:
        ConfigError: if the folder contains no prior, or it is incomplete or of an unknown kind.
    """
    about, _ = read(folder)
    kind = about.get("kind") if isinstance(about, dict) else None
    if kind not in _KINDS:
        raise ConfigError(f"{folder}: unknown kind of prior {kind!r}; known are {list(_KINDS)}")
    try:
        return _KINDS[kind].load(folder)
    except (KeyError, TypeError) as e:
        raise ConfigError(f"the prior in {folder} is incomplete: {e}") from None
