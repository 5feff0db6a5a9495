"""Codes of known density: four narrow bumps in a plane, far from any single Gaussian."""

from types import SimpleNamespace
from typing import Any

import numpy as np

CENTRES = np.asarray([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]], np.float32)
WIDTH = 0.15


def bumps(n: int, seed: int = 0) -> np.ndarray:
    """Return n samples of the mixture, (n, 2)."""
    rng = np.random.default_rng(seed)
    return (CENTRES[rng.integers(4, size=n)] + WIDTH * rng.normal(size=(n, 2))).astype(np.float32)


class PlantedCodes:
    """A stand-in for `prior.codes.Codes` without a T5-VAE."""

    dim, num_latents, workdir, made_by = 2, 2, "planted", "planted"

    def __init__(self, *_: Any) -> None:
        self.codec = SimpleNamespace(scale=1.0, decode=lambda z: [f"{x[0]:.1f}" for x in z])

    def codes(self, split: str) -> np.ndarray:
        return bumps(4000, 0) if split == "train" else bumps(500, 1)

    def fingerprint(self, split: str) -> str:
        return f"planted {split}"
