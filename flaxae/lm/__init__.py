"""Language models: `flaxae.lm.load("smollm2-135m")` returns a model with its tokenizer."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxae.lm.loading import LoadedModel, load
    from flaxae.lm.protocol import LanguageModel

__all__ = ["LanguageModel", "LoadedModel", "load"]


def __getattr__(name: str) -> Any:
    """Import lazily: importing `flaxae.lm.t5` reads no other model's code."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "LanguageModel":
        from flaxae.lm.protocol import LanguageModel

        return LanguageModel
    from flaxae.lm import loading

    return getattr(loading, name)
