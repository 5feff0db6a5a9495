"""Greedy decoding with a toy step function."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.decoding import greedy


def counting(last, cache, index):
    """Row r counts up from r + 2; the last of `lengths` ids is eos = 1."""
    ends, calls = cache
    new = jnp.where(index + 1 == ends, 1, last + 1)
    return jax.nn.one_hot(new, 32), (ends, calls + 1)


def test_rows_end_on_their_own_and_are_padded():
    cache = (jnp.asarray([1, 3, 5]), jnp.int32(0))
    ids = jax.jit(lambda c: greedy(counting, c, jnp.asarray([4, 9, 14]), 8, eos=1))(cache)
    expected = [[1, 0, 0, 0, 0, 0, 0, 0], [10, 11, 1, 0, 0, 0, 0, 0], [15, 16, 17, 18, 1, 0, 0, 0]]
    np.testing.assert_array_equal(ids, expected)


def test_the_loop_stops_when_all_rows_ended():
    calls = []

    def step(last, cache, index):
        jax.debug.callback(lambda i: calls.append(int(i)), index)
        return counting(last, cache, index)

    cache = (jnp.asarray([2, 3]), jnp.int32(0))
    jax.block_until_ready(jax.jit(lambda c: greedy(step, c, jnp.asarray([2, 2]), 30, eos=1))(cache))
    jax.effects_barrier()
    assert sorted(calls) == [0, 1, 2]


def test_a_row_without_end_is_cut():
    cache = (jnp.asarray([99]), jnp.int32(0))
    ids = greedy(counting, cache, jnp.asarray([2]), 4, eos=1)
    np.testing.assert_array_equal(ids, [[3, 4, 5, 6]])
