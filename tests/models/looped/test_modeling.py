"""The loop compared with its definition: gradients, masks, injections, one program for every b."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.models.looped.blocks import gelu
from flaxae.models.looped.modeling import Injection, LoopedTransformer, ModelConfig, keep_tokens
from flaxae.task import Context

B, N, DIMS = 3, 4, 3
CTX = Context(jax.random.key(0), jnp.int32(0))


def make(**overrides) -> LoopedTransformer:
    sizes = {"dims": DIMS, "points": N, "width": 8, "num_heads": 2} | overrides
    model = LoopedTransformer(ModelConfig(**sizes), rngs=nnx.Rngs(0))
    # Larger than the initialisation, so that loops and gradients differ clearly.
    graphdef, params = nnx.split(model)

    def larger(x: jax.Array) -> jax.Array:
        return x + 0.3 * jnp.cos(1.7 * jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

    return nnx.merge(graphdef, jax.tree.map(larger, params))


def problems(seed: int = 0):
    xs = jax.random.normal(jax.random.key(seed), (B, N, DIMS))
    w = jax.random.normal(jax.random.key(seed + 1), (B, DIMS))
    return xs, jnp.einsum("bnd,bd->bn", xs, w)


def loss(params, graphdef, loops, grad_loops, window):
    model, (xs, ys) = nnx.merge(graphdef, params), problems()
    prompt = model.prompt(xs, ys, CTX)
    out = model.last_loops(prompt, CTX, loops=loops, grad_loops=grad_loops, window=window)
    errors = jnp.square(out.predictions - ys[None]).mean((1, 2))
    return jnp.sum(errors * out.weight) / jnp.sum(out.weight)


@partial(jax.jit, static_argnums=1)
def one_loop(params, graphdef, y, prompt):
    return nnx.merge(graphdef, params).loop(y, prompt, CTX)


def unrolled(params, graphdef, loops, grad_loops):
    """Return the loss by its definition, loop after loop."""
    model, (xs, ys) = nnx.merge(graphdef, params), problems()
    prompt = model.prompt(xs, ys, CTX)
    y, errors = model.initial_state(prompt), []
    for loop in range(loops):
        if loop < loops - min(loops, grad_loops):
            y = jax.lax.stop_gradient(one_loop(params, graphdef, y, prompt))
            continue
        y = one_loop(params, graphdef, y, prompt)
        errors.append(jnp.square(model.readout(y, CTX) - ys).mean())
    return sum(errors) / len(errors)


CASES = [(6, 2, 2), (6, 2, 4), (3, 3, 4), (2, 3, 4), (1, 1, 4)]  # b, T, window


@pytest.mark.parametrize("injection", list(Injection))
def test_value_and_gradient_equal_those_of_unrolled_loops(injection):
    cases = CASES if injection is Injection.ADD else CASES[1:2]
    layers = 2 if injection is Injection.ADD else 1
    graphdef, params = nnx.split(make(injection=injection, num_layers=layers))
    ours = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 4))
    for loops, grad_loops, window in cases:
        value, grads = ours(params, graphdef, loops, grad_loops, window)
        wanted, expected = jax.value_and_grad(unrolled)(params, graphdef, loops, grad_loops)
        np.testing.assert_allclose(value, wanted, rtol=2e-5)
        scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5 * scale)
    # One program per window, for every b and T.
    assert ours._cache_size() == len({window for _, _, window in cases})


def test_loops_before_the_cut_change_the_value_but_have_no_gradient():
    graphdef, params = nnx.split(make())
    grads = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 4))
    (one, _), (five, cut), (_, whole) = (
        grads(params, graphdef, b, t, 5) for b, t in [(1, 1), (5, 1), (5, 5)]
    )
    assert float(one) != pytest.approx(float(five), rel=1e-3)
    pairs = zip(jax.tree.leaves(cut), jax.tree.leaves(whole), strict=True)
    assert any(not np.allclose(a, b) for a, b in pairs)


def test_recomputing_does_not_change_gradients():
    grads, products = [], []
    for fields in ({"remat": False}, {"remat": True}, {"remat": True, "remat_keep": "products"}):
        graphdef, params = nnx.split(make(**fields))
        step = jax.jit(jax.grad(loss), static_argnums=(1, 2, 3, 4))
        traced = step.trace(params, graphdef, 5, 3, 3)
        products.append(str(traced.jaxpr).count("dot_general"))
        grads.append(jax.tree.leaves(traced.lower().compile()(params)))
    for a, b, c in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        np.testing.assert_allclose(a, c, atol=1e-6)
    assert products[1] - products[2] == 4, "qkv, output, up and down are kept, attention is not"


def test_gelu_is_the_tanh_form_and_keeps_only_its_input():
    x = jnp.linspace(-6, 6, 1001)
    y, back = jax.vjp(gelu, x)
    np.testing.assert_array_equal(y, jax.nn.gelu(x))
    assert [leaf.size for leaf in jax.tree.leaves(back)] == [x.size]
    wide, h = np.asarray(x, np.float64), 1e-5

    def formula(x):
        return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))

    slope = (formula(wide + h) - formula(wide - h)) / (2 * h)
    np.testing.assert_allclose(back(jnp.ones_like(x))[0], slope, atol=1e-5)


def test_a_single_pass_of_many_layers_recomputes_them_one_by_one():
    grads, temporaries = [], []
    for remat in (True, False):
        graphdef, params = nnx.split(make(num_layers=8, width=32, remat=remat))
        step = jax.jit(jax.grad(loss), static_argnums=(1, 2, 3, 4))
        compiled = step.lower(params, graphdef, 1, 1, 1).compile()
        temporaries.append(compiled.memory_analysis().temp_size_in_bytes)
        grads.append(compiled(params))
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))
    assert temporaries[0] < 0.5 * temporaries[1], temporaries


@partial(jax.jit, static_argnums=(1, 4))
def every_loop(params, graphdef, xs, ys, loops, kept=None):
    model = nnx.merge(graphdef, params)
    return model.every_loop(model.prompt(xs, ys, CTX), CTX, loops, kept)


def test_every_loop_agrees_with_last_loops():
    graphdef, params = nnx.split(make())
    xs, ys = problems()

    @jax.jit
    def last_loops(params):
        model = nnx.merge(graphdef, params)
        return model.last_loops(model.prompt(xs, ys, CTX), CTX, loops=6, grad_loops=2, window=2)

    trace, last = every_loop(params, graphdef, xs, ys, 6), last_loops(params)
    np.testing.assert_allclose(last.predictions, trace.predictions[4:], atol=1e-6)
    assert trace.query_states.shape == (6, B, 8)


def test_a_later_point_does_not_change_earlier_predictions():
    graphdef, params = nnx.split(make())
    xs, ys = problems()
    before = every_loop(params, graphdef, xs, ys, 3).predictions
    others = xs.at[:, -1].set(9.0), ys.at[:, -2].set(9.0)
    after = every_loop(params, graphdef, *others, 3).predictions
    np.testing.assert_array_equal(before[..., :-1], after[..., :-1])
    assert not np.allclose(before[..., -1], after[..., -1])


@pytest.mark.parametrize("side", ["first", "last"])
@pytest.mark.parametrize("injection", list(Injection))
def test_keeping_all_tokens_is_bit_exact_and_keeping_none_is_one_loop(side, injection):
    graphdef, params = nnx.split(make(injection=injection))
    given = params, graphdef, *problems(), 5
    whole = every_loop(*given).predictions
    kept = {
        n: every_loop(*given, jnp.asarray(keep_tokens(N, n, side))).predictions
        for n in (0, 3, 2 * N - 1)
    }
    np.testing.assert_array_equal(kept[2 * N - 1], whole)
    for turn in range(5):
        np.testing.assert_array_equal(kept[0][turn], whole[0])
    assert not np.allclose(kept[3][-1, :, -1], whole[-1, :, -1], atol=1e-4)


def test_kept_tokens_are_the_first_or_last_ones():
    assert keep_tokens(3, 2, "first").astype(int).tolist() == [1, 1, 0, 0, 0, 1]
    assert keep_tokens(3, 2, "last").astype(int).tolist() == [0, 0, 0, 1, 1, 1]
    assert keep_tokens(3, 2, "first", query=True).astype(int).tolist() == [1, 1, 0, 0, 1, 1]
    for bad in [(3, 6, "first"), (3, -1, "last"), (3, 1, "left")]:
        with pytest.raises(ConfigError):
            keep_tokens(*bad)


@pytest.mark.slow
def test_halting_stops_each_row_on_convergence():
    model, (xs, ys) = make(), problems()
    prompt = model.prompt(xs, ys, CTX)
    trace = model.every_loop(prompt, CTX, 9)
    answer, used = model.halting(prompt, CTX, 0.0, 9)
    np.testing.assert_allclose(answer, trace.predictions[-1, :, -1], atol=1e-6)
    assert used.tolist() == [9] * B
    answer, used = model.halting(prompt, CTX, 0.05, 9)
    states = np.asarray(trace.query_states)
    for row in range(B):
        moved = np.linalg.norm(np.diff(states[:, row], axis=0), axis=-1)
        small = np.flatnonzero(moved < 0.05 * np.linalg.norm(states[1:, row], axis=-1))
        expected = small[0] + 2 if len(small) else 9
        assert int(used[row]) == expected
        np.testing.assert_allclose(answer[row], trace.predictions[expected - 1, row, -1], atol=1e-6)


def test_taps_record_the_states_of_each_layer():
    from flaxae.task import Taps

    model, (xs, ys) = make(num_layers=3), problems()
    taps = Taps(lambda path: path.endswith("blocks.state"))
    ctx = Context(jax.random.key(0), jnp.int32(0), taps=taps)
    prompt = model.prompt(xs, ys, ctx)
    model.loop(model.initial_state(prompt), prompt, ctx)
    assert taps.collected["blocks.state"].shape == (3, B, 2 * N, 8)


def test_sizes_that_do_not_fit_are_errors():
    with pytest.raises(ConfigError, match="num_heads"):
        ModelConfig(width=10, num_heads=3).validate()
