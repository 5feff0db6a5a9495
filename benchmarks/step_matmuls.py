"""The matmuls of a T5-VAE's training step, timed one by one outside of the step."""

import math
import statistics
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Product(NamedTuple):
    """The shape of a product (batch, m, k) x (batch, k, n) with its backward pass."""

    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> float:
        """FLOPs of the forward and both backward products."""
        return 6.0 * self.batch * self.m * self.k * self.n


def products(config: Any, vocab_size: int, segments: list[tuple[int, int]]) -> Counter[Product]:
    """Count the products of a step.

    Args:
        config: config of a T5-VAE with the `flatten` bottleneck.
        vocab_size: size of the vocabulary.
        segments: (rows, length) of each bucket. Position-wise layers see all tokens at once.
    """
    t5, latent, max_length = config.task.t5, config.task.latent, config.data.max_length
    width, inner, heads = t5.d_model, t5.num_heads * t5.d_kv, t5.num_heads
    rows = sum(r for r, _ in segments)
    tokens = sum(r * s for r, s in segments)
    memory = latent.memory_tokens
    gates = 1 if t5.feed_forward.value == "relu" else 2
    out: Counter[Product] = Counter()

    def attention(layers: int, keys: int, key_tokens: int) -> None:
        out[Product(1, tokens, width, inner)] += layers  # q
        out[Product(1, key_tokens, width, inner)] += 2 * layers  # k, v
        out[Product(1, tokens, inner, width)] += layers  # o
        for r, s in segments:
            t = keys or s
            out[Product(r * heads, s, t5.d_kv, t)] += layers  # scores
            out[Product(r * heads, s, t, t5.d_kv)] += layers  # weighted values

    attention(t5.num_layers, 0, tokens)
    attention(t5.num_decoder_layers, 0, tokens)
    attention(t5.num_decoder_layers, memory, rows * memory)
    layers = t5.num_layers + t5.num_decoder_layers
    out[Product(1, tokens, width, t5.d_ff)] += gates * layers
    out[Product(1, tokens, t5.d_ff, width)] += layers
    out[Product(1, tokens, width, vocab_size)] += 1  # logits
    out[Product(1, rows, max_length * width, latent.dim)] += 1  # flatten
    out[Product(1, rows, latent.dim, memory * width)] += 1
    if latent.injection:
        out[Product(1, rows, latent.dim, max_length * width)] += 1
    return out


def _dot(a: Any, b: Any, ca: int, cb: int) -> Any:
    """Contract axis ca of a with axis cb of b, batched over a leading axis if there is one."""
    lead = a.ndim - 2
    axes = ((ca + lead,), (cb + lead,))
    return lax.dot_general(a, b, (axes, ((0,) * lead, (0,) * lead)))


def _transposed(a: Any, b: Any) -> Any:
    """Multiply a's transpose by b; the barrier keeps XLA from fusing the transpose."""
    return _dot(lax.optimization_barrier(jnp.swapaxes(a, -1, -2)), b, 1, 0)


class Isolated:
    """Times of all products of a step; the faster form of each weight gradient counts."""

    def __init__(self, counts: Counter[Product]):
        self.counts = counts
        self.cases: dict[tuple[Product, str], tuple[Any, tuple, int]] = {}
        self.times: dict[tuple[Product, str], list[float]] = {}
        rng = np.random.default_rng(0)
        for p in counts:
            lead = (p.batch,) if p.batch > 1 else ()
            # One call contains several small products, to time more than the dispatch.
            n = max(1, min(8, math.ceil(2e7 / p.flops)))
            draw = lambda *s: jnp.asarray(rng.standard_normal(s, np.float32))  # noqa: E731
            xs, ws, ys = (
                tuple(draw(*lead, *s) for _ in range(n))
                for s in ((p.m, p.k), (p.k, p.n), (p.m, p.n))
            )
            forms = {
                "y": (lambda a, b: _dot(a, b, 1, 0), xs, ws),
                "dx": (lambda a, b: _dot(a, b, 1, 1), ys, ws),
                "dw": (lambda a, b: _dot(a, b, 0, 0), xs, ys),
                "dw, transposed": (_transposed, xs, ys),
            }
            for name, (f, left, right) in forms.items():
                call = jax.jit(lambda a, b, f=f: [f(x, y) for x, y in zip(a, b, strict=True)])
                self.cases[p, name] = (call, (left, right), n)
                self.times[p, name] = []
                jax.block_until_ready(call(left, right))

    def measure(self) -> None:
        """Time each product once more."""
        for key, (call, args, n) in self.cases.items():
            began = time.perf_counter()
            jax.block_until_ready(call(*args))
            self.times[key].append((time.perf_counter() - began) / n)

    def rows(self, best: bool = False) -> list[tuple[Product, int, float]]:
        """Return product, count and total seconds, backward pass included, the slowest first."""
        reduce = min if best else statistics.median
        seconds = {key: reduce(values) for key, values in self.times.items()}
        out = []
        for p, count in self.counts.items():
            weight = min(seconds[p, "dw"], seconds[p, "dw, transposed"])
            out.append((p, count, count * (seconds[p, "y"] + seconds[p, "dx"] + weight)))
        return sorted(out, key=lambda row: -row[2])

    def flops(self) -> float:
        """Return the FLOPs of all products of a step."""
        return sum(p.flops * count for p, count in self.counts.items())


class Peak:
    """A large square product, whose speed approximates the machine's peak."""

    def __init__(self, n: int = 2048):
        self.n, self.times = n, []
        self.x = jnp.asarray(np.random.default_rng(0).standard_normal((n, n), np.float32))
        self.call = jax.jit(lambda x: x @ x)
        self.call(self.x).block_until_ready()

    def measure(self) -> None:
        """Time the product once more."""
        began = time.perf_counter()
        self.call(self.x).block_until_ready()
        self.times.append(time.perf_counter() - began)

    def gflops(self) -> float:
        """Return the median speed in GFLOP/s."""
        return 2e-9 * self.n**3 / statistics.median(self.times)
