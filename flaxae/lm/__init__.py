"""Language models: `flaxae.lm.load("smollm2-135m")` gives a model with its tokenizer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxae.lm.loading import LanguageModel, load

__all__ = ["LanguageModel", "load"]


def __getattr__(name: str) -> Any:
    """Lazy: importing `flaxae.lm.t5` reads no other model's code."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flaxae.lm import loading

    return getattr(loading, name)
