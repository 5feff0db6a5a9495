"""Layers in detail: initial values, precision, dropout, grouped heads, packed rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.nn import attention as attention_lib
from flaxae.nn.attention import Attention, grouped_attention
from flaxae.nn.bias import MASKED, SHARED, RelativeBias, segment_bias, segment_positions
from flaxae.nn.linear import Embedding, Linear, product
from flaxae.nn.mlp import MLP, FeedForward
from flaxae.nn.norm import LayerNorm, RMSNorm
from flaxae.nn.rope import Rope, RopeScaling, rotate
from flaxae.task import Context, Taps

BF16 = jnp.bfloat16


@pytest.fixture
def ctx():
    return Context(key=jax.random.key(0), step=jnp.int32(0), train=True)


@pytest.fixture
def plain():
    return Context(key=jax.random.key(0), step=jnp.int32(0))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_initial_values_have_the_documented_spread():
    rngs = nnx.Rngs(0)
    attention = Attention(64, 4, 32, rngs=rngs)
    bias: Any = dict(num_buckets=64, max_distance=128, bidirectional=True)
    for array, want in (
        (Linear(256, 32, rngs=rngs).kernel, 256**-0.5),
        (Linear(32, 256, std=0.3, rngs=rngs).kernel, 0.3),
        (Embedding(256, 32, rngs=rngs).table, 1.0),
        (Embedding(256, 32, std=0.2, rngs=rngs).table, 0.2),
        (attention.q.kernel, (64 * 32) ** -0.5),
        (attention.k.kernel, 64**-0.5),
        (attention.v.kernel, 64**-0.5),
        (attention.o.kernel, 128**-0.5),
        (RelativeBias(64, std=0.1, rngs=rngs, **bias).table, 0.1),
    ):
        values = np.asarray(array[...])
        assert values.std() == pytest.approx(want, rel=0.06)
        assert abs(values.mean()) < 0.06 * want


@pytest.mark.parametrize(("inner", "outer"), [(3, 5), (5, 3)])
def test_gradients_of_a_product_are_those_of_a_matmul(inner, outer):
    """The kernel's gradient transposes the narrower factor."""
    x, kernel, weight = normal(2, 4, inner), normal(inner, outer, seed=1), normal(2, 4, outer)
    _, pull = jax.vjp(lambda a, b: product(a, b), *map(jnp.asarray, (x, kernel)))
    dx, dkernel = pull(jnp.asarray(weight))
    np.testing.assert_allclose(dx, weight @ kernel.T, atol=1e-5)
    np.testing.assert_allclose(dkernel, np.einsum("abi,abo->io", x, weight), atol=1e-5)


def test_bfloat16_layers_compute_in_float32_where_documented(plain):
    """Norms, scores and the softmax round once, at the end."""
    x = jnp.asarray(4 + normal(3, 64), BF16)
    wide = np.asarray(x, np.float64)
    rms = wide / np.sqrt(np.square(wide).mean(-1, keepdims=True) + 1e-6)
    centred = wide - wide.mean(-1, keepdims=True)
    unit = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
    for layer, want in ((RMSNorm(64, dtype=BF16), rms), (LayerNorm(64, dtype=BF16), unit)):
        found = layer(x, plain)
        assert found.dtype == BF16
        np.testing.assert_allclose(np.asarray(found, np.float32), want, rtol=2**-8, atol=1e-6)
    table = Embedding(5, 64, dtype=BF16, rngs=nnx.Rngs(0))
    rows = np.asarray(table.table[...].astype(BF16), np.float64)
    np.testing.assert_allclose(table.attend(x, plain), wide @ rows.T, rtol=1e-4, atol=1e-3)
    scores = 3 * normal(2, 9)
    exact = jax.nn.softmax(jnp.asarray(scores), axis=-1)
    np.testing.assert_array_equal(
        attention_lib._softmax(jnp.asarray(scores), jnp.dtype(BF16)), exact.astype(BF16)
    )


def test_rotations_of_bfloat16_are_float32_inside():
    x = jnp.asarray(normal(1, 1, 2, 8), BF16)
    cos, sin = Rope(8).angles(jnp.asarray([[100]]))
    want = rotate(x.astype(jnp.float32), cos, sin).astype(BF16)
    np.testing.assert_array_equal(rotate(x, cos, sin), want)


def test_llama3_scales_by_the_original_length():
    """Waves between original_length / high and original_length / low are scaled in part."""
    rope = Rope(8, 100.0, RopeScaling.LLAMA3, factor=4.0, low=1.0, high=3.0, original_length=16)
    waves = Rope(8, 100.0).frequencies()
    ramp = np.clip((16 * waves / (2 * np.pi) - 1) / (3 - 1), 0, 1)
    assert 0 < ramp[0] < 1 and not ramp[1:].any()
    np.testing.assert_allclose(rope.frequencies(), waves * (ramp + (1 - ramp) / 4), rtol=1e-6)


