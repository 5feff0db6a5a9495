"""Hidden states of chosen layers and positions, collected and replaced inside the scan."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.activations import read as activations
from flaxae.errors import ConfigError
from flaxae.task import Taps
from tests.tiny.language_models import KINDS, context, random_ids, tiny

HOOKS = ("resid_in", "resid_out", "attn_out", "mlp_pre", "mlp_post", "mlp_out")
MASK = jnp.ones((2, 7)).at[0, :2].set(0)


def all_states(model, ids):
    """Return all hooks of all layers and positions, by plain taps."""
    taps = Taps(collect=lambda path: True)
    model.states(ids, context(taps=taps), mask=MASK)
    return {hook: np.asarray(taps.collected[model.hooks[hook]]) for hook in HOOKS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [{}, {"remat": True, "scan_unroll": 3}])
def test_states_of_chosen_layers_and_positions_equal_plain_taps(kind, fields):
    model, ids = tiny(kind, **fields), random_ids(2, 7)
    want, layers = all_states(model, ids), (2, 0)
    positions = jnp.asarray([[6, 3], [0, 6]])

    @jax.jit
    def run(model, ids, positions):
        return activations.collect(
            model, ids, context(), hooks=HOOKS, layers=layers, mask=MASK, positions=positions
        )

    final, states = run(model, ids, positions)
    np.testing.assert_allclose(final, model.states(ids, context(), mask=MASK), atol=1e-6)
    assert set(states) == set(HOOKS)
    for hook, value in states.items():
        for place, layer in enumerate(layers):
            picked = np.take_along_axis(want[hook][layer], np.asarray(positions)[..., None], axis=1)
            np.testing.assert_allclose(value[place], picked, rtol=0, atol=1e-5, err_msg=hook)


def test_negative_layers_count_from_the_end_and_all_positions_are_the_default():
    model, ids = tiny("llama"), random_ids(2, 7)
    _, states = activations.collect(
        model,
        ids,
        context(),
        hooks=["resid_out", "blocks.self_attn.q_proj.out"],
        layers=[-1],
        mask=MASK,
    )
    np.testing.assert_allclose(
        states["resid_out"][0], all_states(model, ids)["resid_out"][2], rtol=0, atol=1e-6
    )
    assert states["blocks.self_attn.q_proj.out"].shape == (1, 2, 7, 16)


def test_states_of_all_layers_and_positions_are_never_in_memory():
    model = tiny("llama", num_layers=5)
    ids, positions = random_ids(2, 7), jnp.asarray([[6], [6]])

    def run(ids):
        return activations.collect(
            model, ids, context(), hooks=HOOKS, layers=[3], positions=positions
        )[1]

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            for value in equation.outvars:
                yield value.aval.shape
            for inner in jax.tree.leaves(list(equation.params.values())):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from sizes(getattr(inner, "jaxpr", inner))

    shapes = set(sizes(jax.make_jaxpr(run)(ids).jaxpr))
    assert (2, 7, 16) in shapes and (
        2,
        2,
        1,
        16,
    ) in shapes  # of one layer; a buffer of one layer and a spare
    assert not [s for s in shapes if s[:1] == (5,) and s[1:3] == (2, 7)]


def test_a_replaced_value_changes_what_comes_after_it():
    model, ids = tiny("phi"), random_ids(2, 7)
    before = all_states(model, ids)
    spliced = jnp.asarray(before["resid_out"][1]) * 0.5
    _, states = activations.collect(
        model,
        ids,
        context(),
        hooks=["resid_out"],
        layers=[0, 1, 2],
        mask=MASK,
        replace={("resid_out", -2): lambda x: spliced},  # of three layers
    )
    np.testing.assert_allclose(states["resid_out"][0], before["resid_out"][0], atol=1e-6)
    np.testing.assert_allclose(states["resid_out"][1], spliced, atol=1e-6)
    assert abs(states["resid_out"][2] - before["resid_out"][2]).max() > 1e-2


def test_replacing_by_the_same_value_does_not_change_the_logits():
    model, ids = tiny("llama"), random_ids(2, 7)
    taps = activations.recorder(
        model, replace={("mlp_post", None): lambda x: x, ("attn_out", -1): lambda x: x}
    )
    have = model(ids, context(taps=taps))
    np.testing.assert_array_equal(have, model(ids, context()))


@pytest.mark.parametrize("remat", [False, True])
def test_gradients_flow_through_collected_and_replaced_states(remat):
    model, ids = tiny("llama", remat=remat), random_ids(2, 7)
    graphdef, state = nnx.split(model)

    def loss(state, shift, at):
        model = nnx.merge(graphdef, state)
        replace = {("resid_out", at): lambda x: x + shift} if at is not None else None
        _, states = activations.collect(
            model,
            ids,
            context(),
            hooks=["resid_out"],
            layers=[1],
            replace=replace,
            positions=jnp.asarray([[6], [2]]),
        )
        return jnp.sum(jnp.square(states["resid_out"]))

    shift = jnp.zeros((2, 7, 16))
    grads, by_shift = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(state, shift, 0)
    kernel = nnx.to_pure_dict(grads)["blocks"]["mlp"]["down_proj"]["kernel"]
    assert (abs(kernel).max(axis=(1, 2)) > 0).tolist() == [True, True, False]
    assert float(abs(by_shift).max()) > 0
    # A step along the gradient, against finite differences.
    eps = 1e-2
    ahead, back = (loss(state, sign * eps * by_shift, 0) for sign in (1.0, -1.0))
    slope = (ahead - back) / (2 * eps)
    np.testing.assert_allclose(slope, jnp.sum(jnp.square(by_shift)), rtol=2e-2)


def test_a_truncated_model_has_the_same_states():
    model, ids = tiny("llama"), random_ids(2, 7)
    short = activations.truncated(model, 2)
    assert short.config.num_layers == 2 and model.config.num_layers == 3
    a, b = (
        activations.collect(m, ids, context(), hooks=["resid_out"], layers=[1])[1]["resid_out"]
        for m in (model, short)
    )
    np.testing.assert_array_equal(a, b)
    with pytest.raises(ConfigError, match="num_layers=4: the model has 3"):
        activations.truncated(model, 4)


def test_states_are_collected_while_decoding_with_a_cache():
    model, ids = tiny("llama"), random_ids(2, 6)
    taps = activations.recorder(model, ["resid_out"], [1])
    positions = jnp.broadcast_to(jnp.arange(6)[None], (2, 6))
    at = dataclasses.replace(context(), taps=taps)
    model.cached_states(
        ids, at, model.init_cache(2, 6), 0, positions=positions, keys=jnp.ones((2, 6))
    )
    _, want = activations.collect(model, ids, context(), hooks=["resid_out"], layers=[1])
    np.testing.assert_allclose(taps.states["resid_out"], want["resid_out"], atol=1e-5)


def test_last_positions_with_padding_on_either_side():
    mask = jnp.asarray([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    assert activations.last_positions(mask).tolist() == [[1], [3], [3]]


def test_unknown_hooks_taps_and_layers_raise():
    model, ids = tiny("llama"), random_ids(1, 3)
    collect = activations.collect
    with pytest.raises(ConfigError, match="hook 'resid' is unknown: use .*resid_in"):
        collect(model, ids, context(), hooks=["resid"], layers=[0])
    with pytest.raises(ConfigError, match=r"the model has no tap \['blocks.mlp.fc1.out'\]"):
        collect(model, ids, context(), hooks=["blocks.mlp.fc1.out"], layers=[0])
    with pytest.raises(ConfigError, match="layer 3: the model has 3"):
        collect(model, ids, context(), hooks=["resid_out"], layers=[3])
    with pytest.raises(ConfigError, match="name a layer twice"):
        collect(model, ids, context(), hooks=["resid_out"], layers=[2, -1])


def test_the_module_in_lm_is_an_alias():
    from flaxae.lm import activations as alias

    for name in ("Recorder", "collect", "hook_path", "last_positions", "recorder", "truncated"):
        assert getattr(alias, name) is getattr(activations, name)
