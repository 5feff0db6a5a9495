"""The latent-space explorer: one app over any autoencoder, in a notebook and in a browser.

protocol         what the app asks of an autoencoder; opening one
corpus           the texts that are explored: the model's own, or a file
space            the model, the texts and their codes
backend          `Explorer`: every question the app can ask, as plain data; knows nothing of Panel
worker           device work one by one, slider moves that are overtaken dropped
app, views       the page
notebook, serve  the page in a cell, and by `python -m flaxae.explore WORKDIR`
"""

from typing import Any

_LAZY = {
    "Explorer": "flaxae.explore.backend:Explorer",
    "open_model": "flaxae.text_autoencoder.protocol:open_model",
    "app": "flaxae.explore.notebook:notebook_app",
    "serve": "flaxae.explore.serve:serve",
}
__all__ = sorted(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'flaxae.explore' has no attribute {name!r}")
    import importlib

    module, _, attribute = _LAZY[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
