"""An autoencoder without a model: its codes are the letters' numbers, so that answers are known."""

import types
from collections.abc import Sequence

import numpy as np

from flaxae.errors import ConfigError

WIDTH = 12
LINES = [f"{name} = {i}" for i in range(10) for name in ("x", "y", "count", "os", "self")]
LINES += [f"import {name}" for name in ("os", "sys", "re", "ast", "json")]
LINES += ["if x:", "for i in y:", "# why", "print(x)"]


class Characters:
    """A tokenizer whose ids are code points below 128; other characters are lost."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(c) for c in text if ord(c) < 128] for text in texts]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        return ["".join(map(chr, row)) for row in ids]


class Prior:
    def __init__(self, shift: float):
        self.shift = shift

    def sample(self, n: int, seed: int = 0, temperature: float = 1.0) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=(n, WIDTH))
        return (self.shift + temperature * noise).astype(np.float32)


class Letters:
    """Letters as a code: (code point - 64) / 32; a number of a blank or below ends the text."""

    num_latents, dim, max_length, step, fingerprint = 2, WIDTH // 2, WIDTH + 1, 7, "f00d" * 4
    max_noise = 1.0

    def __init__(self) -> None:
        self.tokenizer = Characters()
        self.calls: list[int] = []  # number of rows of each decoding
        self.statistics = types.SimpleNamespace(
            mean=np.zeros((2, WIDTH // 2)), std=np.full((2, WIDTH // 2), 0.5)
        )

    def encode(self, texts: Sequence[str], *, truncate: bool = False) -> np.ndarray:
        out = np.full((len(texts), WIDTH), -2.0, np.float32)
        for row, ids in zip(out, self.tokenizer.encode(texts), strict=True):
            row[: len(ids)] = (np.asarray(ids) - 64) / 32
        return out.reshape(-1, 2, WIDTH // 2)

    def decode(
        self, z: np.ndarray, noise: float = 0.0, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Both noise and temperature add a seeded draw to the letters."""
        assert z.shape[1:] == (2, WIDTH // 2)
        self.calls.append(len(z))
        z = z + (noise + temperature) * np.random.default_rng(seed).normal(size=z.shape)
        ids = np.clip(np.rint(z.reshape(len(z), WIDTH) * 32 + 64), 0, 127).astype(int)
        rows = [row[: list(row < 32).index(True)] if (row < 32).any() else row for row in ids]
        return self.tokenizer.decode([list(map(int, row)) for row in rows])

    def prior(self, which: str | None = None) -> Prior:
        if which in (None, "normal"):
            return Prior(0.0)
        if which in ("gaussian", "gmm"):
            return Prior(0.5)
        raise ConfigError(f"the model has no prior {which!r}")

    def training_texts(self) -> list[str]:
        return LINES
