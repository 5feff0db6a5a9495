"""A dictionary in a language model: exact ones change nothing, edits and ablations do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.activations import read
from flaxae.errors import ConfigError
from flaxae.sparse_autoencoder.modules import SAEConfig
from flaxae.sparse_autoencoder.parameters import build
from flaxae.sparse_autoencoder.splice import ablation, recovered, splice, splice_sums
from tests.tiny.language_models import context, random_ids, tiny

D, LAYER = 16, 1
MASK = np.ones((2, 7), np.float32)
MASK[0, 5:] = 0


def identity(transcoder=False):
    """Return a ReLU dictionary that gives back its input: one latent per sign of a feature."""
    both = np.concatenate([np.eye(D), -np.eye(D)]).astype(np.float32)
    fields = {"transcoder": True} if transcoder else {}
    config = SAEConfig(D, 2 * D, subtract_b_dec=False, **fields)
    arrays = {"w_enc": both.T, "w_dec": both, "b_enc": np.zeros(2 * D), "b_dec": np.zeros(D)}
    return build(config, arrays)


def test_an_exact_dictionary_recovers_all_cross_entropy():
    model, ids = tiny("llama"), random_ids(2, 7)

    graphdef, state = nnx.split(identity())

    @jax.jit
    def run(state, ids):
        sae, where = nnx.merge(graphdef, state), {"hook": "resid_out", "layer": LAYER}
        sums = splice_sums(model, sae, ids, jnp.asarray(MASK), **where, mean=jnp.ones(D))
        return sums, model(ids, context(), mask=jnp.asarray(MASK))

    exact, logits = run(state, ids)
    nothing, _ = run(jax.tree.map(jnp.zeros_like, state), ids)
    exact, nothing = map(recovered, (exact, nothing))
    np.testing.assert_allclose(exact["ce_recovered"], 1, atol=1e-3)
    np.testing.assert_allclose(exact["ce_spliced"], exact["ce_clean"], atol=1e-5)
    assert abs(exact["kl"]) < 1e-5 < nothing["kl"]
    # Direct: log p of the next real tokens.
    logits = np.asarray(logits)[:, :-1]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(logs, np.asarray(ids)[:, 1:, None], 2)[..., 0]
    weights = MASK[:, 1:] * MASK[:, :-1]
    np.testing.assert_allclose(
        exact["ce_clean"], -(chosen * weights).sum() / weights.sum(), rtol=1e-5
    )


def test_edits_change_only_the_chosen_tokens_and_the_error_is_kept():
    model, ids = tiny("phi"), random_ids(2, 7)
    where = jnp.asarray(np.eye(7, dtype=np.float32)[[2, 6]])
    sae = identity()
    sae.b_dec[...] = jnp.ones(D)  # no longer exact: the error is -1

    def states(taps):
        at = dataclasses.replace(context(), taps=taps)
        return model.states(ids, at)

    @jax.jit
    def run():
        clean = model.states(ids, context())
        kept = states(splice(model, sae, "resid_out", -1, error=True))

        def edit(f):
            return f.at[..., 0].add(5.0)

        edited = states(splice(model, sae, "resid_out", -1, edit=edit, error=True, where=where))
        mean = states(ablation(model, "resid_out", LAYER, mean=jnp.ones(D), where=where))
        replace = {("resid_out", LAYER): lambda x: jnp.where(where[..., None] > 0, 1.0, x)}
        same = states(read.recorder(model, replace=replace))
        return clean, kept, edited, mean, same

    clean, kept, edited, mean, same = run()
    np.testing.assert_allclose(kept, clean, atol=1e-5)
    moved = np.abs(np.asarray(edited - clean)).max(-1) > 1e-3
    np.testing.assert_array_equal(moved, np.asarray(where) > 0)
    np.testing.assert_allclose(mean, same, atol=1e-6)


def test_a_transcoder_reads_one_hook_and_replaces_another():
    """With mlp_out replaced by mlp_in, the states are those of a model with that MLP."""
    model, ids = tiny("llama"), random_ids(2, 7)

    @jax.jit
    def run():
        taps = splice(model, identity(True), "mlp_in", LAYER, hook_out="mlp_out")
        at = dataclasses.replace(context(), taps=taps)
        spliced = model.states(ids, at)
        _, found = read.collect(model, ids, context(), hooks=["mlp_in"], layers=[LAYER])
        replace = {("mlp_out", LAYER): lambda _: found["mlp_in"][0]}
        return spliced, model.states(ids, context(taps=read.recorder(model, replace=replace)))

    spliced, want = run()
    np.testing.assert_allclose(spliced, want, atol=1e-5)


def test_taps_that_do_not_exist_or_come_too_late_are_refused():
    model, ids, mask = tiny("llama"), random_ids(2, 7), jnp.asarray(MASK)

    def sums(sae, **where):
        return jax.eval_shape(lambda: splice_sums(model, sae, ids, mask, layer=LAYER, **where))

    with pytest.raises(ConfigError, match="no tap blocks.typo.out: nothing is replaced"):
        sums(identity(), hook="blocks.typo.out")
    with pytest.raises(ConfigError, match="comes before"):
        sums(identity(True), hook="resid_out", hook_out="mlp_out")
    replace = {("blocks.typo.out", LAYER): jnp.zeros_like}
    with pytest.raises(ConfigError, match="nothing is replaced"):
        jax.eval_shape(lambda: model.states(ids, context(taps=read.recorder(
            model, replace=replace))))  # fmt: skip
