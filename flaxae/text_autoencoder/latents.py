"""Ways between two codes."""

import numpy as np
from jaxtyping import Float


def slerp(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], steps: int
) -> Float[np.ndarray, "steps ..."]:
    """Spherical interpolation of direction, linear of length (Shoemake 1985); ends included.

    Where there is no arc between them (one direction, opposite ones, a zero) it is `lerp`.
    """
    return slerp_at(a, b, np.linspace(0, 1, steps))


def lerp(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], steps: int
) -> Float[np.ndarray, "steps ..."]:
    """The straight way, ends included."""
    return lerp_at(a, b, np.linspace(0, 1, steps))


def slerp_at(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], shares: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n ..."]:
    """`slerp`'s points at shares of the way: 0 is a, 1 is b."""
    shape, x, y = a.shape, a.ravel(), b.ravel()
    nx, ny = np.linalg.norm(x), np.linalg.norm(y)
    angle = np.arccos(np.clip(x @ y / max(nx * ny, 1e-12), -1, 1))
    if nx * ny == 0 or np.sin(angle) < 1e-4:
        return lerp_at(a, b, shares)
    share = shares[:, None]
    mix = np.sin((1 - share) * angle) * (x / nx) + np.sin(share * angle) * (y / ny)
    way = mix / np.sin(angle) * ((1 - share) * nx + share * ny)
    return way.astype(np.float32).reshape(-1, *shape)


def lerp_at(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], shares: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n ..."]:
    """`lerp`'s points at shares of the way."""
    share = shares.reshape(-1, *[1] * a.ndim)
    return ((1 - share) * a[None] + share * b[None]).astype(np.float32)
