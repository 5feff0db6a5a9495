"""The tokenizer of a new run must be the one that its first parameters were trained with."""

import dataclasses

from flaxae.config import Config
from flaxae.data.config import TextDataConfig, text_data
from flaxae.data.pretrained import check_own, own_tokenizer
from flaxae.data.tokenizer import Tokenizer
from flaxae.errors import require
from flaxae.storage import paths
from flaxae.weights import hf

TOKENIZER = "tokenizer.json"  # in a workdir


def check_named(config: Config) -> None:
    """Check that a config with pretrained weights names their tokenizer, before one is trained.

    Raises:
        ConfigError: if `data.tokenizer` is empty.
    """
    source = config.pretrained
    if not source or text_data(config).tokenizer:
        return
    own = own_tokenizer(hf.resolve(source)) is not None
    way_out = (
        f"data.tokenizer={source}, the model's own"
        if own
        else f"data.tokenizer to the model's tokenizer ({source} contains none: a tokenizer.json, "
        "a spiece.model, a directory or Hub id of one, or byt5)"
    )
    require(
        False,
        f"pretrained={source} needs the tokenizer that it was trained with, and data.tokenizer is "
        f"empty: one trained on these texts would give its embeddings other tokens. Set {way_out}",
    )


def check_first(config: Config, tokenizer: Tokenizer, rows: int) -> None:
    """Check the tokenizer of a new run against the sources of its parameters.

    Args:
        config: the run's config.
        tokenizer: its tokenizer.
        rows: rows of its embedding.

    Raises:
        ConfigError: if it is not the one of `pretrained` or `resume_from`.
    """
    if config.pretrained:
        check_own(tokenizer, config.pretrained)
    if config.resume_from:
        _check_resumed(config.resume_from, tokenizer, rows)


def _check_resumed(source: str, tokenizer: Tokenizer, rows: int) -> None:
    """Check that a run's embedding, if it is taken, was trained with the same tokenizer."""
    from flaxae.storage.workdir import stored_config

    theirs = stored_config(source)
    if rows not in _embedding_rows(theirs):
        return  # its embedding does not fit, so that a new one is initialised
    folder = paths.as_path(source)
    require(
        (folder / TOKENIZER).is_file(),
        f"resume_from={source} has no {TOKENIZER}: its embeddings cannot be used without the "
        "tokenizer that they were trained with; restore the file",
    )
    with paths.local_for_reading(folder, paths.NO_ASSETS) as local:
        own = Tokenizer.load(local / TOKENIZER)
    require(
        own.vocab == tokenizer.vocab,
        f"resume_from={source}: its embeddings were trained with another tokenizer than that of "
        f"this run ({own.vocab_size} and {tokenizer.vocab_size} tokens): set "
        f"data.tokenizer={folder / TOKENIZER}",
    )


def _embedding_rows(config: Config) -> list[int]:
    """Return the vocabulary sizes of a config's models; none if it does not train on texts."""
    sections = [getattr(config.task, f.name) for f in dataclasses.fields(config.task)]
    sizes = [x.vocab_size for x in sections if hasattr(x, "vocab_size")]
    if not isinstance(config.data, TextDataConfig):
        return []
    return [size or config.data.vocab_size for size in sizes]
