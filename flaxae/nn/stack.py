"""Stacks of equal blocks: parameters stacked on axis 0, and one traced body scanned over them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxae.errors import require
from flaxae.nn.linear import PRODUCT
from flaxae.task import Context

# Values that a recomputed block keeps: none, or the outputs of its matmuls with weights, so that
# only the operations between them are recomputed.
KEPT = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    # By name: `product` defines its own gradient, in which policies see no matmul.
    "products": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}


def stacked(make: Callable[[nnx.Rngs], nnx.Module], num_layers: int, rngs: nnx.Rngs) -> Any:
    """Make one block whose variables have a leading layer axis.

    Args:
        make: builds a block from rngs, of which it uses the stream `params` only.
        num_layers: size of the layer axis.
        rngs: source of one key, which is split over the layers.

    Returns:
        The stacked block, for `scan_blocks`.
    """
    graphs = []

    def draw(key: Any) -> nnx.State:
        graphdef, state = nnx.split(make(nnx.Rngs(params=key)))
        graphs.append(graphdef)
        return state

    state = jax.vmap(draw)(jax.random.split(rngs.params(), num_layers))
    return nnx.merge(graphs[-1], state)


def scan_blocks(
    call: Callable[[Any, Any, Context, Any], tuple[Any, Any]],
    blocks: Any,
    x: Any,
    ctx: Context,
    xs: Any = None,
    *,
    remat: bool = False,
    keep: str = "nothing",
    unroll: int = 1,
) -> tuple[Any, Any]:
    """Run a stacked block layer after layer.

    Args:
        call: (block of one layer, x, its context, its slice of xs) -> (x, output).
        blocks: a block made by `stacked`.
        x: pytree that is passed from layer to layer.
        ctx: the stack's context; a layer's key folds in its index. States that layers tap are
            recorded in `ctx.taps` with a leading layer axis.
        xs: pytree with a leading layer axis (a cache), or None.
        remat: whether the body is recomputed in the backward pass.
        keep: with remat, the values that are not recomputed, a key of KEPT.
        unroll: layers per iteration; all of them if XLA's loop overhead matters (CPU).

    Returns:
        x, and the outputs stacked over layers.
    """
    graphdef, state = nnx.split(blocks)
    num_layers = jax.tree.leaves(state)[0].shape[0]

    def body(x: Any, layer: Any) -> Any:
        state, index, xs = layer
        taps = ctx.taps.fresh()
        x, out = call(nnx.merge(graphdef, state), x, ctx.layer(index, taps), xs)
        return x, (out, taps.collected)

    if remat:
        body = jax.checkpoint(body, policy=KEPT[keep])
    layers = (state, jnp.arange(num_layers), xs)
    x, (outs, collected) = jax.lax.scan(body, x, layers, unroll=min(unroll, num_layers))
    ctx.taps.collected.update(collected)
    return x, outs


def check_kept(name: str, field: str, remat: bool) -> None:
    """Check a config's choice of kept values.

    Args:
        name: the choice.
        field: dotted name of its config field, for the message.
        remat: whether blocks are recomputed.

    Raises:
        ConfigError: if the choice is unknown, or blocks are not recomputed.
    """
    require(name in KEPT, f"{field}={name!r} is not one of: {', '.join(KEPT)}")
    needed = field.replace("remat_keep", "remat")
    require(
        remat or name == "nothing",
        f"{field}={name!r} needs {needed}=True: without it nothing is recomputed, and all is kept",
    )


def call_blocks(
    call: Callable[[Any, Any, Context, Any], tuple[Any, Any]],
    blocks: list[Any],
    x: Any,
    ctx: Context,
    xs: list[Any],
) -> tuple[Any, list[Any]]:
    """Run a few layers without a scan; inputs and outputs of layers are not stacked.

    Args:
        call: see `scan_blocks`.
        blocks: one block per layer, made by `unstacked`.
        x: see `scan_blocks`.
        ctx: see `scan_blocks`.
        xs: one input per layer.

    Returns:
        x, and one output per layer.
    """
    outs, collected = [], []
    for index, (block, layer_xs) in enumerate(zip(blocks, xs, strict=True)):
        taps = ctx.taps.fresh()
        x, out = call(block, x, ctx.layer(index, taps), layer_xs)
        outs.append(out)
        collected.append(taps.collected)
    ctx.taps.collected.update(jax.tree.map(lambda *y: jnp.stack(y), *collected))
    return x, outs


def unstacked(tree: Any) -> list[Any]:
    """Split a stacked tree or block into one per layer."""
    graphdef, leaves = nnx.split(tree) if isinstance(tree, nnx.Module) else (None, tree)
    num_layers = jax.tree.leaves(leaves)[0].shape[0]
    layers = [jax.tree.map(lambda x: x[i], leaves) for i in range(num_layers)]  # noqa: B023
    return layers if graphdef is None else [nnx.merge(graphdef, layer) for layer in layers]
