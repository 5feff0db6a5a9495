"""The codes and texts of many paths at once, in few calls of a model."""

from functools import partial

import numpy as np
from einops import rearrange
from jaxtyping import Float

from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.interpolation import (
    MIXED,
    PathPrior,
    denoised,
    path_codes,
    reencoded,
)


def codes_of_paths(
    codec: Codec,
    name: str,
    a: Float[np.ndarray, "n L Z"],
    b: Float[np.ndarray, "n L Z"],
    steps: int,
    prior: PathPrior | None = None,
) -> Float[np.ndarray, "m L Z"]:
    """Return the codes of paths by one interpolation, one path after another: m = n * steps.

    Args:
        codec: the model with its tokenizer.
        name: one of `interpolation.PATHS`.
        a: codes of the first ends.
        b: codes of the last ends.
        steps: codes per path, ends included.
        prior: the prior of the path "prior".
    """
    if name == "denoised":  # all paths together, in few calls of the model
        inner = np.tile((np.arange(steps) > 0) & (np.arange(steps) < steps - 1), len(a))
        slerps = codes_of_paths(codec, "slerp", a, b, steps)
        noise = _noise(codec, slerps, steps)
        decode = partial(codec.decode, assumed_noise=None if noise is None else noise[inner])
        return denoised(
            slerps,
            inner,
            lambda codes: reencoded(codes, codec.decode, codec.encode),
            first=lambda codes: reencoded(codes, decode, codec.encode),
        )
    at = np.linspace(0, 1, steps)
    if name == "prior" and prior is not None:
        flat_a, flat_b = (rearrange(x, "n l z -> n (l z)") for x in (a, b))
        made = prior.interpolate_at(flat_a, flat_b, at).reshape(-1, *a.shape[1:])  # (m, L, Z)
    else:
        made = np.concatenate([path_codes(name, x, y, at) for x, y in zip(a, b, strict=True)])
    return codec.on_space(made)


def texts_of_paths(
    codec: Codec,
    name: str,
    a: Float[np.ndarray, "n L Z"],
    b: Float[np.ndarray, "n L Z"],
    steps: int,
    prior: PathPrior | None = None,
) -> list[list[str]]:
    """Return the decoded texts of each path of `codes_of_paths`.

    A decoder that reads the noise assumes that of `interpolation.noise_on_path` in the codes of
    slerp and lerp.
    """
    codes = codes_of_paths(codec, name, a, b, steps, prior)
    noise = _noise(codec, codes, steps) if name in MIXED else None
    texts = codec.decode(codes, assumed_noise=noise)
    return [texts[i : i + steps] for i in range(0, len(texts), steps)]


def _noise(
    codec: Codec, codes: Float[np.ndarray, "m L Z"], steps: int
) -> Float[np.ndarray, " m"] | None:
    """Return the noise that the decoder assumes on paths, one path after another."""
    first, last = (np.repeat(codes[i::steps], steps, axis=0) for i in (0, steps - 1))
    return codec.path_noise(codes, first, last)
