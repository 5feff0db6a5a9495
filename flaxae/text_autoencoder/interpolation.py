"""Interpolation between two codes.

slerp      spherical
lerp       linear
prior      a slerp between the noises of both codes, by a prior that maps codes to noise and back
denoised   a slerp whose inner codes are decoded and encoded again: they become codes of texts
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from flaxae.errors import ConfigError, require

PATHS = ("slerp", "lerp", "prior", "denoised")
MIXED = ("slerp", "lerp")  # paths whose inner codes are not those of texts, nor drawn from a prior
ROUNDS = 2  # of decoding and encoding, on a denoised path


class PathPrior(Protocol):
    """A prior that interpolates."""

    def interpolate_at(
        self,
        a: Float[np.ndarray, "... D"],
        b: Float[np.ndarray, "... D"],
        fractions: Float[np.ndarray, " n"],
    ) -> Float[np.ndarray, "... n D"]:
        """Return the codes at fractions of the path: 0 is a, 1 is b."""
        ...


Reencode = Callable[[Float[np.ndarray, "n ..."]], Float[np.ndarray, "n ..."]]


def reencoded(
    codes: Float[np.ndarray, "n ..."],
    decode: Callable[[Float[np.ndarray, "n ..."]], list[str]],
    encode: Callable[[list[str]], Float[np.ndarray, "m ..."]],
) -> Float[np.ndarray, "n ..."]:
    """Decode codes and encode the texts; the code of an empty text stays as it is.

    Args:
        codes: clean codes.
        decode: returns the texts of codes.
        encode: returns the codes of texts that are not empty, of any shape with as many numbers.
    """
    out = np.array(codes, np.float32)
    texts = decode(codes)
    rows = [i for i, text in enumerate(texts) if text.strip()]
    if rows:
        out[rows] = encode([texts[i] for i in rows]).reshape(len(rows), *out.shape[1:])
    return out


def denoised(
    codes: Float[np.ndarray, "n ..."],
    inner: Bool[np.ndarray, " n"],
    again: Reencode,
    rounds: int = ROUNDS,
    first: Reencode | None = None,
) -> Float[np.ndarray, "n ..."]:
    """Return the codes of denoised paths.

    Args:
        codes: the codes of slerps.
        inner: False for ends, which stay as they are.
        again: decodes codes and encodes the texts, see `reencoded`.
        rounds: number of calls of `again`.
        first: replaces `again` in the first round, whose codes are not those of texts.
    """
    out = np.array(codes, np.float32)
    for i in range(rounds if inner.any() else 0):
        out[inner] = (again if i or first is None else first)(out[inner])
    return out


def noise_on_path(
    codes: Float[np.ndarray, "n ..."], a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]
) -> Float[np.ndarray, " n"]:
    """Return the noise that codes between two ends seem to have, for a decoder that reads it.

    The preserving channel with noise sigma leaves a cosine of sqrt(1 - sigma^2) between a code and
    what is received. The cosine between a code and the nearer end gives its sigma: 0 at the ends,
    .71 in the middle of a slerp between orthogonal codes.

    Args:
        codes: codes on paths, on the model's space.
        a: the first end of each path, or of all.
        b: the last end of each path, or of all.
    """
    flat = codes.reshape(len(codes), -1)  # (n, D)
    cosines = []
    for end in (a.reshape(-1, flat.shape[1]), b.reshape(-1, flat.shape[1])):  # (n, D) or (1, D)
        lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(end, axis=1)
        cosines.append((flat * end).sum(1) / np.maximum(lengths, 1e-12))
    return np.sqrt(1 - np.square(np.clip(np.max(cosines, axis=0), 0, 1))).astype(np.float32)


def slerp(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], steps: int
) -> Float[np.ndarray, "steps ..."]:
    """Interpolate directions spherically and lengths linearly (Shoemake 1985).

    If no single arc connects the codes (same direction, opposite directions, or one of them is
    zero), the result is that of `lerp`.

    Args:
        a: first end.
        b: last end.
        steps: points, both ends included.
    """
    return slerp_at(a, b, np.linspace(0, 1, steps))


def lerp(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], steps: int
) -> Float[np.ndarray, "steps ..."]:
    """Interpolate linearly.

    Args:
        a: first end.
        b: last end.
        steps: points, both ends included.
    """
    return lerp_at(a, b, np.linspace(0, 1, steps))


def slerp_at(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], fractions: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n ..."]:
    """Return the points of `slerp` at fractions of the path: 0 is a, 1 is b."""
    shape, x, y = a.shape, a.ravel(), b.ravel()
    nx, ny = np.linalg.norm(x), np.linalg.norm(y)
    angle = np.arccos(np.clip(x @ y / max(nx * ny, 1e-12), -1, 1))
    if nx * ny == 0 or np.sin(angle) < 1e-4:
        return lerp_at(a, b, fractions)
    t = fractions[:, None]
    mix = np.sin((1 - t) * angle) * (x / nx) + np.sin(t * angle) * (y / ny)
    points = mix / np.sin(angle) * ((1 - t) * nx + t * ny)
    return points.astype(np.float32).reshape(-1, *shape)


def lerp_at(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], fractions: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n ..."]:
    """Return the points of `lerp` at fractions of the path: 0 is a, 1 is b."""
    t = fractions.reshape(-1, *[1] * a.ndim)
    return ((1 - t) * a[None] + t * b[None]).astype(np.float32)


def path_codes(
    path: str,
    a: Float[np.ndarray, "..."],
    b: Float[np.ndarray, "..."],
    fractions: Float[np.ndarray, " n"],
    *,
    prior: PathPrior | None = None,
    again: Reencode | None = None,
    first: Reencode | None = None,
    rounds: int = ROUNDS,
) -> Float[np.ndarray, "n ..."]:
    """Return the codes at fractions of a path.

    Args:
        path: one of PATHS.
        a: first end.
        b: last end.
        fractions: places on the path: 0 is a, 1 is b.
        prior: the prior of the path "prior".
        again: decodes codes and encodes the texts, for the path "denoised" (see `reencoded`).
        first: the same for the first round (see `denoised`).
        rounds: number of rounds.

    Raises:
        ConfigError: if the path is unknown, or what it needs is missing.
    """
    require(path in PATHS, f"path={path!r}: give one of {', '.join(PATHS)}")
    if path == "lerp":
        return lerp_at(a, b, fractions)
    if path == "prior":
        if prior is None:
            raise ConfigError("path='prior' needs a prior")
        found = prior.interpolate_at(a.ravel(), b.ravel(), fractions)
        return np.asarray(found, np.float32).reshape(-1, *a.shape)
    codes = slerp_at(a, b, fractions)
    if path != "denoised":
        return codes
    if again is None:
        raise ConfigError("path='denoised' needs a model that decodes and encodes")
    return denoised(codes, (fractions > 0) & (fractions < 1), again, rounds, first)
