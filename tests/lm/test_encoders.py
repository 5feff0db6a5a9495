"""Hidden states of encoders by hook and layer; a model's MLP is a function of its mlp_in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.activations import read
from flaxae.lm.encoders import FunnelStates, T5States
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.lm.funnel.modeling import Funnel
from flaxae.lm.t5.blocks import T5Config
from flaxae.lm.t5.modeling import T5
from flaxae.task import Taps
from tests.tiny.language_models import KINDS, context, random_ids, tiny

MASK = jnp.ones((2, 8)).at[0, 5:].set(0)


def test_t5_states_of_chosen_layers_equal_plain_taps():
    config = T5Config(d_model=8, d_ff=12, d_kv=4, num_heads=2, num_layers=3, vocab_size=50)
    t5 = T5States(T5(config, rngs=nnx.Rngs(0)))
    ids = random_ids(2, 8)

    @jax.jit
    def run(ids):
        taps = Taps(collect=lambda path: True)
        plain = t5.states(ids, context(taps=taps), mask=MASK)
        final, states = read.collect(
            t5, ids, context(), hooks=list(t5.hooks), layers=[2, 0], mask=MASK
        )
        replace = {("mlp_out", 1): jnp.zeros_like}
        first = read.recorder(t5, ["resid_out"], [0, 1], replace=replace)
        first.stop = 2  # the last layer does not run
        t5.states(ids, context(taps=first), mask=MASK)
        return plain, taps.collected, final, states, first.states["resid_out"]

    plain, collected, final, states, first = run(ids)
    np.testing.assert_allclose(final, plain, rtol=0, atol=1e-6)
    for hook, path in t5.hooks.items():
        for place, layer in enumerate((2, 0)):
            want = collected[path][layer].reshape(2, 8, -1)
            np.testing.assert_allclose(states[hook][place], want, rtol=0, atol=1e-6, err_msg=hook)
    np.testing.assert_allclose(states["resid_in"][0], collected["encoder.blocks.out"][1].reshape(
        2, 8, 8), rtol=0, atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(first[0], states["resid_out"][1], rtol=0, atol=1e-6)
    without = collected["encoder.blocks.out"][1] - collected["encoder.blocks.mlp.wo.out"][1]
    np.testing.assert_allclose(first[1], without.reshape(2, 8, 8), rtol=0, atol=1e-6)


def test_funnel_states_of_blocks():
    config = FunnelConfig(
        d_model=8, d_ff=16, num_heads=2, d_head=4, vocab_size=50, block_sizes=(1, 1)
    )
    funnel = FunnelStates(Funnel(config, rngs=nnx.Rngs(0)))
    ids = random_ids(2, 8)

    @jax.jit
    def run(ids):
        encoded = funnel.funnel.encode(ids, context(), mask=MASK)
        found = [
            read.collect(funnel, ids, context(), hooks=["resid_out"], layers=[i], mask=MASK)[1]
            for i in (0, 1)
        ]
        return [x.states for x in encoded.blocks], found

    blocks, found = run(ids)
    for i in (0, 1):
        np.testing.assert_allclose(found[i]["resid_out"][0], blocks[i], rtol=0, atol=1e-6)
    assert found[0]["resid_out"].shape[2] == 8 and found[1]["resid_out"].shape[2] < 8


@pytest.mark.parametrize("kind", KINDS)
def test_mlp_in_is_the_input_of_the_mlp(kind):
    model, ids = tiny(kind), random_ids(2, 7)
    graphdef, state = nnx.split(model.blocks)
    block = nnx.merge(graphdef, jax.tree.map(lambda x: x[1], state))

    @jax.jit
    def run(ids):
        _, states = read.collect(model, ids, context(), hooks=["mlp_in", "mlp_out"], layers=[1])
        return states, block.mlp(states["mlp_in"][0], context())

    states, want = run(ids)
    np.testing.assert_allclose(states["mlp_out"][0], want, rtol=0, atol=1e-5)
