"""The scanned stack equals a loop over its layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.nn.linear import Linear, dropout
from flaxae.nn.stack import call_blocks, check_kept, scan_blocks, stacked, unstacked
from flaxae.task import Context, Taps


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = Linear(4, 4, rngs=rngs)

    def __call__(self, x, ctx, scale):
        y = x + dropout(jnp.tanh(self.linear(x, ctx.at("linear"))), 0.5, ctx.at("dropout")) * scale
        return ctx.tap("state", y), y.sum()


def run(blocks, x, ctx, **options):
    scales = jnp.asarray([1.0, 0.5, 2.0])
    return scan_blocks(lambda block, x, at, s: block(x, at, s), blocks, x, ctx, scales, **options)


@pytest.fixture
def blocks():
    return stacked(Block, 3, nnx.Rngs(0))


def context(train=True, taps=None):
    return Context(key=jax.random.key(1), step=jnp.int32(0), train=train, taps=taps or Taps())


def test_parameters_are_stacked_and_differ(blocks):
    kernel = blocks.linear.kernel[...]
    assert kernel.shape == (3, 4, 4)
    assert not np.allclose(kernel[0], kernel[1])


def test_a_scan_equals_a_loop_over_layers(blocks):
    x = jnp.ones((2, 4))
    y, sums = run(blocks, x, context())
    expected, expected_sums = x, []
    graphdef, state = nnx.split(blocks)
    for i, scale in enumerate((1.0, 0.5, 2.0)):
        block = nnx.merge(graphdef, jax.tree.map(lambda a, i=i: a[i], state))
        expected, out = block(expected, context().layer(i), scale)
        expected_sums.append(out)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(sums, jnp.stack(expected_sums), rtol=1e-6)


def test_calling_blocks_one_by_one_equals_a_scan(blocks):
    """Dropout, outputs and taps too."""
    x, scales = jnp.ones((2, 4)), jnp.asarray([1.0, 0.5, 2.0])
    taps = [Taps(collect=lambda path: path == "state") for _ in range(2)]
    at = [context(taps=one) for one in taps]

    def call(block, x, at, scale):
        return block(x, at, scale)

    scanned, sums = scan_blocks(call, blocks, x, at[0], scales)
    called, outs = call_blocks(call, unstacked(blocks), x, at[1], unstacked(scales))
    np.testing.assert_allclose(called, scanned, rtol=1e-6)
    np.testing.assert_allclose(jnp.stack(outs), sums, rtol=1e-6)
    states = [one.collected["state"] for one in taps]
    assert states[0].shape == (3, 2, 4)
    np.testing.assert_allclose(*states, rtol=1e-6)


def test_stacks_of_other_keys_differ(blocks):
    other = stacked(Block, 3, nnx.Rngs(1)).linear.kernel[...]
    assert np.all(other != blocks.linear.kernel[...])


def test_kept_values_need_recomputed_blocks():
    check_kept("products", "lm.remat_keep", True)
    check_kept("nothing", "lm.remat_keep", False)
    with pytest.raises(ConfigError, match="needs lm.remat=True"):
        check_kept("products", "lm.remat_keep", False)
    with pytest.raises(ConfigError, match="'all' is not one of: nothing, products"):
        check_kept("all", "lm.remat_keep", True)


KEEPING = {"remat": True, "keep": "products"}


@pytest.mark.parametrize("options", [{"remat": True}, KEEPING, {"unroll": 3}, {"unroll": 8}])
def test_options_of_the_scan_do_not_change_gradients(blocks, options):
    x = jnp.ones((2, 4))

    def loss(state, **options):
        return run(nnx.merge(graphdef, state), x, context(), **options)[0].sum()

    graphdef, state = nnx.split(blocks)
    plain, changed = jax.grad(loss)(state), jax.grad(lambda s: loss(s, **options))(state)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(changed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_kept_products_are_not_recomputed():
    blocks = stacked(lambda rngs: Linear(4, 4, rngs=rngs), 3, nnx.Rngs(0))
    graphdef, state = nnx.split(blocks)

    def call(block, x, ctx, _):
        return jnp.tanh(block(x, ctx)), None

    def loss(state, **options):
        x, _ = scan_blocks(call, nnx.merge(graphdef, state), jnp.ones((2, 4)), context(), **options)
        return x.sum()

    def products(**options):
        return str(jax.make_jaxpr(jax.grad(lambda s: loss(s, **options)))(state)).count(
            "dot_general"
        )

    plain, recomputed = products(), products(remat=True)
    assert recomputed > plain == products(remat=True, keep="products")


def test_taps_collect_and_replace_states_of_all_layers(blocks):
    taps = Taps(collect=lambda path: path == "stack.state")
    y, _ = run(blocks, jnp.ones((2, 4)), context(train=False, taps=taps).at("stack"))
    assert taps.collected["stack.state"].shape == (3, 2, 4)
    np.testing.assert_array_equal(taps.collected["stack.state"][-1], y)
    zero = Taps(replace={"stack.state": jnp.zeros_like})
    y, _ = run(blocks, jnp.ones((2, 4)), context(train=False, taps=zero).at("stack"))
    assert not y.any()
