"""Tests of StraightBytes: windows, codings, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.models.byte_lm.network import Frozen, bits
from flaxae.models.byte_lm.straight import Coding, StraightBytesConfig, bernoulli_logits
from flaxae.task import Context
from tests.models.byte_lm.helpers import build, read, reader_of, size, text

CONTEXT = 5


def tiny(**options) -> StraightBytesConfig:
    return StraightBytesConfig(**{"context": CONTEXT, "widths": (12, 8)} | options)


def naive(network, coding: Coding, windows: np.ndarray) -> np.ndarray:
    """Return the logits of a network for single windows, (N, n), from its weights alone."""
    vectors = {
        Coding.ZERO_ONE: lambda v: np.unpackbits(np.uint8(v)[..., None], -1),
        Coding.BITS: lambda v: 2.0 * np.unpackbits(np.uint8(v)[..., None], -1) - 1,
        Coding.PERMUTED: lambda v: vectors[Coding.BITS](np.asarray(network.first.order[...])[v]),
        Coding.LEARNED: lambda v: np.asarray(network.first.table.table[...])[v],
        Coding.ONE_HOT: lambda v: np.eye(256)[v],
    }
    first, layers = network.first, [*network.layers, network.head]
    if coding is Coding.ONE_HOT:
        pairs = [(np.concatenate(first.tables[...]), first.bias)]
    else:
        pairs = [(first.map.kernel, first.map.bias)]
    pairs += [(layer.kernel, layer.bias) for layer in layers]
    *hidden, head = [tuple(np.asarray(x[...]) for x in pair) for pair in pairs]
    h = vectors[coding](windows).reshape(len(windows), -1)
    for kernel, bias in hidden:
        value, gate = np.split(h @ kernel + bias, 2, -1)
        h = value / (1 + np.exp(-gate))
    return h @ head[0] + head[1]


@pytest.mark.parametrize("coding", Coding)
def test_each_position_sees_its_own_window(coding):
    options = tiny(coding=coding)
    network, x = build(options, streams=2), text(length=16)
    padded = np.pad(x, ((0, 0), (CONTEXT - 1, 0)))
    windows = [padded[:, i : i + CONTEXT] for i in range(16)]
    expected = naive(network, coding, np.stack(windows, 1).reshape(-1, CONTEXT))
    np.testing.assert_allclose(read(reader_of(options), x).reshape(-1, 256), expected, atol=1e-5)


def test_a_stream_in_parts_is_one_pass():
    reader, x = reader_of(tiny()), text()
    whole = read(reader, x)
    for chunk in (1, 16):
        np.testing.assert_allclose(read(reader, x, chunk), whole, atol=1e-5)


def test_scores_depend_on_the_last_bytes_only():
    reader, x = reader_of(tiny()), text(length=16)
    changed = x.copy()
    changed[:, 8] ^= 255
    same = np.all(read(reader, x) == read(reader, changed), (0, 2))
    assert same.tolist() == [not 8 <= i < 8 + CONTEXT for i in range(16)]


def test_a_stream_begins_after_zero_bytes():
    reader, x = reader_of(tiny()), text(length=16)
    after_zeros = read(reader, np.pad(x[:, :11], ((0, 0), (CONTEXT, 0))))[:, CONTEXT:]
    np.testing.assert_array_equal(read(reader, x)[:, :11], after_zeros)


def test_original_size():
    options = StraightBytesConfig()
    assert options.hidden_widths == (724, 512, 362)
    assert size(options) == 2_690_940


@pytest.mark.parametrize("coding", Coding)
def test_the_first_layer_has_its_size(coding):
    expected = {Coding.LEARNED: 256 * 8 + 8 * 5 * 24, Coding.ONE_HOT: 256 * 5 * 24}
    others = 24 + 12 * 16 + 16 + 8 * 256 + 256
    assert size(tiny(coding=coding)) == expected.get(coding, 8 * 5 * 24) + others


def test_bits_come_most_significant_first():
    assert bits(jnp.array([0b10000011])).tolist() == [[1, 0, 0, 0, 0, 0, 1, 1]]


def test_permuted_codes_are_the_codes_of_all_values():
    network, other = (build(tiny(coding=Coding.PERMUTED), seed=seed) for seed in (0, 1))
    order = np.asarray(network.first.order[...])
    assert sorted(order.tolist()) == list(range(256))
    assert isinstance(network.first.order, Frozen)
    ctx = Context(jax.random.key(0), jnp.int32(0))
    codes = np.asarray(network.first.code(jnp.arange(256), ctx))
    assert len(np.unique(codes, axis=0)) == 256 and set(codes.ravel()) == {-1, 1}
    assert (order != np.asarray(other.first.order[...])).any() and (order != np.arange(256)).any()


def test_bits_that_are_independent_have_probabilities_that_sum_to_one():
    z = jax.random.normal(jax.random.key(0), (3, 8)) * 3
    p = np.asarray(jax.nn.softmax(bernoulli_logits(z)))
    one = np.asarray(jax.nn.sigmoid(z))[:, None]  # (3, 1, 8)
    codes = np.asarray(bits(jnp.arange(256)))[None]
    product = np.where(codes == 1, one, 1 - one).prod(-1)
    np.testing.assert_allclose(product.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(p, product, atol=1e-6)
    options = tiny(bernoulli=True)
    assert size(tiny()) - size(options) == 248 * 9
    assert read(reader_of(options), text(length=16)).shape == (2, 16, 256)
