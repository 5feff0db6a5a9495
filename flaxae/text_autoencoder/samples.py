"""Held-out texts for the log and for evaluations: reconstructions, samples, seeded choices."""

import sys
import time
from typing import Any

import numpy as np

from flaxae.errors import ConfigError
from flaxae.task import Context
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.interpolation import slerp
from flaxae.text_autoencoder.protocol import LatentModel


def sample_texts(task: Any, model: LatentModel, ctx: Context, n: int) -> dict[str, list[str]]:
    """Return texts for the log: reconstructions, samples of N(0, I), and an interpolation."""
    codec = Codec(model, task.text.tokenizer, ctx.step)
    lines = list(held_out(task.text, "dev")[0][:n])
    shape = (n, codec.num_latents, codec.dim)
    prior = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    drawn = codec.texts(codec.generate(prior, assumed_noise=codec.sigma)) if n else []
    if not lines:
        return {"samples of N(0, I)": drawn} if n else {}
    codes = codec.encode(lines)
    out = {
        "reconstructions": [
            f"{'=' if a == b else '!'} {a}   ->   {b}"
            for a, b in zip(lines, codec.decode(codes), strict=True)
        ],
        "samples of N(0, I)": drawn,
    }
    if len(lines) > 1:
        out["interpolation"] = codec.decode(codec.on_space(slerp(codes[0], codes[1], 5)))
    return out


def held_out(text: Any, split: str) -> tuple[list[str], str]:
    """Return the lines of a held-out split, and why there are none."""
    try:
        return text.lines(split), ""
    except ConfigError as error:  # all are longer than the model's rows
        return [], str(error)


class Timer:
    """The seconds of each part, reported on standard error as an evaluation takes minutes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, part: str) -> None:
        """End a part: note and print its seconds."""
        now = time.perf_counter()
        self.seconds[part] = round(now - self.last, 1)
        self.last = now
        print(f"{part}: {self.seconds[part]} s", file=sys.stderr, flush=True)


def subsample(count: int, limit: int) -> list[int]:
    """Return the indices of all rows, or of a seeded sample of them, in order."""
    if count <= limit:
        return list(range(count))
    return sorted(np.random.default_rng(0).choice(count, limit, replace=False).tolist())


def too_few(lines: int, least: int, reason: str) -> str:
    """Return why a study is left out if there are fewer than `least` lines, else ""."""
    if lines >= least:
        return ""
    return f"n/a: {reason} needs at least {least} lines, and there {_count(lines)}"


def _count(lines: int) -> str:
    return "is 1" if lines == 1 else f"are {lines}"
