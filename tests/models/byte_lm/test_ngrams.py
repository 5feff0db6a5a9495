"""Learned vectors of the last bytes: which bytes they read, and their state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.config import Config
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.cell import CellConfig
from flaxae.models.byte_lm.ngrams import NGrams, hashed
from flaxae.task import Context

ORDERS, ROWS, STREAMS = (2, 4), 64, 2
CTX = Context(jax.random.key(0), jnp.int32(0))


def make() -> NGrams:
    return NGrams(ORDERS, ROWS, 3, 5, STREAMS, nnx.Rngs(params=0))


def text(length: int, seed: int = 0) -> jax.Array:
    values = np.random.default_rng(seed).integers(0, 256, (STREAMS, length))
    return jnp.asarray(values, jnp.int32)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_an_index_depends_on_the_last_n_bytes_in_their_order(n: int):
    last = text(n)
    before = jnp.concatenate([text(3, 1), last], 1)
    index = hashed(before, n, 2**16)[:, -1]
    np.testing.assert_array_equal(index, hashed(last, n, 2**16)[:, 0])
    assert (index != hashed(last[:, ::-1], n, 2**16)[:, 0]).all()
    assert (index != hashed(last.at[:, 0].add(1), n, 2**16)[:, 0]).all()


def test_indices_are_spread_evenly():
    pairs = np.stack(np.meshgrid(np.arange(97, 123), np.arange(97, 123)), -1).reshape(-1, 2)
    found = np.asarray(hashed(jnp.asarray(pairs), 2, 2**16))[:, 0]
    # 676 pairs at random in 65,536 places: 3.5 collisions are expected.
    assert len(np.unique(found)) > 676 - 12
    assert found.min() < 2**16 * 0.02 and found.max() > 2**16 * 0.98


def test_parts_of_a_stream_give_what_the_whole_gives():
    whole, parts, x = make(), make(), text(9)
    wanted = whole(x, CTX)
    got = [parts(x[:, a:b], CTX) for a, b in ((0, 1), (1, 3), (3, 9))]
    np.testing.assert_allclose(jnp.concatenate(got, 1), wanted, atol=1e-6)
    np.testing.assert_array_equal(parts.last[...], x[:, -3:])


def test_a_network_reads_no_further_back_than_its_ngrams_through_them():
    task = CellConfig(states=3, hidden=4, ngrams=ORDERS, ngram_rows=ROWS, ngram_features=3)
    ctx = Context(jax.random.key(0), jnp.int32(0), hparams={"bptt": jnp.int32(4)})
    x = text(8)

    def read(x: jax.Array) -> jax.Array:
        one: Any = task.network(STREAMS, nnx.Rngs(params=0))
        one.layers[0].of_state.kernel[...] = jnp.zeros((3, 4))
        return one(x, ctx).logits[:, -1]

    wanted = read(x)
    np.testing.assert_array_equal(read(x.at[:, 3].add(1)), wanted)  # the fifth byte from the end
    assert np.abs(read(x.at[:, 4].add(1)) - wanted).max() > 1e-6  # the fourth


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ngrams": (1, 2)}, r"task.ngrams=\(1, 2\): an n-gram has at least 2 bytes"),
        ({"ngrams": (2,), "ngram_rows": 1000}, "task.ngram_rows=1000: use a power of two"),
    ],
)
def test_sizes_that_cannot_be(fields: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        Config(task=CellConfig(**fields)).freeze()
