"""The language model compared with its definition: bits, causality, padding, gradients, depth."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.models.looped.core import Injection
from flaxae.models.looped.text.modeling import LoopedText, TextModelConfig, row_nats
from flaxae.task import Context

CTX = Context(jax.random.key(0), jnp.int32(0))
L = 6
KINDS = [Injection.ADD, Injection.STABLE]
ROWS = jax.random.randint(jax.random.key(1), (3, L), 0, 256)
WEIGHT = jnp.asarray(np.arange(L)[None] < np.array([[L], [4], [2]]), jnp.float32)


def make(injection: Injection = Injection.STABLE) -> LoopedText:
    config = TextModelConfig(width=8, num_heads=2, injection=injection)
    graphdef, params = nnx.split(LoopedText(config, L, rngs=nnx.Rngs(0)))

    def larger(x: jax.Array) -> jax.Array:
        return x + 0.3 * jnp.cos(1.7 * jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

    return nnx.merge(graphdef, jax.tree.map(larger, params))


@partial(jax.jit, static_argnums=(0, 5))
def nats_of(graphdef, params, rows, weight, loops, window=2):
    out = nnx.merge(graphdef, params).last_loops(
        rows, weight, CTX, loops=loops, grad_loops=window, window=window
    )
    return jnp.sum(out.values[0] * out.weight) / jnp.sum(out.weight)


def test_a_uniform_predictor_has_eight_bits_per_byte():
    model = make()
    for parameter in (model.read_out.kernel, model.read_out.bias):
        assert parameter is not None
        parameter[...] = jnp.zeros_like(parameter[...])
    bits = np.asarray(model.nats_by_loop(ROWS, WEIGHT, CTX, 3)) / math.log(2)
    np.testing.assert_allclose(bits, 8 * np.asarray(WEIGHT).sum(1)[None].repeat(3, 0), rtol=1e-6)
    nats = nats_of(*nnx.split(model), ROWS, WEIGHT, 3)
    assert float(nats) / math.log(2) == pytest.approx(8 * float(WEIGHT.sum()), rel=1e-6)


@pytest.mark.parametrize("injection", KINDS)
def test_a_later_byte_does_not_change_earlier_scores(injection):
    model = make(injection)

    def scores(rows):
        prompt = model.prompt(rows, CTX)
        y = model.initial_state(prompt)
        for _ in range(2):
            y = model.loop(y, prompt, CTX)
        return np.asarray(model.logits(y, CTX))

    before, after = scores(ROWS), scores(ROWS.at[:, 3].add(1) % 256)
    # A byte is predicted from those before it, so the scores at its position are unchanged too.
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 1e-3


def test_padding_does_not_change_gradients_or_bits():
    graphdef, params = nnx.split(make())
    other = jnp.where(WEIGHT > 0, ROWS, 77)
    gradient = jax.jit(jax.grad(lambda p, rows: nats_of(graphdef, p, rows, WEIGHT, 3)))
    grads = [gradient(params, rows) for rows in (ROWS, other)]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_array_equal(a, b)
    # A shorter row has the same bits alone and in the batch.
    whole = nnx.merge(graphdef, params).nats_by_loop(ROWS, WEIGHT, CTX, 2)
    alone = nnx.merge(graphdef, params).nats_by_loop(ROWS[1:2, :4], WEIGHT[1:2, :4], CTX, 2)
    np.testing.assert_allclose(whole[:, 1], alone[:, 0], rtol=1e-5)


@pytest.mark.parametrize("injection", KINDS)
def test_gradient_equals_that_of_unrolled_loops_in_one_program(injection):
    graphdef, params = nnx.split(make(injection))

    @partial(jax.jit, static_argnums=(1, 2))
    @jax.value_and_grad
    def unrolled(params, loops, last):
        model, nats = nnx.merge(graphdef, params), []
        prompt = model.prompt(ROWS, CTX)
        y = model.initial_state(prompt)
        for loop in range(loops):
            y = jax.lax.stop_gradient(y) if loop == loops - last else y
            frozen = loop < loops - last
            y = model.loop(y, jax.lax.stop_gradient(prompt) if frozen else prompt, CTX)
            if not frozen:
                nats.append(row_nats(model.logits(y, CTX), ROWS, WEIGHT).sum())
        return sum(nats) / len(nats)

    ours = jax.jit(jax.value_and_grad(lambda p, b: nats_of(graphdef, p, ROWS, WEIGHT, b)))
    for loops, last in [(4, 2), (1, 1)]:
        value, grads = ours(params, loops)
        wanted, expected = unrolled(params, loops, last)
        np.testing.assert_allclose(value, wanted, rtol=2e-5)
        scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5 * scale)
    value, _ = ours(params, 40)  # more loops than before, in the same program
    assert np.isfinite(value) and ours._cache_size() == 1


@pytest.mark.parametrize("level", [-1e30, -200.0, -2.0, 0.0, 3.0, 1e30])
def test_a_stable_injection_multiplies_the_state_by_a_norm_below_one(level):
    model = make()
    model.decay_logit[...] = jnp.full(8, level)
    state, prompt = jnp.eye(8)[None], jnp.zeros((1, 8, 8))
    matrix = np.asarray(model.inject(state, prompt, CTX)[0], np.float64)
    norm = np.linalg.svd(matrix, compute_uv=False)[0]
    assert norm < 1 and norm == pytest.approx(float(model.decay().max()), abs=1e-6)


def test_samples_at_temperature_0_are_the_most_likely_bytes():
    model = make()
    draw = jax.jit(lambda loops: model.sample(CTX, 2, L, loops, 0.0))
    rows = draw(2)
    prompt = model.prompt(rows, CTX)
    y = model.loop(model.loop(model.initial_state(prompt), prompt, CTX), prompt, CTX)
    np.testing.assert_array_equal(rows, model.logits(y, CTX).argmax(-1))
