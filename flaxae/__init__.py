"""flaxae: small, sharp research models in JAX/Flax that share one training loop."""

from typing import Any

# What `flaxae.NAME` imports when it is first used.
_LAZY = {
    "load": "flaxae.training.load:load",
    "run": "flaxae.training.loop:run",
    "Config": "flaxae.config:Config",
    "ByteLM": "flaxae.models.byte_lm.api:ByteLM",
    "FunnelAE": "flaxae.models.funnel_ae.api:FunnelAE",
    "LMVAE": "flaxae.models.lm_vae.api:LMVAE",
    "Probe": "flaxae.models.probes.api:Probe",
    "SAE": "flaxae.sparse_autoencoder.api:SAE",
    "T5VAE": "flaxae.models.t5_vae.api:T5VAE",
}
__all__ = sorted(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'flaxae' has no attribute {name!r}")
    import importlib

    module, _, attribute = _LAZY[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
