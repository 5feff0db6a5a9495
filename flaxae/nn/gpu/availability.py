"""Decides whether the GPU kernels are used, by environment, device, mesh and context."""

import importlib.util
import os
from functools import cache

import jax
import jax.numpy as jnp

from flaxae.errors import ConfigError
from flaxae.task import Context

MODES = ("auto", "off", "interpret")  # interpret: the kernels' own code by plain JAX, anywhere
FEW = 1024  # positions; with fewer, joining the weights takes longer than it saves


def mode() -> str:
    """Return the mode of FLAXAE_GPU_KERNELS in the environment, one of MODES.

    Raises:
        ConfigError: if the variable has another value.
    """
    found = os.environ.get("FLAXAE_GPU_KERNELS", "auto")
    if found not in MODES:
        raise ConfigError(f"FLAXAE_GPU_KERNELS={found!r} is not one of: {', '.join(MODES)}")
    return found


def usable(ctx: Context, positions: int, dtype: jnp.dtype | type) -> bool:
    """Decide whether a layer that is traced now uses the kernels: in training, on one device.

    They are not used over the devices of a mesh (the one of `jax.set_mesh`), since XLA cannot
    partition a kernel, nor if states inside layers are recorded or replaced, since the kernels do
    not expose them.

    Args:
        ctx: the layer's context.
        positions: positions of all rows together.
        dtype: type of the computation; the kernels were measured with bfloat16.

    Returns:
        True if the kernels are used.
    """
    mesh, chosen = jax.sharding.get_abstract_mesh(), mode()
    if chosen == "off" or mesh.size > 1 or not ctx.train or not ctx.taps.quiet:
        return False
    if chosen == "interpret":
        return True
    device = mesh.abstract_device  # e.g. a chip of a slice that is only compiled for
    if device is not None and device.platform not in ("gpu", "cuda"):
        return False
    return positions >= FEW and jnp.dtype(dtype) == jnp.bfloat16 and hopper()


@cache
def hopper() -> bool:
    """Return True on a Hopper GPU, the measured kind, if Pallas can lower to Triton.

    Triton lowering is checked because it may be removed from JAX.
    """
    if jax.default_backend() != "gpu":
        return False
    # "9.0" on Hopper; AMD's devices report "gfx...".
    if not jax.local_devices()[0].compute_capability.startswith("9."):
        return False
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None
