"""Kernels for one NVIDIA GPU: what XLA does in several passes over memory is done in one.

They are written with Pallas, which lowers them by Triton. Layers ask `usable`, and where it says no
they do the same in plain JAX. FLAXAE_GPU_KERNELS=off in the environment says no everywhere.
"""

import importlib.util
import os
from functools import cache

import jax
import jax.numpy as jnp

from flaxae.errors import ConfigError
from flaxae.task import Context

MODES = ("auto", "off", "interpret")  # interpret: the kernels' own code by plain JAX, anywhere
FEW = 1024  # positions: with fewer, joining the weights takes longer than it saves


def mode() -> str:
    """One of MODES, from the environment.

    Raises:
        ConfigError: it is none of them.
    """
    found = os.environ.get("FLAXAE_GPU_KERNELS", "auto")
    if found not in MODES:
        raise ConfigError(f"FLAXAE_GPU_KERNELS={found!r} is not one of: {', '.join(MODES)}")
    return found


def usable(ctx: Context, positions: int, dtype: jnp.dtype | type) -> bool:
    """Whether a layer that is traced now uses the kernels: in training, on one device.

    Not over the devices of a mesh, which XLA cannot divide a kernel over (the mesh is that of
    `jax.set_mesh`, as everywhere here), nor where layers' inner states are recorded or replaced,
    which the kernels do not show.

    Args:
        ctx: the layer's.
        positions: of all rows together.
        dtype: of the computation; bfloat16 is what the kernels were measured with.
    """
    mesh, chosen = jax.sharding.get_abstract_mesh(), mode()
    if chosen == "off" or mesh.size > 1 or not ctx.train or not ctx.taps.quiet:
        return False
    if chosen == "interpret":
        return True
    device = mesh.abstract_device  # of a slice, say, that is only compiled for
    if device is not None and device.platform not in ("gpu", "cuda"):
        return False
    return positions >= FEW and jnp.dtype(dtype) == jnp.bfloat16 and hopper()


@cache
def hopper() -> bool:
    """A GPU of the kind that was measured, and Pallas' lowering by Triton, which may leave JAX."""
    if jax.default_backend() != "gpu":
        return False
    # "9.0"; AMD's devices have "gfx..." there.
    if not jax.local_devices()[0].compute_capability.startswith("9."):
        return False
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None
