"""Losses from the chosen latents alone equal those from all latents, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.models.sae import few_latents, losses
from flaxae.models.sae.options import Architecture, Auxiliary, LossOptions
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig
from flaxae.sparse_autoencoder.parameters import build
from tests.sparse_autoencoder.tiny_dictionaries import arrays, context

D, F, K, ROWS = 5, 96, 3, 11
X = np.random.default_rng(0).normal(size=(ROWS, D)).astype(np.float32)
W = np.asarray([1, 1, 0, 1, 0.5, 1, 1, 1, 1, 1, 1], np.float32)
# One row has all latents of batch top-k.
SKEWED = (X * np.where(np.arange(ROWS) == 5, 100, 1e-3)[:, None]).astype(np.float32)
TOPK = {"activation": Activation.TOPK, "k": K}
CASES = {
    "topk": (TOPK, {"k_aux": 4}),
    "topk_rescaled": (
        TOPK | {"rescale_by_decoder_norm": True},
        {"k_aux": 4, "auxiliary": Auxiliary.SAELENS},
    ),
    "batch_topk": (
        {"activation": Activation.BATCH_TOPK, "k": 4.0, "rescale_by_decoder_norm": True},
        {"auxiliary": Auxiliary.NONE},
    ),
    "transcoder": (TOPK | {"transcoder": True, "subtract_b_dec": False, "skip": True}, {}),
}


def make(case):
    """Return a function of (parameters, states, k, dead), and the parameters."""
    fields, options = CASES[case]
    sae = build(config := SAEConfig(D, F, **fields), arrays(config))
    graphdef, params, rest = nnx.split(sae, nnx.Param, ...)

    def run(params, x, k, dead):
        def loss(params):
            model = nnx.merge(graphdef, params, rest)
            at = (Architecture.TOPK, LossOptions(**options), x, x[:, ::-1], jnp.asarray(W))
            found = losses.dictionary_loss(model, *at, context(train=True, k=k), dead=dead)
            return found.total, found._replace(total=jnp.float32(0))

        return jax.value_and_grad(loss, has_aux=True)(params)

    return run, params


def assert_close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_few_latents_give_the_same_loss_and_gradient(case, monkeypatch):
    run, params = make(case)
    k = jnp.float32(CASES[case][0]["k"])
    some = jnp.arange(F) % 5 == 0
    inputs = [(X, k, some), (X, k - 1, some & False), (SKEWED, k, some)]
    program = jax.jit(run)
    few = [program(params, *at) for at in inputs]
    monkeypatch.setattr(few_latents, "supported", lambda *_: False)
    dense = jax.jit(lambda *at: run(*at))  # a new function: it is traced after the change
    for at, found in zip(inputs, few, strict=True):
        assert_close(found, dense(params, *at))
        assert found[0][1].activity.rows == ROWS - 1


@pytest.mark.parametrize("case", ["topk_rescaled", "batch_topk"])
def test_lanes_with_their_own_k_equal_single_runs(case):
    """One row has all latents of batch top-k: there is room for those of the smaller k alone."""
    run, params = make(case)
    ks, some = jnp.asarray([1.0, CASES[case][0]["k"]]), jnp.arange(F) % 5 == 0
    x = X if case == "topk_rescaled" else SKEWED
    lanes = jax.jit(jax.vmap(run, (None, None, 0, None)))(params, x, ks, some)
    program = jax.jit(run)
    if case == "batch_topk":
        sae = build(config := SAEConfig(D, F, **CASES[case][0]), arrays(config))
        fits = [
            few_latents.select(sae, jnp.asarray(x), jnp.asarray(W), context(train=True, k=k)).fits
            for k in ks
        ]
        assert fits[0] and not fits[1]
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], lanes)
        assert_close(one, program(params, x, ks[i], some))
