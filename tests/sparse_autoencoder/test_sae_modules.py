"""Forward passes equal numpy; selection without a sort; folding changes no output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.sparse_autoencoder import folding
from flaxae.sparse_autoencoder.centred import centred_product
from flaxae.sparse_autoencoder.jump import jump_relu, step
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig, SparseAutoencoder
from flaxae.sparse_autoencoder.top_k import batch_top_k_mask, kth_largest, top_k_mask
from tests.sparse_autoencoder.tiny_dictionaries import (
    CONFIGS,
    D,
    F,
    K,
    X,
    context,
    dictionary,
    reference,
)


@pytest.mark.parametrize("kind", CONFIGS)
def test_latents_and_output_equal_numpy(kind):
    sae = dictionary(kind)
    f, y = reference(sae, X)
    graphdef, state = nnx.split(sae)

    @jax.jit
    def run(state, x):
        sae = nnx.merge(graphdef, state)
        latents = sae.encode(x, context())
        return latents, sae.decode(latents, context(), x)

    latents, output = run(state, X)
    np.testing.assert_allclose(latents, f, rtol=0, atol=1e-5)
    np.testing.assert_allclose(output, y, rtol=0, atol=1e-5)


def test_batch_top_k_selects_over_the_batch_in_training_and_ignores_padding():
    sae = dictionary("batch_topk")
    weights = np.asarray([1.0, 1, 1, 0, 1, 1, 1], np.float32)

    @jax.jit
    def run(x, weights, k):
        ctx = context(train=True, **({} if k is None else {"k": k}))
        return sae.encode(x, ctx, weights), sae.pre_activations(x, ctx)

    f, z = (np.asarray(x) for x in run(X, weights, None))
    z = np.maximum(z, 0)
    kept = np.sort(np.delete(z, 3, axis=0).ravel())[::-1][: int(2.5 * 6)]
    assert not f[3].any() and (f > 0).sum() == 15
    np.testing.assert_array_equal(np.sort(f[f > 0])[::-1], kept)
    # A traced k of a sweep replaces the config's.
    assert (np.asarray(run(X, weights, np.float32(1.0))[0]) > 0).sum() == 6


def test_top_k_takes_k_entries_per_row_without_a_sort():
    z = np.random.default_rng(2).normal(size=(2, 3, 40)).astype(np.float32)
    select = jax.jit(top_k_mask, static_argnums=1)
    mask = np.asarray(select(z, 5))
    assert mask.shape == z.shape and (mask.sum(-1) == 5).all()
    np.testing.assert_array_equal(np.sort(z[mask].reshape(6, 5)), np.sort(z.reshape(6, 40))[:, -5:])
    assert (np.asarray(select(z, 5, np.int32(2))).sum(-1) == 2).all()
    assert (np.asarray(select(np.ones_like(z), 5)).sum(-1) == 5).all()  # equal entries
    for select in (lambda z: top_k_mask(z, 5), lambda z: batch_top_k_mask(z, 5.0)):
        assert " sort(" not in jax.jit(select).lower(z).compile().as_text()


def test_kth_largest_is_exact():
    values = jnp.asarray(np.random.default_rng(3).exponential(size=(9, 11)).astype(np.float32))
    ordered = np.sort(np.asarray(values).ravel())[::-1]
    find = jax.jit(kth_largest)
    for count in (1, 7, 50, 99):
        assert find(values, jnp.int32(count)) == ordered[count - 1]
    assert find(values, jnp.int32(100)) == 0


def test_thresholds_have_rectangular_straight_through_gradients():
    z = jnp.asarray([[0.9, 1.04, 0.5], [1.01, 3.0, 0.49]])
    threshold, width = jnp.asarray([1.0, 1.0, 0.5]), 0.1
    of_jump = jax.jit(jax.grad(lambda z, t: 2 * jump_relu(z, t, width).sum(), (0, 1)))
    dz, dt = of_jump(z, threshold)
    np.testing.assert_allclose(dz, [[0, 2, 0], [2, 2, 0]])
    # -threshold / width per entry within half a width of the threshold, times the gradient
    np.testing.assert_allclose(dt, [-20, -20, -20], rtol=1e-6)
    of_step = jax.jit(jax.grad(lambda z, t: step(z, t, width).sum(), (0, 1)))
    dz, dt = of_step(z, threshold)
    assert not np.asarray(dz).any()
    np.testing.assert_allclose(dt, [-10, -10, -20], rtol=1e-6)


@pytest.mark.parametrize("kind", [k for k in CONFIGS if k not in ("constant_norm", "layer_norm")])
def test_a_folded_factor_gives_the_same_outputs(kind):
    sae, (factor, out) = dictionary(kind), (3.0, 0.5)
    out = out if sae.config.transcoder else factor
    # By numpy, which the modules equal (above): thresholds are part of the comparison.
    want_f, want_y = reference(sae, X * factor)
    f, y = reference(folding.fold_factor(sae, factor, out), X)
    np.testing.assert_allclose(y, want_y / out, rtol=0, atol=1e-5)
    assert f.any()
    np.testing.assert_array_equal(f > 0, want_f > 0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_folded_decoder_norms_give_the_same_outputs(kind):
    sae = dictionary(kind)
    chosen = sae.config.activation in (Activation.TOPK, Activation.GROUPMAX)
    if chosen and not sae.config.rescale_by_decoder_norm:
        with pytest.raises(ConfigError, match="other latents would be selected"):
            folding.fold_decoder_norms(sae)
        return
    folded = folding.fold_decoder_norms(sae)
    np.testing.assert_allclose(np.linalg.norm(folded.w_dec[...], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(reference(folded, X)[1], reference(sae, X)[1], rtol=0, atol=1e-5)


def test_batch_top_k_equals_its_jump_relu():
    sae = dictionary("batch_topk")
    other = folding.as_jump_relu(sae)
    assert other.config.activation is Activation.JUMPRELU and other.threshold[...].shape == (F,)
    np.testing.assert_allclose(reference(other, X)[1], reference(sae, X)[1], rtol=0, atol=1e-5)


def test_a_new_dictionary_has_tied_directions_of_the_given_norm():
    config = SAEConfig(D, F, activation=Activation.TOPK, k=K)
    sae = SparseAutoencoder(config, rngs=nnx.Rngs(0), decoder_norm=0.1)
    np.testing.assert_allclose(sae.decoder_norms(), 0.1, rtol=1e-5)
    np.testing.assert_array_equal(sae.w_enc[...], sae.w_dec[...].T)


def test_configs_that_do_not_fit_raise():
    for fields, message in (
        ({"activation": Activation.TOPK}, "k=0 is not between"),
        ({"activation": Activation.TOPK, "k": 1.5}, "not an integer"),
        ({"activation": Activation.GROUPMAX, "k": 5}, "has no 5 groups"),
        ({"skip": True}, "only a transcoder has a skip"),
        ({"d_out": 3}, "only a transcoder has another d_out"),
        ({"transcoder": True}, "subtracts no decoder bias"),
    ):
        with pytest.raises(ConfigError, match=message):
            SAEConfig(D, F, **fields)
    sae = dictionary("skip_transcoder")
    with pytest.raises(ConfigError, match="decode needs the input x"):
        sae.decode(jnp.zeros((1, F)), context())
    with pytest.raises(ConfigError, match="it has no factor"):
        folding.fold_factor(dictionary("layer_norm"), 2.0)
    assert SAEConfig(D, F).d_out == D


def test_the_gradient_of_the_decoder_bias_needs_no_matmul_of_all_rows():
    rows, d, f = 64, 16, 128
    x, w = jnp.ones((rows, d)), jnp.full((d, f), 0.1)
    bias = jnp.arange(d, dtype=jnp.float32)

    def plain(b, w):
        return jnp.sum(jnp.sin((x - b[None]) @ w))

    def ours(b, w):
        return jnp.sum(jnp.sin(centred_product(x, b, w)))

    both = [jax.jit(jax.grad(g, (0, 1))).lower(bias, w).compile() for g in (plain, ours)]
    for a, b in zip(both[0](bias, w), both[1](bias, w), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4)
    flops = [program.cost_analysis()["flops"] for program in both]
    assert flops[1] < flops[0] - 1.5 * rows * d * f
    of_x = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(centred_product(x, bias, w)))))(x)
    want = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin((x - bias[None]) @ w))))(x)
    np.testing.assert_allclose(of_x, want, rtol=2e-4, atol=1e-4)