def test_norms_use_their_scale_and_their_eps(plain):
    x, scale = normal(3, 8), 1 + normal(8, seed=1)
    rms = RMSNorm(8, eps=0.5)
    rms.scale[...] = jnp.asarray(scale)
    want = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 0.5) * scale
    np.testing.assert_allclose(rms(jnp.asarray(x), plain), want, atol=1e-5)
    more = normal(3, 8, seed=2)
    stream, normed = rms.add_and_norm(jnp.asarray(x), plain, jnp.asarray(more))
    np.testing.assert_allclose(stream, x + more, atol=1e-6)
    np.testing.assert_allclose(normed, rms(jnp.asarray(x + more), plain), atol=1e-5)
    assert (RMSNorm(8).eps, LayerNorm(8).eps) == (1e-6, 1e-5)


def test_hidden_units_and_attention_weights_are_dropped_in_training(ctx, plain):
    """A rate near 1 leaves few; each segment and each layer has its own mask."""
    rate, x = 0.9, jnp.asarray(normal(16, 8))
    layers: dict[str, Any] = {
        "hidden": MLP(8, 32, kind=FeedForward.RELU, dropout_rate=rate, rngs=nnx.Rngs(0)),
        "attention": Attention(8, 2, 4, dropout_rate=rate, rngs=nnx.Rngs(0)),
    }

    def call(name, at):
        taps = Taps(collect=lambda path: path == "hidden")
        at = Context(at.key, at.step, train=at.train, taps=taps)
        if name == "hidden":
            layers[name](x, at)
            return np.asarray(taps.collected["hidden"])
        both = jnp.concatenate([x, x])  # two segments of the same tokens
        return np.asarray(layers[name](both, at, segments=((1, 16), (1, 16)), bias=[None, None]))

    kept = [np.mean(call("hidden", at) != 0) for at in (ctx, plain)]
    assert kept[0] == pytest.approx((1 - rate) * kept[1], abs=0.05) and kept[1] > 0.4
    trained, evaluated = call("attention", ctx), call("attention", plain)
    np.testing.assert_allclose(evaluated[:16], evaluated[16:], atol=1e-6)
    assert np.abs(trained - evaluated).mean() > 0.1
    assert np.abs(trained[:16] - trained[16:]).mean() > 0.1


def test_a_slot_is_a_key_that_is_its_own_value(plain):
    layer = Attention(8, 2, 4, rngs=nnx.Rngs(0))
    x, slot = normal(3, 8), normal(1, 8, seed=1)
    mask = np.asarray([[[[0.0, MASKED, 0.0]]]], np.float32)
    found = layer(
        jnp.asarray(x),
        plain,
        segments=((1, 3),),
        bias=[jnp.asarray(mask)],
        slots=[jnp.asarray(slot)],
    )
    q, k, v = (x @ np.asarray(part.kernel[...]) for part in (layer.q, layer.k, layer.v))
    k, v = (np.concatenate([a[[0, 2]], slot]) for a in (k, v))  # token 1 is masked
    q, k, v = (a.reshape(-1, 2, 4) for a in (q, k, v))
    weights = np.exp(np.einsum("shk,thk->hst", q, k))
    weights /= weights.sum(-1, keepdims=True)
    want = np.einsum("hst,thk->shk", weights, v).reshape(3, 8) @ np.asarray(layer.o.kernel[...])
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_grouped_attention_equals_attention_with_repeated_keys(ctx, plain):
    q, k, v = normal(2, 3, 4, 5), normal(2, 2, 6, 5, seed=1), normal(2, 2, 6, 5, seed=2)
    bias = np.where(normal(2, 1, 3, 6, seed=3) > 0.5, MASKED, 0.0).astype(np.float32)

    def attend(ctx, **more):
        arrays: Any = map(jnp.asarray, (q, k, v, bias))
        return grouped_attention(*arrays, ctx=ctx, scale=0.4, **more)

    found, dropped = attend(plain), attend(ctx, dropout_rate=0.5)
    k, v = (a.repeat(2, axis=1) for a in (k, v))  # query heads 0 and 1 share key head 0
    scores = 0.4 * np.einsum("bshk,bhtk->bhst", q, k) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    want = np.einsum("bhst,bhtk->bshk", weights, v).reshape(2, 3, 20)
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert np.abs(np.asarray(dropped) - want).mean() > 0.1


def test_packed_rows_attend_to_their_segment_and_the_shared_prefix():
    ids = jnp.asarray([[SHARED, SHARED, 1, 1, 2, 0], [0, 1, 1, 2, 2, 2]])
    allowed = np.asarray(segment_bias(ids))[:, 0] == 0
    assert allowed[0].astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 0],
    ]
    assert allowed[1, 3:].astype(int).tolist() == [
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 1],
    ]
    assert not allowed[1, 0].any()
    positions = np.asarray(segment_positions(ids))
    assert positions[0, :5].tolist() == [0, 1, 2, 3, 2]
    assert positions[1].tolist() == [0, 0, 1, 0, 1, 2]
