"""Stacks of equal blocks: parameters stacked on axis 0, one traced body scanned over them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxae.errors import require
from flaxae.nn.linear import PRODUCT
from flaxae.task import Context

# What a recomputed block keeps all the same: nothing, or what its matmuls with weights made, so
# that only what lies between them is computed again.
KEPT = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    # By name: `product` has a gradient of its own, in which policies see no matmul.
    "products": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}


def stacked(make: Callable[[nnx.Rngs], nnx.Module], num_layers: int, rngs: nnx.Rngs) -> Any:
    """One block whose variables have a leading layer axis.

    Args:
        make: builds a block from rngs; only `rngs.params` is drawn from.
        num_layers: size of the layer axis.
        rngs: gives one key, split over the layers.

    Returns:
        The block; `scan_blocks` runs it.
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
    """Runs a stacked block layer after layer.

    Args:
        call: (block of one layer, x, its context, its slice of xs) -> (x, output).
        blocks: what `stacked` made.
        x: pytree that goes from layer to layer.
        ctx: the stack's context; a layer's key folds in its index. What layers tap is recorded in
            `ctx.taps` with a leading layer axis.
        xs: pytree with a leading layer axis (a cache), or None.
        remat: recompute the body in the backward pass.
        keep: with remat, what is not computed again, of KEPT.
        unroll: layers in one iteration; all of them where XLA's loop overhead matters (CPU).

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


def check_kept(name: str, where: str, remat: bool) -> None:
    """A ConfigError where a config names nothing that can be kept, or recomputes nothing."""
    require(name in KEPT, f"{where}={name!r} is not one of: {', '.join(KEPT)}")
    needed = where.replace("remat_keep", "remat")
    require(
        remat or name == "nothing",
        f"{where}={name!r} needs {needed}=True: else nothing is recomputed, and all is kept",
    )


def call_blocks(
    call: Callable[[Any, Any, Context, Any], tuple[Any, Any]],
    blocks: list[Any],
    x: Any,
    ctx: Context,
    xs: list[Any],
) -> tuple[Any, list[Any]]:
    """`scan_blocks` of a few layers without a scan: what each gets and returns stays its own.

    Args:
        call, x, ctx: see `scan_blocks`.
        blocks: what `unstacked` made.
        xs: what each layer gets.

    Returns:
        x, and each layer's output.
    """
    outs, collected = [], []
    for index, (block, own) in enumerate(zip(blocks, xs, strict=True)):
        taps = ctx.taps.fresh()
        x, out = call(block, x, ctx.layer(index, taps), own)
        outs.append(out)
        collected.append(taps.collected)
    ctx.taps.collected.update(jax.tree.map(lambda *y: jnp.stack(y), *collected))
    return x, outs


def unstacked(tree: Any) -> list[Any]:
    """A tree, or a block, for each layer."""
    graphdef, leaves = nnx.split(tree) if isinstance(tree, nnx.Module) else (None, tree)
    num_layers = jax.tree.leaves(leaves)[0].shape[0]
    layers = [jax.tree.map(lambda x: x[i], leaves) for i in range(num_layers)]  # noqa: B023
    return layers if graphdef is None else [nnx.merge(graphdef, layer) for layer in layers]
