"""The inputs of a dashboard: a dictionary, and the model and text that it is shown on."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.activations.cache import Tap
from flaxae.activations.token_rows import TokenRows, token_rows
from flaxae.data.config import TextDataConfig
from flaxae.data.hub import load_examples
from flaxae.errors import ConfigError, require
from flaxae.lm import loading
from flaxae.sparse_autoencoder import files
from flaxae.sparse_autoencoder.modules import SparseAutoencoder
from flaxae.sparse_autoencoder.origin import UNCLEAR, Origin

LENGTH, ROWS = 128, 8  # tokens per row and rows per pass, if no config has them
TEXT = "docstrings"
WIDTHS = ("resid_in", "resid_out", "attn_out", "mlp_in", "mlp_out")  # hooks of the model's width


@dataclasses.dataclass
class DashboardInput:
    """A dictionary, the model that it reads, and rows of tokens.

    Attributes:
        name: the folder that it was opened from.
        sae: the dictionary, in the units of the states.
        origin: hook and layer that it reads and, if it is a transcoder, writes.
        model: a language model, or an encoder of `lm.encoders`.
        tokenizer: its tokenizer.
        decode: ids -> text.
        causal: whether the model predicts the next token.
        rows: the text.
        model_rows: rows per pass of the model.
    """

    name: str
    sae: SparseAutoencoder
    origin: Origin
    model: Any
    tokenizer: Any
    decode: Callable[[list[int]], str]
    causal: bool
    rows: TokenRows
    model_rows: int = ROWS

    @property
    def tap(self) -> Tap:
        """The state that the dictionary reads."""
        assert self.origin.layer is not None  # `check` has raised an error
        return Tap(self.origin.hook, self.origin.layer)

    @property
    def hook_out(self) -> str:
        """The hook that the dictionary writes."""
        return self.origin.hook_out or self.origin.hook


def shortened(rows: TokenRows, tokens: int) -> TokenRows:
    """Return the first rows, with at least `tokens` used tokens; all rows if there are fewer."""
    total = np.cumsum(rows.use.sum(1))
    count = int(np.searchsorted(total, tokens)) + 1
    return TokenRows(*(x[:count] for x in rows))


def first_rows(
    texts: Sequence[str], tokens: int, make: Callable[[Sequence[str]], TokenRows]
) -> TokenRows:
    """Return the first rows of texts; texts are tokenised until there are enough.

    Args:
        texts: the texts.
        tokens: number of used tokens.
        make: texts -> rows, in their order; only the last row may depend on later texts.

    Returns:
        `shortened(make(texts), tokens)`.
    """
    count = 16
    while True:
        rows = make(texts[:count])
        if count >= len(texts):
            return shortened(rows, tokens)
        whole = TokenRows(*(x[:-1] for x in rows))  # the last one continues with the next text
        if whole.use.sum() >= tokens:
            return shortened(whole, tokens)
        count *= 2


def read_texts(path: str, tokens: int) -> list[str]:
    """Return the texts of a file, one per line, or of a folder of shards; "": embedded ones.

    Args:
        path: the file or folder.
        tokens: number of tokens that are read: no more than twice as many texts are kept.
    """
    most = 2 * tokens if path else 0  # an embedded corpus is cached as a whole
    return load_examples(TextDataConfig(name=TEXT, path=path, max_lines=most)).examples


def open_file(
    source: str | Path,
    pretrained: str,
    texts: Sequence[str],
    *,
    tokens: int = 100_000,
    dtype: str = "float32",
    other_model: bool = False,
    log: Callable[[str], None] | None = None,
    **expected: Any,
) -> DashboardInput:
    """Open a dictionary's file with a language model.

    Args:
        source: a directory or file that `SAE.from_pretrained` reads.
        pretrained: the language model; "": the one that the file names.
        texts: texts to read.
        tokens: number of tokens to read.
        dtype: type of the model's weights and computation.
        other_model: allow a model that the dictionary was not trained on.
        log: called with remarks.
        **expected: hook, layer and other fields that the file does not contain.

    Raises:
        ConfigError: if hook or layer are unknown, the model is not named, has no tokenizer, or is
            not the one that the dictionary was trained on, or its states have another width.
    """
    sae, origin = files.load(source, **expected)
    name = pretrained or origin.model
    require(bool(name), f"{source}: it does not name its model: give --pretrained")
    lm = loading.load(name, weights=dtype, dtype=dtype)
    if lm.tokenizer is None:
        raise ConfigError(f"{name} has no tokenizer.json: put that of the model into the folder")
    check(source, sae, origin, lm.model)
    if not other_model:
        origin.check_model(str(source), lm)
    chat, separator = lm.tokenizer, lm.config.eos_ids[0]
    if origin.prepend_bos is None and chat.bos and log is not None:
        log(
            f"{source}: it does not say whether its texts began with {chat.bos}: they are read "
            "without it (--prepend-bos: with it)"
        )
    special = [i for i in map(chat.id, chat.tokens.values()) if i is not None]
    length = min(origin.context_size or LENGTH, lm.config.max_length)
    first = chat.id(chat.bos) if origin.prepend_bos and chat.bos else None
    own = length - (first is not None)
    # Without a first token, the state of a row's first one is a sink of attention.
    skip = 1 if origin.skip_first is None else origin.skip_first
    skip = max(skip - (first is not None), 0)

    def make(texts: Sequence[str]) -> TokenRows:
        rows = token_rows(chat.encode(texts, special=False), own, separator, special, skip=skip)
        return rows if first is None else _with_first(rows, first)

    rows = first_rows(texts, tokens, make)
    return DashboardInput(str(source), sae, origin, lm.model, chat, chat.decode, True, rows)


def _with_first(rows: TokenRows, first: int) -> TokenRows:
    """Return rows that begin with one more token, whose state is not used."""
    ids, mask, use = (np.pad(x, ((0, 0), (1, 0))) for x in rows)
    ids[:, 0], mask[:, 0] = first, 1
    return TokenRows(ids, mask, use)


def check(source: str | Path, sae: SparseAutoencoder, origin: Origin, model: Any) -> None:
    """Raise ConfigError unless the model has the states that the dictionary reads and writes."""
    require(
        bool(origin.hook) and origin.layer is not None,
        f"{source}: it does not name the states that it was trained on: give --hook and --layer",
    )
    require(
        origin.layer_out in (None, origin.layer),
        f"{source}: its output is a state of layer {origin.layer_out}, not of its input's, "
        f"{origin.layer}: such transcoders are not supported",
    )
    for option, hook in (("--hook", origin.hook), ("--hook-out", origin.hook_out)):
        if hook in UNCLEAR:
            ours = " or ".join(f"{option} {name}" for name in UNCLEAR[hook])
            raise ConfigError(
                f"{source}: {hook} is the MLP's input before or after its norm, depending on the "
                f"program that wrote the file. If it is after the norm, give {ours}; states before "
                "it cannot be read"
            )
        require(
            not hook or hook in model.hooks,
            f"{source}: the model has no hook {hook!r}, only {', '.join(model.hooks)}: a file "
            f"of other states cannot be shown ({option} is for those that do not name theirs)",
        )
    width = getattr(model.config, "d_model", sae.config.d_in)
    if origin.hook in WIDTHS:
        require(
            sae.config.d_in == width,
            f"{source}: it reads states of {sae.config.d_in} features, the model has {width}: name "
            "the model that it was trained on with --pretrained",
        )
