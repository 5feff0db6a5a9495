"""Losses and gradients equal short numpy references; known bugs of other projects do not occur."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.models.sae import losses, reconstruction
from flaxae.models.sae.options import Architecture, Auxiliary, Gate, LossOptions, Sparsity
from flaxae.sparse_autoencoder.importance import importance_weights, important_features
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig
from flaxae.sparse_autoencoder.parameters import build, values
from tests.sparse_autoencoder.tiny_dictionaries import TRANSCODER, D, F, K, X, arrays, context

W = np.asarray([1, 1, 0, 1, 0.5, 1, 1], np.float32)  # one row is padding
DEAD = np.arange(F) % 3 == 0
LAMBDA, WARMUP, STEP = 0.3, 10, 5  # half of the weight
SIZES = {"d_in": D, "d_sae": F}
CASES = {
    "standard": (Architecture.STANDARD, {"subtract_b_dec": False}, {}),
    "tied_bias": (Architecture.TIED_BIAS, {}, {}),
    "topk_openai": (Architecture.TOPK, {"activation": Activation.TOPK, "k": K}, {"k_aux": 2}),
    "topk_saelens": (
        Architecture.TOPK,
        {"activation": Activation.TOPK, "k": K, "rescale_by_decoder_norm": True},
        # k_aux is more than the 8 dead ones.
        {"auxiliary": Auxiliary.SAELENS, "k_aux": 12, "auxiliary_weight": 0.5},
    ),
    "batch_topk": (
        Architecture.BATCH_TOPK,
        {"activation": Activation.BATCH_TOPK, "k": K},
        {"auxiliary": Auxiliary.NONE},
    ),
    "matryoshka": (
        Architecture.MATRYOSHKA,
        {"activation": Activation.BATCH_TOPK, "k": K, "rescale_by_decoder_norm": True},
        {"auxiliary": Auxiliary.NONE, "widths": (4, 10, F)},
    ),
    "jumprelu": (Architecture.JUMPRELU, {"activation": Activation.JUMPRELU, "bandwidth": 0.7}, {}),
    "jumprelu_quadratic": (
        Architecture.JUMPRELU,
        {"activation": Activation.JUMPRELU, "bandwidth": 0.7},
        {"jump": Sparsity.QUADRATIC, "target_l0": 3.0},
    ),
    "jumprelu_tanh": (
        Architecture.JUMPRELU,
        {"activation": Activation.JUMPRELU, "bandwidth": 0.7},
        {"jump": Sparsity.TANH, "pre_activation": 0.2},
    ),
    "gated": (Architecture.GATED, {"activation": Activation.GATED}, {}),
    "gated_saelens": (
        Architecture.GATED,
        {"activation": Activation.GATED},
        {"gate": Gate.SAELENS},
    ),
    "skip_transcoder": (Architecture.SKIP_TRANSCODER, TRANSCODER | {"skip": True}, {}),
}


def case(name):
    architecture, fields, options = CASES[name]
    sae = build(config := SAEConfig(**SIZES | fields), arrays(config))
    options = LossOptions(sparsity=LAMBDA, sparsity_warmup=WARMUP, **options)
    options.validate()
    target = X if not config.transcoder else X[:, :5] * 2
    return sae, architecture, options, target


def step_context():
    return dataclasses.replace(context(train=True), step=jnp.int32(STEP))


def relu(x):
    return np.maximum(x, 0)


def reference(name, p, q, x, target, w):
    """Return the loss of parameters p; what has no gradient is computed from parameters q."""
    architecture, fields, options = CASES[name]
    c = SAEConfig(**SIZES | fields)

    def forward(p, mask=None):
        norms = np.linalg.norm(p["w_dec"], axis=1)
        rescale = norms if c.rescale_by_decoder_norm else 1.0
        z = ((x - p["b_dec"] if c.subtract_b_dec else x) @ p["w_enc"] + p["b_enc"]) * rescale
        if mask is None:
            mask = np.ones_like(z, bool)
            if c.activation is Activation.TOPK:
                mask = z >= np.sort(z, -1)[:, -K][:, None]
            if c.activation is Activation.BATCH_TOPK:
                kept = relu(z) * (w > 0)[:, None]
                mask = kept >= np.sort(kept.ravel())[-K * int((w > 0).sum())]
            if c.activation is Activation.JUMPRELU:
                mask = z > p["threshold"]
            if c.activation is Activation.GATED:
                mask = z > 0
        if c.activation is Activation.GATED:
            f = mask * relu((z - p["b_enc"]) * np.exp(p["r_mag"]) + p["b_mag"])
        else:
            f = mask * relu(z)
        y = f / rescale @ p["w_dec"] + p["b_dec"]
        return z, f, y + (x @ p["w_skip"] if c.skip else 0), norms, rescale, mask

    z_q, _, y_q, *_, mask = forward(q)
    z, f, y, norms, rescale, _ = forward(p, mask)

    def rows(error: np.ndarray) -> float:
        return float((error * w).sum())

    def square(error: np.ndarray) -> float:
        return rows((error**2).sum(-1))

    total, weight = square(y - target), LAMBDA * STEP / WARMUP
    if c.activation is Activation.RELU:
        scale = 1.0 if architecture is Architecture.TIED_BIAS else norms
        total += weight * rows((f * scale).sum(-1))
    if c.activation is Activation.GATED:
        saelens = options.get("gate") is Gate.SAELENS
        total += weight * rows((relu(z) * (norms if saelens else 1)).sum(-1))
        decoder = p if saelens else q
        total += square(relu(z) @ decoder["w_dec"] + decoder["b_dec"] - target)
    if c.activation is Activation.JUMPRELU:
        if options.get("jump") is Sparsity.TANH:
            total += weight * rows(np.tanh(4 * f * norms).sum(-1))
            total += 0.2 * rows((relu(p["threshold"] - z) * DEAD * norms).sum(-1))
        elif options.get("jump") is Sparsity.QUADRATIC:
            total += weight * rows(2 / 3 * (mask.sum(-1) - 3) ** 2)
        else:
            total += weight * rows(mask.sum(-1))
    for width in options.get("widths", ())[:-1]:
        part = (f / rescale)[:, :width] @ p["w_dec"][:width] + p["b_dec"]
        total += square(part - target)
    if "k_aux" in options:
        e, k_aux = target - y_q, min(options["k_aux"], DEAD.sum())
        dead_z = np.where(DEAD, z_q, -np.inf)
        chosen = (dead_z >= np.sort(dead_z, -1)[:, -k_aux][:, None]) & DEAD
        saelens = options.get("auxiliary") is Auxiliary.SAELENS
        aux = np.where(chosen, z if saelens else relu(z), 0)
        missed = square(aux / rescale @ p["w_dec"] - e)
        if saelens:
            total += 0.5 * min(DEAD.sum() / options["k_aux"], 1) * missed
        else:
            centred = [v - (v * w[:, None]).sum(0) / w.sum() for v in (target, e)]
            total += missed / 32 * square(centred[0]) / square(centred[1])
    return total


def threshold_gradient(name, p, x, target, w):
    """Return the gradient of JumpReLU's thresholds: pseudo-derivatives inside of the window."""
    _, fields, options = CASES[name]
    z, norms = (x - p["b_dec"]) @ p["w_enc"] + p["b_enc"], np.linalg.norm(p["w_dec"], axis=1)
    width, weight, limit = fields["bandwidth"], LAMBDA * STEP / WARMUP, p["threshold"]
    f = np.where(z > limit, relu(z), 0)
    window = (np.abs(z - limit) < width / 2) / width
    of_f = 2 * (f @ p["w_dec"] + p["b_dec"] - target) @ p["w_dec"].T  # reconstruction
    of_step, direct = np.ones_like(z), np.zeros_like(z)
    if options.get("jump") is Sparsity.TANH:
        of_f += weight * 4 * norms * (1 - np.tanh(4 * f * norms) ** 2)
        of_step *= 0
        direct = 0.2 * DEAD * norms * (z < limit)
    if options.get("jump") is Sparsity.QUADRATIC:
        of_step *= 4 / 3 * ((f > 0).sum(-1, keepdims=True) - 3)
    each = -window * (limit * of_f + weight * of_step) + direct
    assert (window > 0).sum() > 20
    return (each * w[:, None]).sum(0)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_numpy(name):
    sae, architecture, options, target = case(name)
    graphdef, state = nnx.split(sae, nnx.Param, ...)[0], nnx.split(sae, nnx.Param, ...)[1:]

    def loss(params):
        model = nnx.merge(graphdef, params, *state[1:])
        dead = jnp.asarray(DEAD)
        args = (jnp.asarray(X), jnp.asarray(target), jnp.asarray(W), step_context())
        return losses.dictionary_loss(model, architecture, options, *args, dead=dead).total

    value, grads = jax.jit(jax.value_and_grad(loss))(state[0])
    p = {n: x.astype(np.float64) for n, x in values(sae).items()}
    x, y, w = (v.astype(np.float64) for v in (X, target, W))
    np.testing.assert_allclose(value, reference(name, p, p, x, y, w), rtol=2e-5)
    for parameter in nnx.to_pure_dict(grads):
        if parameter == "threshold":
            want = threshold_gradient(name, p, x, y, w)
            np.testing.assert_allclose(grads["threshold"][...], want, rtol=1e-4, atol=1e-4)
            continue
        direction = np.random.default_rng(5).normal(size=p[parameter].shape)
        ends = [
            reference(name, p | {parameter: p[parameter] + s * 1e-6 * direction}, p, x, y, w)
            for s in (1, -1)
        ]
        want = (ends[0] - ends[1]) / 2e-6
        got = float((np.asarray(grads[parameter][...]) * direction).sum())
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3, err_msg=parameter)


