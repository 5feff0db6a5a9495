"""How a kernel is called."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import pallas as pl
from jaxtyping import Array

from flaxae.nn import gpu


def call(
    kernel: Callable[..., None],
    args: Sequence[Array],
    out: Any,
    grid: tuple[int, ...],
    *,
    name: str,
) -> Any:
    """Runs kernel(*references to args, *references to outputs) once for each place of a grid.

    Args:
        kernel: reads and writes whole arrays where it wants.
        args: what it reads.
        out: shapes and dtypes of what it writes; every element must be written.
        grid: how many programs, along up to 3 axes.
        name: in profiles.
    """
    interpret = gpu.mode() == "interpret"
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
