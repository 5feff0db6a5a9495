"""The call of a kernel, by Pallas."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import pallas as pl
from jaxtyping import Array

from flaxae.nn.gpu.availability import mode


def call(
    kernel: Callable[..., None],
    args: Sequence[Array],
    out: Any,
    grid: tuple[int, ...],
    *,
    name: str,
) -> Any:
    """Run kernel(*references to args, *references to outputs) once per point of a grid.

    Args:
        kernel: function that reads and writes any part of the whole arrays.
        args: input arrays.
        out: shapes and dtypes of the outputs; every element must be written.
        grid: numbers of programs along up to 3 axes.
        name: name in profiles.

    Returns:
        Arrays of `out`'s structure.
    """
    interpret = mode() == "interpret"
    params = None
    if not interpret:
        from jax.experimental.pallas import triton

        params = triton.CompilerParams(num_warps=4, num_stages=2)
    whole = pl.BlockSpec(memory_space=pl.ANY)
    return pl.pallas_call(
        kernel,
        out_shape=out,
        grid=grid,
        in_specs=[whole] * len(args),
        out_specs=jax.tree.map(lambda _: whole, out),
        compiler_params=params,
        interpret=interpret,
        name=name,
    )(*args)
