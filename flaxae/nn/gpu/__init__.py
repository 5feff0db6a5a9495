"""Kernels for one NVIDIA GPU: what XLA does in several passes over memory is done in one.

They are written with Pallas, which lowers them by Triton. Layers ask `usable`, and where it says no
they do the same in plain JAX. FLAXAE_GPU_KERNELS=off in the environment says no everywhere.
"""

import importlib.util
import os
from functools import cache

import jax
import jax.numpy as jnp

from flaxae.config import ConfigError
from flaxae.task import Context

MODES = ("auto", "off", "interpret")  # interpret: the kernels' own code by plain JAX, anywhere
FEW = 1024  # positions: with fewer, joining the weights takes longer than it saves


def _mode() -> str:
    found = os.environ.get("FLAXAE_GPU_KERNELS", "auto")
    if found not in MODES:
        raise ConfigError(f"FLAXAE_GPU_KERNELS={found!r} is not one of: {', '.join(MODES)}")
    return found


mode = _mode()


def usable(ctx: Context, positions: int, dtype: jnp.dtype | type) -> bool:
    """Whether a layer that is traced now uses the kernels.

    Not over several devices, whose work XLA divides (it cannot divide a kernel), nor where layers'
    inner states are recorded or replaced, which the kernels do not show.

    Args:
        ctx: the layer's.
        positions: of all rows together.
        dtype: of the computation; bfloat16 is what the kernels were measured with.
    """
    if mode == "off" or jax.sharding.get_abstract_mesh().size > 1 or not ctx.taps.quiet:
        return False
    if mode == "interpret":
        return True
    return positions >= FEW and jnp.dtype(dtype) == jnp.bfloat16 and _there()


@cache
def _there() -> bool:
    """A GPU that multiplies bfloat16, and Pallas' lowering by Triton, which may leave JAX."""
    if jax.default_backend() != "gpu":
        return False
    major = str(getattr(jax.local_devices()[0], "compute_capability", "")).partition(".")[0]
    if not major.isdecimal() or int(major) < 8:
        return False
    try:
        return importlib.util.find_spec("jax.experimental.pallas.triton") is not None
    except ImportError:
        return False
