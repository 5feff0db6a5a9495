"""Ways between two codes."""

import numpy as np
from jaxtyping import Float


def slerp(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], steps: int
) -> Float[np.ndarray, "steps ..."]:
    """Spherical interpolation of direction, linear of length (Shoemake 1985); ends included.

    Where there is no arc between them (one direction, opposite ones, a zero) it is `lerp`.
    """
    shape, x, y = a.shape, a.ravel(), b.ravel()
    nx, ny = np.linalg.norm(x), np.linalg.norm(y)
    angle = np.arccos(np.clip(x @ y / max(nx * ny, 1e-12), -1, 1))
    if nx * ny == 0 or np.sin(angle) < 1e-4:
        return lerp(a, b, steps)
    share = np.linspace(0, 1, steps)[:, None]
    mix = np.sin((1 - share) * angle) * (x / nx) + np.sin(share * angle) * (y / ny)
    way = mix / np.sin(angle) * ((1 - share) * nx + share * ny)
    return way.astype(np.float32).reshape(-1, *shape)


def lerp(
    a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."], steps: int
) -> Float[np.ndarray, "steps ..."]:
    """The straight way, ends included."""
    share = np.linspace(0, 1, steps).reshape(-1, *[1] * a.ndim)
    return ((1 - share) * a[None] + share * b[None]).astype(np.float32)
