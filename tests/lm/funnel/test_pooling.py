"""Pooling: lengths, positions, and a reference in numpy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.lm.funnel.config import FunnelConfig, PoolingType
from flaxae.lm.funnel.pooling import (
    block_lengths,
    first_of_pairs,
    pool_mask,
    pool_states,
    positions,
    repeat_states,
)

CLS = FunnelConfig(vocab_size=8)
WHOLE = dataclasses.replace(CLS, truncate_seq=False)
PLAIN = dataclasses.replace(CLS, separate_cls=False)
KINDS = {"cls": CLS, "cls, nothing dropped": WHOLE, "no cls": PLAIN}


def places(length: int, config: FunnelConfig) -> list[list[int]]:
    """Return the tokens of each pooled state."""
    first = [[0]] if config.separate_cls else []
    rest = list(range(len(first), length))
    if config.separate_cls and config.truncate_seq:
        rest = rest[:-1]
    return first + [rest[i : i + 2] for i in range(0, len(rest), 2)]


@pytest.mark.parametrize(
    "config, lengths",
    [(CLS, [512, 256, 128]), (WHOLE, [512, 257, 129]), (PLAIN, [512, 256, 128])],
)
def test_lengths_are_those_of_the_paper(config, lengths):
    assert block_lengths(512, config) == lengths


@pytest.mark.parametrize("name", KINDS)
def test_lengths_agree_with_the_pairs_and_end_where_nothing_is_left_to_pool(name):
    config = KINDS[name]
    for length in range(1, 41):
        have = block_lengths(length, config)
        shortest = 2 if config.separate_cls else 1
        for before, after in zip(have, have[1:], strict=False):
            assert after == (len(places(before, config)) if before > shortest else before)


@pytest.mark.parametrize("name", KINDS)
def test_the_position_of_a_pair_is_that_of_its_first_token(name):
    config, at = KINDS[name], np.arange(17)
    for depth in range(1, 4):
        at = np.asarray([at[tokens[0]] for tokens in places(len(at), config)])
        if config.separate_cls:
            at[0] = 1 - 2**depth
        np.testing.assert_array_equal(positions(depth, len(at), config), at)


@pytest.mark.parametrize("kind", PoolingType)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("length", [3, 6, 7])
def test_padding_is_in_no_pooled_state(name, kind, length):
    config = dataclasses.replace(KINDS[name], pooling_type=kind)
    rng = np.random.default_rng(length)
    x = rng.normal(size=(4, length, 5)).astype(np.float32)
    mask = np.arange(length) < np.asarray([[length], [length - 1], [2], [1]])
    have = np.asarray(pool_states(jnp.asarray(x), jnp.asarray(mask, jnp.float32), config))
    have_mask = np.asarray(pool_mask(jnp.asarray(mask, jnp.float32), config))
    reduce = np.mean if kind is PoolingType.MEAN else np.max
    for row in range(4):
        for pair, tokens in enumerate(places(length, config)):
            real = [t for t in tokens if mask[row, t]]
            assert have_mask[row, pair] == bool(real)
            want = reduce(x[row, real], axis=0) if real else np.zeros(5)
            np.testing.assert_allclose(have[row, pair], want, atol=1e-6)


def test_hugging_faces_pooling_counts_padding_and_drops_half_real_pairs():
    config = dataclasses.replace(PLAIN, hf_compat_mask=True)
    x, mask = jnp.asarray([[[2.0], [4.0], [6.0], [9.0], [5.0]]]), jnp.asarray([[1.0, 1, 1, 0, 1]])
    np.testing.assert_allclose(pool_states(x, mask, config)[0, :, 0], [3, 7.5, 5])
    np.testing.assert_array_equal(pool_mask(mask, config)[0], [1, 0, 1])


def test_segments_are_those_of_the_first_token():
    ids = jnp.asarray([[2, 0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(first_of_pairs(ids, CLS)[0], [2, 0, 1])
    np.testing.assert_array_equal(first_of_pairs(ids, PLAIN)[0], [2, 1, 0])


def test_repeated_states_keep_the_first_and_end_in_zeros():
    x = jnp.asarray([[[1.0], [2.0], [3.0]]])
    np.testing.assert_array_equal(repeat_states(x, 2, 6, CLS)[0, :, 0], [1, 2, 2, 3, 3, 0])
    np.testing.assert_array_equal(repeat_states(x, 2, 5, WHOLE)[0, :, 0], [1, 2, 2, 3, 3])
    np.testing.assert_array_equal(repeat_states(x, 2, 5, PLAIN)[0, :, 0], [1, 1, 2, 2, 3])
