"""What people give to a T5-VAE, checked: one error that says what, where and the way out."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.data.tokens import TokenTable
from flaxae.errors import ConfigError
from flaxae.lm.t5.modeling import PAD


def texts(
    given: Sequence[str], tokenizer: Any, limit: int, truncate: bool
) -> Int[np.ndarray, "B T"]:
    """The ids of texts, with EOS, padded with 0.

    Args:
        given: texts.
        tokenizer: makes ids of them.
        limit: tokens of a text, with its EOS.
        truncate: cut what is longer; else it is an error.

    Raises:
        ConfigError: not a list of texts, or one is empty, no valid Unicode or too long.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise ConfigError(f"texts must be a list of str, not a {type(given).__name__}: give [text]")
    for i, text in enumerate(given):
        if not isinstance(text, str):
            raise ConfigError(f"texts[{i}] is a {type(text).__name__}, not a str")
        if not text:
            raise ConfigError(f"texts[{i}] is empty: leave it out")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise ConfigError(f"texts[{i}] has a lone surrogate: it is no valid Unicode text")
    table = TokenTable.of(tokenizer.encode(list(given)) if given else [])
    long = np.flatnonzero(table.lengths >= limit)
    if len(long) and not truncate:
        raise ConfigError(
            f"texts[{long[0]}] has {table.lengths[long[0]] + 1} tokens with its end, the limit is "
            f"{limit}: shorten it, or give truncate=True"
        )
    return table.padded(np.arange(len(table)), limit)


def ids(given: Any, vocab_size: int, limit: int) -> Int[np.ndarray, "B T"]:
    """Rows of ids.

    Args:
        given: ids, EOS included, then 0.
        vocab_size: ids must be below.
        limit: columns.

    Raises:
        ConfigError: not integers, of another shape, out of range, or a row has no text.
    """
    out = np.asarray(given)
    if out.ndim != 2 or out.shape[1] > limit:
        raise ConfigError(f"ids of shape {out.shape}: give (texts, at most {limit} tokens)")
    if out.size and out.dtype.kind not in "iu":
        raise ConfigError(f"ids are {out.dtype}, not integers")
    wrong = np.argwhere((out < 0) | (out >= vocab_size))
    if len(wrong):
        row, column = (int(x) for x in wrong[0])
        raise ConfigError(
            f"ids[{row}, {column}] is {out[row, column]}: ids are 0 to {vocab_size - 1}"
        )
    empty = np.flatnonzero((out == PAD).all(1)) if out.size else []
    if len(empty):
        raise ConfigError(f"ids[{empty[0]}] is all padding: leave it out")
    return out.astype(np.int32)


def codes(given: Any, num_latents: int, dim: int) -> Float[np.ndarray, "B L Z"]:
    """Codes as (B, L, Z); (B, L * Z) is taken too.

    Raises:
        ConfigError: another shape or type, or a number that is not finite.
    """
    what = f"(n, {num_latents}, {dim}) or (n, {num_latents * dim})"
    try:
        out = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        raise ConfigError(f"codes must be numbers, {what}") from None
    if out.shape == (0,):
        return np.empty((0, num_latents, dim), np.float32)
    if out.shape[1:] not in ((num_latents, dim), (num_latents * dim,)):
        hint = "; for one code give z[None]" if out.shape == (num_latents, dim) else ""
        raise ConfigError(f"codes of shape {out.shape}: this model's are {what}{hint}")
    out = out.reshape(len(out), num_latents, dim)
    wrong = np.flatnonzero(~np.isfinite(out).all((1, 2)))
    if len(wrong):
        raise ConfigError(f"codes[{wrong[0]}] has a number that is not finite")
    return out


def whole(name: str, value: Any, least: int, most: int = 2**32 - 1) -> int:
    """A whole number, Python's, numpy's or JAX's, as an int.

    Raises:
        ConfigError: it is none, or not between `least` and `most`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise ConfigError(f"{name}={value!r}: give a whole number from {least} to {most}")
    return number
