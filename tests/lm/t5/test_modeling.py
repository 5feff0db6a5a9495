"""T5: causality, padding, cached decoding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.decoding import mask_unused
from flaxae.errors import ConfigError
from flaxae.lm.t5.modeling import T5, T5Config, shift_right
from flaxae.nn.mlp import FeedForward
from flaxae.task import Context

SIZES: dict = dict(d_model=16, d_ff=32, d_kv=4, num_heads=2, vocab_size=24)


def config(kind=FeedForward.GATED_GELU, tie=False, **options):
    return T5Config(
        **SIZES,
        num_layers=2,
        num_decoder_layers=3,
        feed_forward=kind,
        tie_embeddings=tie,
        **options,
    )


@pytest.fixture
def ctx():
    return Context(key=jax.random.key(0), step=jnp.int32(0))


@pytest.fixture(params=["v1.0", "v1.1"], scope="module")
def t5(request):
    v10 = request.param == "v1.0"
    kind = FeedForward.RELU if v10 else FeedForward.GATED_GELU
    return T5(config(kind, v10), rngs=nnx.Rngs(0))


@partial(nnx.jit, static_argnames="train")
def encode(t5, ids, train=False):
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0), train=train)
    rows, length = ids.shape
    mask = (ids != 0).astype(jnp.float32)
    x = t5.embedding(ids.reshape(-1), ctx)
    x = t5.encoder(x, ctx, segments=((rows, length),), masks=[mask])
    return x.reshape(rows, length, -1), mask


@nnx.jit
def decode(t5, memory, mask, ids):
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))
    rows, length = ids.shape
    x = t5.decoder(
        t5.embedding(shift_right(ids).reshape(-1), ctx),
        ctx,
        segments=((rows, length),),
        memory=memory.reshape(-1, memory.shape[-1]),
        memory_segments=((rows, memory.shape[1]),),
        memory_masks=[mask],
    )
    return t5.logits(x, ctx).reshape(rows, length, -1)


IDS = jnp.asarray([[3, 4, 5, 1, 0, 0], [7, 8, 9, 10, 11, 1]], jnp.int32)


def test_padding_does_not_change_the_outputs(t5):
    states, mask = encode(t5, IDS)
    longer = jnp.pad(IDS, ((0, 0), (0, 3)))
    padded, padded_mask = encode(t5, longer)
    real = np.asarray(mask, bool)
    np.testing.assert_allclose(padded[:, :6][real], states[real], atol=1e-5)
    a = decode(t5, states, mask, IDS)
    b = decode(t5, padded, padded_mask, longer)
    np.testing.assert_allclose(a, b[:, :6], atol=1e-5)


def test_the_decoder_is_causal(t5):
    states, mask = encode(t5, IDS)
    a = decode(t5, states, mask, IDS)
    b = decode(t5, states, mask, IDS.at[:, 3].set(20))
    np.testing.assert_allclose(a[:, :4], b[:, :4], atol=1e-5)  # position 4 reads id 3
    assert not np.allclose(a[:, 4], b[:, 4], atol=1e-3)


def test_cached_steps_equal_teacher_forcing(t5, ctx):
    states, mask = encode(t5, IDS)
    expected = decode(t5, states, mask, IDS)
    cache = nnx.jit(lambda t5, states: t5.decoder.init_cache(states, ctx, 8))(t5, states)
    inputs = shift_right(IDS)

    @nnx.jit
    def step(t5, cache, ids, i):
        x, cache = t5.decoder.step(t5.embedding(ids, ctx), ctx, cache, i, mask)
        return t5.logits(x, ctx), cache

    for i in range(IDS.shape[1]):
        logits, cache = step(t5, cache, inputs[:, i], jnp.int32(i))
        np.testing.assert_allclose(logits, expected[:, i], atol=1e-5)


def test_chunked_loss_equals_the_plain_one(t5, ctx):
    x = jax.random.normal(ctx.key, (10, 16))
    targets, weights = jnp.arange(10), jnp.ones(10).at[3].set(0)

    @nnx.jit
    def both(t5):
        return tuple(t5.loss(x, targets, weights, ctx, chunks) for chunks in (0, 3))

    plain, chunked = both(t5)
    np.testing.assert_allclose(plain, chunked, rtol=1e-6)


def test_dropout_is_only_applied_in_training():
    noisy = T5(config(dropout=0.3), rngs=nnx.Rngs(0))
    a, _ = encode(noisy, IDS)
    np.testing.assert_array_equal(a, encode(noisy, IDS)[0])
    assert not np.allclose(a, encode(noisy, IDS, train=True)[0], atol=1e-2)


def test_bfloat16_scores_are_float32():
    low, high = (T5(config(dtype=kind), rngs=nnx.Rngs(0)) for kind in ("bfloat16", "float32"))
    scores = [decode(t5, *encode(t5, IDS), IDS) for t5 in (low, high)]
    assert scores[0].dtype == jnp.float32
    assert float(jnp.abs(scores[0] - scores[1]).max()) < 0.25
    assert {x.dtype for x in jax.tree.leaves(nnx.state(low))} == {jnp.dtype("float32")}


def test_ids_without_a_token_are_masked():
    logits = jnp.asarray([[0.0, 1.0, 5.0, 9.0]])
    assert int(mask_unused(logits, 3).argmax()) == 2
    assert mask_unused(logits, 4) is logits


def test_invalid_sizes_raise_and_name_the_field():
    with pytest.raises(ConfigError, match="num_heads"):
        T5Config(num_heads=0).validate()
    with pytest.raises(ConfigError, match="float16"):
        T5Config(dtype="float16").validate()
