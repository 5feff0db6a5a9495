"""Custom rules of differentiation and vectorisation for losses that have branches.

A branch of `jax.lax.cond` that is differentiated keeps its intermediate arrays for the backward
pass, and the other branch writes zeros of the same shapes. Here, each branch returns a value and a
gradient. Functions of parameters have the form (params, args) -> (scalar, other outputs).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

Function = Callable[[Any, Any], tuple[Any, Any]]
Pick = Callable[[Sequence[Callable], Any, Any], Any]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def grad_in_forward(
    pick: Pick, functions: tuple[Function, ...], params: Any, args: Any
) -> tuple[Any, Any]:
    """Return what the picked function returns, and compute its gradient in the forward pass.

    Only the scalar has a gradient, that of the parameters.

    Args:
        pick: calls one of the functions that it is given: (functions, params, args) -> outputs.
        functions: the functions, or, in a backward pass, they with their gradients.
        params: the parameters.
        args: the other arguments.
    """
    return pick(functions, params, args)


def _forward(pick: Pick, functions: tuple[Function, ...], params: Any, args: Any) -> Any:
    both = [jax.value_and_grad(f, has_aux=True) for f in functions]
    return pick(both, params, args)


def _backward(pick: Pick, functions: Any, grads: Any, cotangents: Any) -> tuple[Any, None]:
    scale, _ = cotangents
    return jax.tree.map(lambda x: x * scale, grads), None


grad_in_forward.defvjp(_forward, _backward)


def by_platform(cpu: Callable, default: Callable, *args: Any) -> Any:
    """Call one function on CPUs, and another one on other devices.

    Lanes are run one after another on a CPU: loops that update a large array in place would copy it
    if they were vectorised.

    Args:
        cpu: the function for CPUs.
        default: the function for other devices; it returns the same shapes.
        *args: the arguments.
    """

    @jax.custom_batching.custom_vmap
    def call(args: tuple) -> Any:
        return jax.lax.platform_dependent(*args, cpu=cpu, default=default)

    @call.def_vmap
    def lanes(axis_size: int, batched: Any, args: tuple) -> Any:
        axes = jax.tree.map(lambda x: 0 if x else None, batched[0])
        vectorised = jax.vmap(default, in_axes=axes, axis_size=axis_size)

        def one_by_one(*args: Any) -> Any:
            leaves, treedef = jax.tree.flatten(args)
            flags = jax.tree.leaves(batched[0])
            mapped = [x for x, b in zip(leaves, flags, strict=True) if b]

            def one(own: list) -> Any:
                rest = iter(own)
                merged = [next(rest) if b else x for x, b in zip(leaves, flags, strict=True)]
                return cpu(*jax.tree.unflatten(treedef, merged))

            return jax.lax.map(one, mapped)

        found = jax.lax.platform_dependent(*args, cpu=one_by_one, default=vectorised)
        return found, jax.tree.map(lambda _: True, found)

    return call(args)
