"""Memory of a network: linear reconstruction of past bytes from its state.

The measure is that of Jaeger (2001), "Short term memory in echo state networks": the sum of the
held-out R^2 of all targets. For independent inputs it is at most the size of the state (Dambre et
al. 2012).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from flaxae.models.byte_lm.network import BITS, ByteNetwork
from flaxae.models.byte_lm.streaming import Reader, apply
from flaxae.task import Taps

LAGS = 61  # 0 to 60 bytes ago
KNOWN_BITS = 4.0  # a byte with this many bits of R^2 counts for the depth
PENALTIES = tuple(10.0**power for power in range(-6, 5))  # relative to the mean variance
CHUNK = 128  # bytes per call


@dataclasses.dataclass(frozen=True)
class Memory:
    """Reconstruction of past bytes.

    Attributes:
        bits: held-out R^2 of the byte j steps ago, summed over its 8 bits, for j = 0, 1, ...
    """

    bits: Float[np.ndarray, " lags"]

    @property
    def capacity(self) -> float:
        """The sum over all steps."""
        return float(self.bits.sum())

    @property
    def depth(self) -> int:
        """The number of steps with at least KNOWN_BITS."""
        return int((self.bits >= KNOWN_BITS).sum())


def collect_states(
    network: ByteNetwork, hparams: dict[str, Array], x: Int[np.ndarray, "B n"]
) -> Float[np.ndarray, "B n M"]:
    """Return the states that a network taps as "state" while it reads streams from their start.

    Args:
        network: the network; its state may be for any number of streams.
        hparams: see `flaxae.training.hparams.make_hparams`.
        x: bytes; n is a multiple of CHUNK.
    """
    reader = Reader.of(network, hparams)
    now = reader.zero(x.shape[0])

    @jax.jit
    def read(now: Any, weights: Any, x: Array) -> tuple[Array, Any]:
        taps = Taps(collect=lambda path: path == "state")
        _, now = apply(reader.graphdef, weights, hparams, now, x, taps)
        return taps.collected["state"], now

    found = []
    for start in range(0, x.shape[1], CHUNK):
        states, now = read(now, reader.weights, jnp.asarray(x[:, start : start + CHUNK], jnp.int32))
        found.append(np.asarray(states))
    return np.concatenate(found, 1)


def measure(
    states: Float[np.ndarray, "B n M"],
    x: Int[np.ndarray, "B n"],
    *,
    lags: int = LAGS,
    noise: float = 0.0,
    seed: int = 0,
) -> Memory:
    """Measure how well past bytes are linear functions of the state.

    Half of the positions of each stream fit the regressions, the next quarter chooses the penalty
    of each step, the last quarter is measured. A bit that never varies there has an R^2 of 0.

    Args:
        states: states after each byte.
        x: the bytes.
        lags: number of steps back, from 0.
        noise: standard deviation of normal noise on the states: what is below it is not counted.
        seed: seed of the noise.
    """
    rng = np.random.default_rng(seed)
    noisy = states + noise * rng.standard_normal(states.shape).astype(np.float32)
    bits = np.unpackbits(x.astype(np.uint8)[..., None], axis=-1) * 2.0 - 1  # (B, n, 8)
    length = x.shape[1]
    ends = [lags - 1, length // 2, length * 3 // 4, length]
    parts, means = [], None
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        inputs = rearrange(noisy[:, start:end], "B n M -> (B n) M").astype(np.float64)
        past = [bits[:, start - lag : end - lag] for lag in range(lags)]
        targets = rearrange(past, "lag B n K -> (B n) (lag K)")
        means = means or (inputs.mean(0), targets.mean(0))
        parts.append(Moments.of(inputs - means[0], targets - means[1]))
    fit, choose, test = parts
    best, chosen = np.full(lags, -np.inf), np.zeros((lags, BITS))
    for weights in ridge(fit, PENALTIES):
        found, measured = (
            rearrange(each.explained(weights), "(lag K) -> lag K", K=BITS)
            for each in (choose, test)
        )
        better = found.sum(-1) > best
        best[better], chosen[better] = found.sum(-1)[better], measured[better]
    return Memory(chosen.sum(-1))


@dataclasses.dataclass(frozen=True)
class Moments:
    """Second moments of inputs and targets.

    Attributes:
        inputs: mean products of inputs, (M, M).
        products: mean products of inputs and targets, (M, K).
        targets: mean squares of targets, (K,).
        variances: variances of targets, (K,).
    """

    inputs: Float[np.ndarray, "M M"]
    products: Float[np.ndarray, "M K"]
    targets: Float[np.ndarray, " K"]
    variances: Float[np.ndarray, " K"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "n M"], y: Float[np.ndarray, "n K"]) -> "Moments":
        """Return the moments of inputs and targets."""
        return cls(x.T @ x / len(x), x.T @ y / len(x), np.square(y).mean(0), y.var(0))

    def explained(self, weights: Float[np.ndarray, "M K"]) -> Float[np.ndarray, " K"]:
        """Return the R^2 of linear predictions; 0 for a target that is constant."""
        predicted = (weights * (self.inputs @ weights)).sum(0)
        error = self.targets - 2 * (weights * self.products).sum(0) + predicted
        safe = np.where(self.variances > 0, self.variances, 1)
        return np.where(self.variances > 0, 1 - error / safe, 0.0)


def ridge(moments: Moments, penalties: Iterable[float]) -> Iterator[Float[np.ndarray, "M K"]]:
    """Yield the weights of ridge regressions of many targets, by one decomposition.

    Args:
        moments: those of centred inputs and targets.
        penalties: penalties, relative to the mean variance of the inputs.
    """
    values, vectors = np.linalg.eigh(moments.inputs)  # (M,), (M, M)
    products = vectors.T @ moments.products  # (M, K)
    scale = max(float(values.mean()), 1e-30)
    for penalty in penalties:
        yield vectors @ (products / (np.maximum(values, 0) + penalty * scale)[:, None])


def uniform_bytes(rows: int, length: int, seed: int = 0) -> Int[np.ndarray, "B n"]:
    """Return independent uniform bytes."""
    return np.random.default_rng(seed).integers(0, 256, (rows, length))


def text_rows(data: Sequence[int] | np.ndarray, rows: int, length: int) -> Int[np.ndarray, "B n"]:
    """Return stretches of a text at equal distances."""
    data = np.asarray(data)
    starts = np.arange(rows) * (len(data) - length) // max(rows - 1, 1)
    return data[starts[:, None] + np.arange(length)[None]].astype(np.int64)
