"""Priors of a trained model's codes: N(0, I), Gaussian, mixture, rectified flow."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae.errors import ConfigError
from flaxae.text_autoencoder.priors.flow import FlowPrior
from flaxae.text_autoencoder.priors.mixture import GMMPrior
from flaxae.text_autoencoder.priors.priors import GaussianPrior, Prior, StandardNormal, read

__all__ = [
    "FlowPrior",
    "GMMPrior",
    "GaussianPrior",
    "Prior",
    "StandardNormal",
    "fit",
    "load_prior",
]

_KINDS: dict[str, Any] = {
    kind.kind: kind for kind in (StandardNormal, GaussianPrior, GMMPrior, FlowPrior)
}


def fit(kind: str, codes: Float[np.ndarray, "n D"], seed: int = 0) -> Prior:
    """A prior fitted to clean codes; (n, L, Z) is flattened.

    Args:
        kind: "gaussian" or "gmm" (10 components).
        codes: of training texts.
        seed: of the mixture's start.

    Raises:
        ConfigError: there is no such kind, or the codes are too few, equal or not finite.
    """
    if kind == "gaussian":
        return GaussianPrior.fit(codes)
    if kind == "gmm":
        return GMMPrior.fit(codes, seed=seed)
    raise ConfigError(
        f"prior {kind!r}: 'gaussian' and 'gmm' are fitted here; a flow is trained: python train.py "
        "--config=configs/t5_vae/flow_prior.py, then FlowPrior.from_workdir"
    )


def load_prior(folder: str | Path) -> Prior:
    """The prior that was saved into a folder. Raises ConfigError where there is none."""
    about, _ = read(folder)
    kind = about.get("kind") if isinstance(about, dict) else None
    if kind not in _KINDS:
        raise ConfigError(f"{folder}: a prior of kind {kind!r}, which is none of {list(_KINDS)}")
    try:
        return _KINDS[kind].load(folder)
    except (KeyError, TypeError) as e:
        raise ConfigError(f"the prior in {folder} is incomplete: {e}") from None
