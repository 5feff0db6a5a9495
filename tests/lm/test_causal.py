"""The common part of Llama and Phi: padding, packing, caches, remat, losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.nn.bias import SHARED
from flaxae.nn.stack import unstacked
from tests.tiny.language_models import KINDS, context, random_ids, tiny

pytestmark = pytest.mark.parametrize("kind", KINDS)


@jax.jit
def run(model, ids, kwargs):
    return model(ids, context(), **kwargs)


def scores(model, ids, **kwargs):
    return np.asarray(run(model, ids, kwargs))


def test_padding_on_either_side_does_not_change_the_logits(kind):
    model, ids = tiny(kind), random_ids(2, 9)
    want = scores(model, ids)
    for side in ("left", "right"):
        gap = (4, 0) if side == "left" else (0, 4)
        wide = jnp.pad(ids, ((0, 0), gap), constant_values=7)
        mask = jnp.pad(jnp.ones((2, 9)), ((0, 0), gap))
        have = scores(model, wide, mask=mask)[:, gap[0] : gap[0] + 9]
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-5)
    assert want.std() > 0.1 and want.dtype == np.float32


def test_packed_sequences_do_not_attend_to_each_other(kind):
    model = tiny(kind)
    a, b = random_ids(1, 4, 1), random_ids(1, 6, 2)
    packed = jnp.concatenate([a, b, jnp.zeros((1, 2), jnp.int32)], axis=1)
    have = scores(model, packed, segment_ids=jnp.asarray([[1] * 4 + [2] * 6 + [0] * 2]))
    np.testing.assert_allclose(have[:, :4], scores(model, a), rtol=0, atol=1e-5)
    np.testing.assert_allclose(have[:, 4:10], scores(model, b), rtol=0, atol=1e-5)
    assert abs(scores(model, packed)[:, 4:10] - have[:, 4:10]).max() > 1e-2


def test_packed_sequences_attend_to_their_shared_prefix(kind):
    model = tiny(kind)
    begin, a, b = random_ids(1, 3, 0), random_ids(1, 4, 1), random_ids(1, 6, 2)
    packed = jnp.concatenate([begin, a, b, jnp.zeros((1, 2), jnp.int32)], axis=1)
    segments = jnp.asarray([[SHARED] * 3 + [1] * 4 + [2] * 6 + [0] * 2])
    have = scores(model, packed, segment_ids=segments)
    first = scores(model, jnp.concatenate([begin, a], axis=1))
    second = scores(model, jnp.concatenate([begin, b], axis=1))
    np.testing.assert_allclose(have[:, :7], first, rtol=0, atol=1e-5)
    np.testing.assert_allclose(have[:, 7:13], second[:, 3:], rtol=0, atol=1e-5)


def test_attention_is_causal(kind):
    model, ids = tiny(kind), random_ids(2, 8)
    a, b = scores(model, ids), scores(model, ids.at[:, 5].add(1))
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    assert (abs(a - b).max(axis=(0, 2))[5:] > 1e-4).all()


@pytest.mark.parametrize("unroll", [False, True])
def test_cached_equals_uncached(kind, unroll):
    model, ids = tiny(kind), random_ids(2, 9)
    mask = jnp.ones((2, 9)).at[0, :3].set(0)
    want = scores(model, ids, mask=mask)
    positions = jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1, 0)
    keys = jnp.pad(mask, ((0, 0), (0, 2)), constant_values=1)
    cache = model.init_cache(2, 11)
    cache, blocks = (unstacked(cache), unstacked(model.blocks)) if unroll else (cache, None)

    @jax.jit
    def part(cache, ids, positions, start):
        options = {"positions": positions, "keys": keys, "blocks": blocks}
        x, cache = model.cached_states(ids, context(), cache, start, **options)
        return model.logits(x, context()), cache

    have = []
    for start, stop in ((0, 6), (6, 7), (7, 8), (8, 9)):
        at = slice(start, stop)
        logits, cache = part(cache, ids[:, at], positions[:, at], jnp.int32(start))
        have.append(np.asarray(logits))
    real = np.asarray(mask) == 1
    np.testing.assert_allclose(np.concatenate(have, axis=1)[real], want[real], rtol=0, atol=1e-5)


def test_remat_and_unrolling_do_not_change_gradients(kind):
    def grads(**fields):
        graphdef, state = nnx.split(tiny(kind, **fields))
        ids = random_ids(2, 8)

        def loss(state):
            model = nnx.merge(graphdef, state)
            x = model.states(ids[:, :-1], context())
            return model.loss(x, ids[:, 1:], jnp.ones((2, 7)), context())[0]

        return nnx.to_pure_dict(jax.jit(jax.grad(loss))(state))

    plain = grads()
    assert min(float(abs(x).max()) for x in jax.tree.leaves(plain)) > 0
    for other in (grads(remat=True, scan_unroll=3), grads(remat=True, remat_keep="products")):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, other
        )
    with pytest.raises(ConfigError, match="remat_keep='all' is not one of: nothing, products"):
        tiny(kind, remat_keep="all")


def test_chunked_loss_equals_the_plain_one(kind):
    model, ids = tiny(kind), random_ids(2, 9)
    weights = jnp.ones((2, 8)).at[1, 5:].set(0)
    x = jax.random.normal(jax.random.key(1), (2, 8, model.config.d_model))

    def loss(x, chunks):
        return model.loss(x, ids[:, 1:], weights, context(), chunks)[0]

    both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    whole, chunked = both(x, 0), both(x, 4)
    np.testing.assert_allclose(whole[0], chunked[0], rtol=1e-5)
    np.testing.assert_allclose(whole[1], chunked[1], rtol=1e-4, atol=1e-6)


def test_bfloat16_logits_are_float32_and_close(kind):
    ids = random_ids(2, 8)
    want, model = scores(tiny(kind), ids), tiny(kind, dtype="bfloat16")
    graphdef, state = nnx.split(model)
    small = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    for m in (model, small):  # float32 and bfloat16 weights
        have = scores(m, ids)
        assert have.dtype == np.float32 and np.corrcoef(have.ravel(), want.ravel())[0, 1] > 0.99


def test_large_queries_and_keys_stay_finite(kind):
    model = tiny(kind, dtype="bfloat16")
    for name in ("q_proj", "k_proj"):
        kernel = getattr(model.blocks.self_attn, name).kernel
        kernel[...] = kernel[...] * 1e4
    assert np.isfinite(scores(model, random_ids(1, 8))).all()


def test_invalid_sizes_raise_and_name_the_field(kind):
    with pytest.raises(ConfigError, match=r"lm\.num_heads=5 .* num_kv_heads"):
        tiny(kind, num_heads=5)
    with pytest.raises(ConfigError, match=r"lm\.dtype='float16' is not one of"):
        tiny(kind, dtype="float16")
    with pytest.raises(ConfigError, match="mask or segment_ids, not both"):
        tiny(kind)(random_ids(1, 2), context(), mask=jnp.ones((1, 2)), segment_ids=jnp.ones((1, 2)))


def test_dropout_depends_on_the_key_and_only_in_training(kind):
    model, ids = tiny(kind, attention_dropout=0.5), random_ids(2, 8)
    want = scores(tiny(kind), ids)
    np.testing.assert_allclose(scores(model, ids), want, rtol=0, atol=1e-6)
    a, b = (np.asarray(model(ids, context(train=True))) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert abs(a - want).max() > 1e-2
