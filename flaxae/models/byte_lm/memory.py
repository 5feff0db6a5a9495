"""Memory of a network: linear reconstruction of past bytes from its state.

The measure is that of Jaeger (2001), "Short term memory in echo state networks": the sum of the
held-out R^2 of all targets. For independent inputs it is at most the size of the state (Dambre et
al. 2012).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.models.byte_lm.network import ByteNetwork
from flaxae.models.byte_lm.readout import BITS
from flaxae.task import Context, StreamCarry, Taps

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
    graphdef, streams, weights = nnx.split(network, StreamCarry, ...)
    rows = x.shape[0]
    now = jax.tree.map(lambda a: jnp.zeros((rows, *a.shape[1:]), a.dtype), streams)

    @jax.jit
    def read(now: Any, weights: Any, x: Array) -> tuple[Array, Any]:
        network = nnx.merge(graphdef, now, weights)
        taps = Taps(collect=lambda path: path == "state")
        network(x, Context(jax.random.key(0), jnp.int32(0), hparams=hparams, taps=taps))
        return taps.collected["state"], nnx.split(network, StreamCarry, ...)[1]

    found = []
    for start in range(0, x.shape[1], CHUNK):
        states, now = read(now, weights, jnp.asarray(x[:, start : start + CHUNK], jnp.int32))
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
    inputs, targets = [], []
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        inputs.append(rearrange(noisy[:, start:end], "B n M -> (B n) M").astype(np.float64))
        past = [bits[:, start - lag : end - lag] for lag in range(lags)]
        targets.append(rearrange(past, "lag B n K -> (B n) lag K"))
    predict = ridge(inputs[0], targets[0].reshape(len(inputs[0]), -1))
    best, chosen = np.full(lags, -np.inf), np.zeros((lags, BITS))
    for penalty in PENALTIES:
        scores = [
            explained(predict(penalty, x).reshape(y.shape), y)
            for x, y in zip(inputs[1:], targets[1:], strict=True)
        ]  # each (lags, 8)
        better = scores[0].sum(-1) > best
        best = np.where(better, scores[0].sum(-1), best)
        chosen[better] = scores[1][better]
    return Memory(chosen.sum(-1))


def ridge(
    x: Float[np.ndarray, "n M"], y: Float[np.ndarray, "n K"]
) -> Callable[[float, Float[np.ndarray, "m M"]], Float[np.ndarray, "m K"]]:
    """Fit ridge regressions of many targets for any penalty, by one decomposition.

    Args:
        x: inputs.
        y: targets.

    Returns:
        (penalty relative to the mean variance of the inputs, inputs) -> predictions.
    """
    x_mean, y_mean = x.mean(0), y.mean(0)
    x = x - x_mean
    values, vectors = np.linalg.eigh(x.T @ x / len(x))  # (M,), (M, M)
    products = vectors.T @ (x.T @ (y - y_mean)) / len(x)  # (M, K)
    scale = max(float(values.mean()), 1e-30)

    def predict(penalty: float, new: Float[np.ndarray, "m M"]) -> Float[np.ndarray, "m K"]:
        shrunk = products / (np.maximum(values, 0) + penalty * scale)[:, None]
        return (new - x_mean) @ (vectors @ shrunk) + y_mean

    return predict


def explained(
    predicted: Float[np.ndarray, "n lags 8"], y: Float[np.ndarray, "n lags 8"]
) -> Float[np.ndarray, "lags 8"]:
    """Return R^2, the explained share of the variance; 0 for a constant target."""
    error, variance = np.square(y - predicted).mean(0), y.var(0)
    return np.where(variance > 0, 1 - error / np.where(variance > 0, variance, 1), 0.0)


def uniform_bytes(rows: int, length: int, seed: int = 0) -> Int[np.ndarray, "B n"]:
    """Return independent uniform bytes."""
    return np.random.default_rng(seed).integers(0, 256, (rows, length))


def text_rows(data: Sequence[int] | np.ndarray, rows: int, length: int) -> Int[np.ndarray, "B n"]:
    """Return stretches of a text at equal distances."""
    data = np.asarray(data)
    starts = np.arange(rows) * (len(data) - length) // max(rows - 1, 1)
    return data[starts[:, None] + np.arange(length)[None]].astype(np.int64)