def test_the_quadratic_sparsity_loss_is_that_of_each_state():
    sae, *_ = case("jumprelu")
    args = (jnp.asarray(X), jnp.asarray(X), jnp.asarray(W), context(train=True))
    l0 = (np.asarray(sae.encode(X, context())) > 0).sum(1)
    for target in (l0.mean(), l0.mean() / 2):
        options = LossOptions(jump=Sparsity.QUADRATIC, target_l0=target)
        found = losses.dictionary_loss(sae, Architecture.JUMPRELU, options, *args)
        want = W @ (2 / target * (l0 - target) ** 2)  # of each state, not of their mean
        np.testing.assert_allclose(found.parts["sparsity"], want, rtol=1e-4, atol=1e-8)
    with pytest.raises(ConfigError, match="needs task.loss.target_l0"):
        LossOptions(jump=Sparsity.QUADRATIC).validate()
    with pytest.raises(ConfigError, match="must be increasing"):
        LossOptions(widths=(8, 4)).validate()


@pytest.mark.parametrize("auxiliary", [Auxiliary.OPENAI, Auxiliary.SAELENS])
def test_auxk_is_finite_with_any_number_of_dead_latents(auxiliary):
    sae, architecture, _, _ = case("topk_openai")
    options = LossOptions(auxiliary=auxiliary, k_aux=3)
    graphdef, state = nnx.split(sae)

    @jax.jit
    def run(state, dead):
        args = (jnp.asarray(X), jnp.asarray(X), jnp.asarray(W), context(train=True))

        def loss(state):
            model = nnx.merge(graphdef, state)
            found = losses.dictionary_loss(model, architecture, options, *args, dead=dead)
            return found.total, found.parts["auxk"]

        return jax.value_and_grad(loss, has_aux=True)(state)

    for count in (0, 1, 3, F):
        (total, auxk), grads = run(state, jnp.arange(F) < count)
        assert np.isfinite(total) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        assert (auxk > 0) == (count > 0)


