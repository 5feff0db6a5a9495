"""The Funnel AE: lengths, sharing, skips that no evaluation sees, codes of several blocks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.data.tokenizer import EOS, PAD
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.models.funnel_ae.latents import Bottleneck, LatentConfig
from flaxae.models.funnel_ae.modeling import FunnelAEModel
from flaxae.models.funnel_ae.skips import Skip, SkipConfig
from flaxae.models.funnel_ae.upsampling import Upsampling
from flaxae.task import Context, Taps

FUNNEL = FunnelConfig(
    vocab_size=20,
    d_model=8,
    d_ff=12,
    num_heads=2,
    d_head=4,
    block_sizes=(1, 2, 1),
    separate_cls=False,
)
CTX = Context(key=jax.random.key(0), step=jnp.int32(0))
IDS = jnp.asarray([[5, 6, 7, 8, 9, 10, EOS, PAD], [4, 3, EOS, PAD, PAD, PAD, PAD, PAD]])


def model(latent=None, *, skip=None, share=False, upsampling=Upsampling.HAAR, funnel=FUNNEL):
    return FunnelAEModel(
        funnel,
        latent or LatentConfig(dim=4),
        8,
        upsampling=upsampling,
        skip=skip or SkipConfig(),
        share=share,
        rngs=nnx.Rngs(params=0, frozen=1),
    )


@functools.partial(jax.jit, static_argnums=0)
def _decoded(graph, state, step, train):
    ae = nnx.merge(graph, state)
    ctx = Context(key=jax.random.key(0), step=step, train=True)
    encoded = ae.encoded(IDS, ctx)
    z, _ = ae.posterior(encoded, ctx)
    trained = ae.decode(z, ctx, encoded)[0]
    evaluated = ae.decode(z, dataclasses.replace(ctx, train=False), encoded)[0]
    return jnp.where(train, trained, evaluated)


def test_hidden_lengths_are_8_4_2_and_back():
    ae = model()
    taps = Taps(collect=lambda path: path.endswith("upsampled"))
    ctx = dataclasses.replace(CTX, taps=taps)

    @jax.jit
    def run():
        encoded = ae.encoded(IDS, ctx)
        states, _ = ae.decode(ae.posterior(encoded, ctx)[0], ctx)
        return [row.states.shape[1] for row in encoded.blocks], states

    jax.eval_shape(run)
    encoded = jax.eval_shape(lambda: [row.states for row in ae.encoded(IDS, CTX).blocks])
    assert [x.shape[1] for x in encoded] == [8, 4, 2]
    lengths = {path: x.shape[1] for path, x in taps.collected.items()}
    assert lengths == {
        "decoder.blocks.2.upsampled": 4,
        "decoder.blocks.1.upsampled": 8,
    }


@pytest.mark.parametrize(
    "skip",
    [
        SkipConfig(kind=Skip.LINEAR, finish_by=(10, 20)),
        SkipConfig(kind=Skip.SIGMOID, bias=(1.0, 1.0), slope=(0.1, 0.1)),
    ],
)
def test_skip_weights_change_training_but_no_evaluation_and_never_recompile(skip):
    graph, state = nnx.split(model(skip=skip))
    before = _decoded._cache_size()
    trained = [_decoded(graph, state, jnp.int32(s), True) for s in (0, 5, 40)]
    evaluated = [_decoded(graph, state, jnp.int32(s), False) for s in (0, 5, 40)]
    assert _decoded._cache_size() == before + 1
    assert float(jnp.abs(trained[0] - trained[1]).max()) > 1e-3
    for x in evaluated[1:]:
        np.testing.assert_array_equal(evaluated[0], x)
    if skip.kind is Skip.LINEAR:
        np.testing.assert_allclose(trained[2], evaluated[2], atol=1e-6)


def test_a_residual_skip_starts_at_0():
    graph, state = nnx.split(model(skip=SkipConfig(kind=Skip.RESIDUAL)))
    step = jnp.int32(3)
    np.testing.assert_array_equal(
        _decoded(graph, state, step, True), _decoded(graph, state, step, False)
    )


def test_shared_weights_have_the_sum_of_both_gradients():
    small = dataclasses.replace(FUNNEL, block_sizes=(1, 1))
    shared, apart = model(share=True, funnel=small), model(funnel=small)
    params = nnx.to_pure_dict(nnx.state(shared, nnx.Param))
    graph, state = nnx.split(apart)
    own = nnx.to_pure_dict(state)
    own = {**params, "decoder": {**params["decoder"], "blocks": params["encoder"]["blocks"]}}
    nnx.replace_by_pure_dict(state, own)

    def loss(ae):
        z, _ = ae.posterior(ae.encoded(IDS, CTX), CTX)
        return jnp.sum(jnp.square(ae.logits(ae.decode(z, CTX)[0], CTX)[:, :3]))

    @jax.jit
    def grads(state):
        return jax.grad(lambda s: loss(nnx.merge(graph, s)))(state)

    shared_graph, shared_state = nnx.split(shared)
    both = jax.jit(jax.grad(lambda s: loss(nnx.merge(shared_graph, s))))(shared_state)
    both, one = nnx.to_pure_dict(both), nnx.to_pure_dict(grads(state))
    want = jax.tree.map(lambda a, b: a + b, one["encoder"]["blocks"], one["decoder"]["blocks"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        both["encoder"]["blocks"],
        want,
    )


@pytest.mark.parametrize(
    "latent, shape",
    [
        (LatentConfig(dim=4), (2, 4)),
        (LatentConfig(dim=0), (2, 8)),
        (LatentConfig(dim=4, kind=Bottleneck.KL, weight=1.0), (2, 4)),
        (LatentConfig(dim=4, block_dims=(1, 0)), (1, 16)),
        (LatentConfig(dim=4, block_dims=(1, 2)), (1, 24)),
    ],
)
def test_codes_have_the_size_that_the_model_reports(latent, shape):
    ae = model(latent)
    assert (ae.num_latents, ae.dim) == shape
    z = jax.eval_shape(lambda: ae.encode([IDS], CTX))
    assert z.shape == (2, *shape) and z.dtype == jnp.float32
    made = jax.eval_shape(lambda z: ae.generate(z, CTX), z)
    assert made.shape == (2, 8)


def test_generated_rows_end_at_eos_and_contain_no_other_padding():
    ae = model()
    z = jax.random.normal(jax.random.key(4), (64, 2, 4)) * 3
    ids = np.asarray(jax.jit(lambda z: ae.generate(z, CTX, 12))(z))
    assert ids.max() < 12
    for row in ids:
        end = list(row).index(EOS) if EOS in row else 8
        assert (row[:end] != PAD).all() and (row[end + 1 :] == PAD).all()


def test_padding_and_shorter_rows_give_the_same_code():
    ae = model()
    encode = jax.jit(lambda ids: ae.encode([ids], CTX))
    np.testing.assert_allclose(encode(IDS[1:]), encode(IDS[1:, :4]), atol=1e-6)
