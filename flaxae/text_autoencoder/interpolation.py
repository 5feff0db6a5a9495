"""Interpolation between two codes: spherical and linear."""

import numpy as np
from jaxtyping import Float


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
