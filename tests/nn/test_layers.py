"""Layers compared with plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.nn import mlp as mlp_lib
from flaxae.nn import norm as norm_lib
from flaxae.nn.attention import Attention
from flaxae.nn.bias import RelativeBias, causal_bias, padding_bias, relative_buckets
from flaxae.nn.linear import Embedding, Linear, dropout
from flaxae.nn.mlp import MLP, FeedForward
from flaxae.nn.norm import LayerNorm, RMSNorm
from flaxae.nn.segments import join_segments, split_segments
from flaxae.task import Context


@pytest.fixture
def ctx():
    return Context(key=jax.random.key(0), step=jnp.int32(0), train=True)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_linear_is_a_matmul_plus_a_bias(ctx):
    layer = Linear(3, 5, use_bias=True, rngs=nnx.Rngs(0))
    assert layer.bias is not None
    layer.bias[...] = jnp.arange(5.0)
    x = normal(2, 4, 3)
    expected = np.asarray(x) @ np.asarray(layer.kernel[...]) + np.arange(5.0)
    np.testing.assert_allclose(layer(x, ctx), expected, atol=1e-5)


def test_bfloat16_layers_have_float32_parameters_and_scores(ctx):
    table = Embedding(7, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = table(jnp.asarray([1, 2]), ctx)
    assert x.dtype == jnp.bfloat16 and table.table[...].dtype == jnp.float32
    assert table.attend(x, ctx).dtype == jnp.float32
    assert Linear(4, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(x, ctx).dtype == jnp.bfloat16


def test_dropout_keeps_the_mean_and_depends_on_the_context(ctx):
    x = jnp.ones((200, 50))
    y = dropout(x, 0.25, ctx.at("a"))
    assert float((y == 0).mean()) == pytest.approx(0.25, abs=0.02)
    assert float(y.mean()) == pytest.approx(1, abs=0.02)
    assert jnp.any(y != dropout(x, 0.25, ctx.at("b")))  # another layer, another mask
    assert dropout(x, 0.25, Context(key=ctx.key, step=ctx.step)) is x


def test_rms_norm_has_root_mean_square_one(ctx):
    x = 5 * normal(3, 8)
    y = np.asarray(RMSNorm(8)(x, ctx))
    np.testing.assert_allclose(np.sqrt((y**2).mean(-1)), 1, rtol=1e-5)


def assert_same_gradients(ours, plain, *args):
    """Compare the gradients of two functions by a random projection of their outputs."""
    shape = jax.eval_shape(plain, *args).shape
    weight = normal(*shape, seed=9)
    indices = tuple(range(len(args)))
    found, expected = (
        jax.grad(lambda *a, f=f: jnp.sum(f(*a) * weight), indices)(*args) for f in (ours, plain)
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_rms_norm_equal_autodiff():
    def plain(x, scale):
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return x * inverse * scale[None, None]

    def ours(x, scale):
        return norm_lib._rms_norm(x, scale, 1e-6, jnp.dtype(jnp.float32))

    assert_same_gradients(ours, plain, 3 * normal(2, 5, 8), 1 + normal(8, seed=1))


def test_layer_norm_and_its_gradients_equal_the_formula(ctx):
    layer = LayerNorm(6, eps=1e-3)
    layer.scale[...], layer.bias[...] = normal(6, seed=1), normal(6, seed=2)

    def plain(x, scale, bias):
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(centred**2, axis=-1, keepdims=True)
        return centred / jnp.sqrt(variance + 1e-3) * scale[None, None] + bias[None, None]

    def ours(x, scale, bias):
        return norm_lib._layer_norm(x, scale, bias, 1e-3, jnp.dtype(jnp.float32))

    x = 2 + 3 * normal(3, 5, 6)
    np.testing.assert_allclose(
        layer(x, ctx), plain(x, layer.scale[...], layer.bias[...]), atol=1e-5
    )
    assert_same_gradients(ours, plain, x, layer.scale[...], layer.bias[...])


@pytest.mark.parametrize("kind", [FeedForward.GATED_GELU, FeedForward.GATED_SILU])
def test_gradients_of_the_gated_activation_equal_autodiff(kind):
    def plain(gate, up):
        gelu = kind is FeedForward.GATED_GELU
        return (jax.nn.gelu(gate, approximate=True) if gelu else jax.nn.silu(gate)) * up

    assert_same_gradients(
        lambda g, u: mlp_lib._gated(g, u, kind), plain, 2 * normal(4, 6), normal(4, 6, seed=1)
    )


def test_gradients_of_attention_equal_autodiff(ctx):
    attention = Attention(8, 2, 4, rngs=nnx.Rngs(0))
    mask = jnp.asarray([[1.0] * 5, [1, 1, 1, 0, 0]])
    heads = (2, 5, 2, 4)

    def plain(q, k, v, table):
        q, k, v = (x.reshape(heads) for x in (q, k, v))
        scores = jnp.einsum("bshk,bthk->bhst", q, k) + table + padding_bias(mask)
        weights = jax.nn.softmax(scores, axis=-1)
        return jnp.einsum("bhst,bthk->bshk", weights, v).reshape(2, 5, 8)

    def ours(q, k, v, table):
        return attention.attend(q, k, v, (table, padding_bias(mask)), ctx)

    args = [normal(2, 5, 8, seed=i) for i in range(3)]
    assert_same_gradients(ours, plain, *args, normal(1, 2, 5, 5, seed=3))


@pytest.mark.parametrize("kind", list(FeedForward))
def test_mlp_equals_the_formula(ctx, kind):
    mlp = MLP(4, 6, kind=kind, rngs=nnx.Rngs(0))
    x = normal(3, 4)
    if kind is FeedForward.RELU:
        hidden = jax.nn.relu(x @ mlp.wi.kernel[...])
    else:
        gate = jax.nn.silu if kind is FeedForward.GATED_SILU else jax.nn.gelu
        hidden = gate(x @ mlp.wi_0.kernel[...]) * (x @ mlp.wi_1.kernel[...])
    np.testing.assert_allclose(mlp(x, ctx), hidden @ mlp.wo.kernel[...], atol=1e-5)


def plain_attention(layer, x, memory, bias):
    """Attend in one row: x (S, D), memory (T, D), bias (H, S, T)."""
    heads, width = layer.num_heads, layer.d_kv
    q, k, v = (
        np.asarray(a @ part.kernel[...]).reshape(-1, heads, width)
        for a, part in ((x, layer.q), (memory, layer.k), (memory, layer.v))
    )
    scores = np.einsum("shk,thk->hst", q, k) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("hst,thk->shk", weights, v).reshape(len(x), -1)
    return mixed @ np.asarray(layer.o.kernel[...])


def test_attention_over_segments_equals_attention_row_by_row(ctx):
    layer = Attention(8, 2, 4, rngs=nnx.Rngs(0))
    segments = ((2, 3), (1, 5))
    x = normal(11, 8)
    bias = [normal(1, 2, 3, 3, seed=1), normal(1, 2, 5, 5, seed=2)]
    y = np.asarray(layer(x, ctx, segments=segments, bias=bias))
    rows = [(0, 3, 0), (3, 6, 0), (6, 11, 1)]
    for start, stop, i in rows:
        expected = plain_attention(layer, x[start:stop], x[start:stop], np.asarray(bias[i][0]))
        np.testing.assert_allclose(y[start:stop], expected, atol=1e-5)


def test_cross_attention_reads_the_memory_of_its_row(ctx):
    layer = Attention(8, 2, 4, rngs=nnx.Rngs(0))
    x, memory = normal(6, 8), normal(4, 8, seed=1)
    y = layer(x, ctx, segments=((2, 3),), bias=[None], memory=memory, memory_segments=((2, 2),))
    expected = plain_attention(layer, x[3:], memory[2:], 0.0)
    np.testing.assert_allclose(y[3:], expected, atol=1e-5)


def test_joining_segments_inverts_splitting():
    x = normal(11, 2)
    parts = split_segments(x, ((2, 3), (1, 5)))
    assert [p.shape for p in parts] == [(2, 3, 2), (1, 5, 2)]
    np.testing.assert_array_equal(join_segments(parts), x)


def test_masks_allow_earlier_and_real_positions():
    assert (np.asarray(causal_bias(3))[0, 0] == 0).tolist() == np.tri(3, dtype=bool).tolist()
    bias = padding_bias(jnp.asarray([[1.0, 0.0]]))
    assert bias.shape == (1, 1, 1, 2) and bias[0, 0, 0, 0] == 0 and bias[0, 0, 0, 1] < -1e8


def torch_buckets(distance, bidirectional, num_buckets=32, max_distance=128):
    """Return the bucket of one distance (key - query) by T5's definition."""
    out, n = 0, -distance
    if bidirectional:
        num_buckets //= 2
        out += num_buckets if n < 0 else 0
        n = abs(n)
    else:
        n = max(n, 0)
    exact = num_buckets // 2
    if n < exact:
        return out + n
    far = exact + int(np.log(n / exact) / np.log(max_distance / exact) * (num_buckets - exact))
    return out + min(far, num_buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_buckets_equal_the_definition_of_t5(bidirectional):
    distance = np.arange(-200, 201)[None]
    got = relative_buckets(distance, 32, 128, bidirectional)[0]
    assert got.tolist() == [torch_buckets(int(d), bidirectional) for d in distance[0]]


def test_relative_bias_depends_on_distance_only(ctx):
    bias = RelativeBias(
        2, num_buckets=8, max_distance=16, bidirectional=True, std=1.0, rngs=nnx.Rngs(0)
    )(5, 5, ctx)
    assert bias.shape == (1, 2, 5, 5)
    np.testing.assert_array_equal(bias[0, :, 0, 2], bias[0, :, 2, 4])
    assert not np.allclose(bias[0, :, 0, 2], bias[0, :, 2, 0])