def test_an_auxiliary_weight_of_zero_is_no_auxiliary_loss():
    sae, architecture, options, target = case("topk_openai")
    assert options.auxiliary_weight == 1  # times the project's own
    args = (jnp.asarray(X), jnp.asarray(target), jnp.asarray(W), context(train=True))
    for weight, names in ((1.0, {"recon", "auxk"}), (0.0, {"recon"})):
        own = dataclasses.replace(options, auxiliary_weight=weight)
        found = jax.eval_shape(
            lambda own=own: (
                losses.dictionary_loss(sae, architecture, own, *args, dead=jnp.asarray(DEAD)).parts
            )
        )
        assert set(found) == names


def test_fvu_of_a_data_set_equals_the_direct_computation():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(90, D)) * 3 + 100).astype(np.float32)  # a large mean
    x[:30] += 20  # batches differ: a mean of their values would be another number
    y = x + rng.normal(size=x.shape).astype(np.float32)
    weights = (np.arange(90) % 7 > 0).astype(np.float32)
    sums: dict = {}
    reconstruction_sums = jax.jit(reconstruction.reconstruction_sums)
    for part in range(3):
        rows = slice(30 * part, 30 * part + 30)
        args = (y[rows], x[rows], weights[rows], jnp.full(D, 99.0))
        new = jax.device_get(reconstruction_sums(*args))
        sums = jax.tree.map(lambda a, b: a + b, sums, new) if sums else new
    real, made = x[weights > 0].astype(np.float64), y[weights > 0]
    want = ((real - made) ** 2).sum() / ((real - real.mean(0)) ** 2).sum()
    np.testing.assert_allclose(reconstruction.fvu(sums), want, rtol=1e-4)
    assert np.isnan(reconstruction.fvu({n: (np.zeros(()), np.zeros(())) for n in sums}))


