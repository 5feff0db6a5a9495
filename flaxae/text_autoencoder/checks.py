"""Checks of user input: each error names the wrong element and the way out."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.data.tokenizer import PAD
from flaxae.data.tokens import TokenTable
from flaxae.decoding import Sampling
from flaxae.errors import ConfigError, require
from flaxae.text_autoencoder.channel import Channel
from flaxae.text_autoencoder.protocol import TextTokenizer


def texts(
    given: Sequence[str], tokenizer: TextTokenizer, limit: int, truncate: bool
) -> Int[np.ndarray, "B T"]:
    """Return the ids of texts, with EOS, padded with PAD.

    Args:
        given: the texts.
        tokenizer: the model's tokenizer.
        limit: tokens per text, EOS included.
        truncate: cut longer texts; otherwise they are an error.

    Raises:
        ConfigError: if it is not a list of texts, or a text is empty, invalid Unicode or too long.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        single = isinstance(given, (str, bytes))
        way_out = "give [text]" if single else "give a list of texts, for example list(texts)"
        raise ConfigError(f"texts must be a list of str, not a {type(given).__name__}: {way_out}")
    for i, text in enumerate(given):
        if not isinstance(text, str):
            raise ConfigError(f"texts[{i}] is a {type(text).__name__}, not a str")
        if not text:
            raise ConfigError(f"texts[{i}] is empty: leave it out")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise ConfigError(f"texts[{i}] is not valid Unicode: it has a lone surrogate")
    table = TokenTable.of(tokenizer.encode(list(given)) if given else [])
    long = np.flatnonzero(table.lengths >= limit)
    if len(long) and not truncate:
        raise ConfigError(
            f"texts[{long[0]}] has {table.lengths[long[0]] + 1} tokens with its end, the limit is "
            f"{limit}: shorten it, or give truncate=True"
        )
    return table.padded(np.arange(len(table)), limit)


def ids(given: Any, vocab_size: int, limit: int) -> Int[np.ndarray, "B T"]:
    """Return rows of ids as int32.

    Args:
        given: ids, EOS included, padded with PAD.
        vocab_size: the ids' upper bound, excluded.
        limit: largest number of columns.

    Raises:
        ConfigError: if the ids are not integers, of another shape or out of range, or a row is
            empty.
    """
    out = np.asarray(given)
    if out.ndim != 2 or out.shape[1] > limit:
        raise ConfigError(f"ids of shape {out.shape}: give (texts, up to {limit} tokens)")
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
    """Return codes as float32 (B, L, Z); flattened codes (B, L * Z) are accepted as well.

    Raises:
        ConfigError: if the codes have another shape or type, or a number is not finite.
    """
    what = f"(n, {num_latents}, {dim}) or (n, {num_latents * dim})"
    try:
        out = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        raise ConfigError(f"codes must be numbers of shape {what}") from None
    if out.shape == (0,):
        return np.empty((0, num_latents, dim), np.float32)
    if out.shape[1:] not in ((num_latents, dim), (num_latents * dim,)):
        hint = "; for one code give z[None]" if out.shape == (num_latents, dim) else ""
        raise ConfigError(f"codes of shape {out.shape}: this model's are {what}{hint}")
    out = out.reshape(len(out), num_latents, dim)  # (B, L, Z)
    wrong = np.flatnonzero(~np.isfinite(out).all((1, 2)))
    if len(wrong):
        raise ConfigError(f"codes[{wrong[0]}] has a number that is not finite")
    return out


def whole(name: str, value: Any, least: int, most: int = 2**32 - 1) -> int:
    """Return a whole number of Python, numpy or JAX as an int.

    Args:
        name: the argument's name, for the message.
        value: the number.
        least: smallest accepted number.
        most: largest accepted number.

    Raises:
        ConfigError: if it is not a whole number, or out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise ConfigError(f"{name}={value!r}: give a whole number from {least} to {most}")
    return number


def noise(value: Any, channel: Channel, name: str = "noise") -> float:
    """Return the standard deviation of a channel's noise as a float.

    Args:
        value: the number.
        channel: the form of the noise.
        name: name of the argument, for the message.

    Raises:
        ConfigError: if it is not a number, or out of the channel's range.
    """
    preserving = channel is Channel.PRESERVING
    limit = "from 0 to below 1" if preserving else "of at least 0"
    try:
        sigma = float(value)
    except (TypeError, ValueError):
        sigma = float("nan")
    if not 0 <= sigma < (1 if preserving else float("inf")):
        raise ConfigError(
            f"{name}={value!r}: sigma of this model's {channel.value} channel is a number {limit}"
        )
    return sigma


def noises(value: Any, count: int, channel: Channel, name: str) -> float | Float[np.ndarray, " n"]:
    """Return a standard deviation, or one per code, as floats (see `noise`).

    Raises:
        ConfigError: if there are more or fewer than codes, or one of them is wrong.
    """
    if not np.ndim(value):
        return noise(value, channel, name)
    require(np.shape(value) == (count,), f"{name} of shape {np.shape(value)}: give one per code")
    return np.asarray([noise(x, channel, name) for x in value], np.float32)


def sampling(options: dict[str, Any]) -> Sampling:
    """Return checked options of decoding.

    Args:
        options: fields of `decoding.Sampling` by name.

    Raises:
        ConfigError: if an option is unknown or out of range.
    """
    known = {f.name for f in dataclasses.fields(Sampling)}
    wrong = sorted(options.keys() - known)
    require(not wrong, f"unknown {', '.join(wrong)}: use {', '.join(sorted(known))}, seed, noise")
    least = {"top_k": 0, "beams": 1}
    return Sampling(**{k: whole(k, x, least[k]) if k in least else x for k, x in options.items()})
