"""The latent-space explorer: one app for any text autoencoder, in a notebook and in a browser.

corpus           the texts to explore: the model's training texts, or a file
space            the model, the texts and their codes
backend          `Explorer`: the answer to every question as plain data, without Panel
worker           device work one job at a time; outdated slider moves are dropped
page, views      the page of a user, and its views
notebook, server the page in a notebook cell, and behind `python -m flaxae.explore WORKDIR`

`flaxae.text_autoencoder.protocol` says which methods a model needs, and how a trained run is
opened.
"""

from typing import Any

_LAZY = {
    "Explorer": "flaxae.explore.backend:Explorer",
    "open_model": "flaxae.text_autoencoder.protocol:open_model",
    "app": "flaxae.explore.notebook:notebook_app",
    "serve": "flaxae.explore.server:serve",
}
__all__ = sorted(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'flaxae.explore' has no attribute {name!r}")
    import importlib

    module, _, attribute = _LAZY[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