def test_importance_weighs_features_in_the_reconstruction():
    factors = jnp.asarray([[1.0, 1.5, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0]])
    weights = np.asarray(jax.jit(importance_weights)(factors))
    np.testing.assert_allclose(weights, [[0, 2, 2, 0], [1, 1, 1, 1]])
    together = jax.jit(lambda x: importance_weights(x, per_layer=False))(factors)
    np.testing.assert_allclose(together[0], [0, 4, 4, 0])
    signed = jnp.asarray([[0.1, -3.0, 2.0, 0.0], [0.0, 0.1, 0.0, -0.2]])
    choose = jax.jit(important_features, static_argnames=("share", "per_layer"))
    chosen = choose(signed, share=0.5)
    np.testing.assert_array_equal(chosen, [[0, 1, 1, 0], [0, 1, 0, 1]])
    chosen = choose(signed, share=0.25, per_layer=False)
    np.testing.assert_array_equal(chosen, [[0, 1, 1, 0], [0, 0, 0, 0]])
    x, y = jnp.ones((2, 4)), jnp.zeros((2, 4))
    error = reconstruction.squared_error(y, x, jnp.asarray([1.0, 0.5]), weights[0])
    np.testing.assert_allclose(error, 1.5 * 8)  # sum (importance * error)^2
    sae, architecture, options, _ = case("gated")

    @jax.jit
    def parts(importance):
        args = (jnp.asarray(X), jnp.asarray(X), jnp.asarray(W), step_context())
        return losses.dictionary_loss(
            sae, architecture, options, *args, importance=importance
        ).parts

    one, two = parts(jnp.ones(D)), parts(jnp.full(D, 2.0))
    for name, factor in {"recon": 4, "gate_recon": 4, "sparsity": 1}.items():
        np.testing.assert_allclose(two[name], factor * one[name], rtol=1e-5)
