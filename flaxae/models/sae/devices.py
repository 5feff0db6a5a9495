"""The devices of the model whose states are read, and models that are only compiled."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from flaxae.config import MeshConfig
from flaxae.lm.sizes import lm_size
from flaxae.machine.sharding import make_mesh


def reader_mesh(config: MeshConfig) -> Mesh | None:
    """Return a run's devices on the axis fsdp, for the model that is read; None: only one.

    The mesh of the dictionary may have all devices on the axis model, which splits no language
    model. The states are on the host between the two programs.
    """
    sizes = (config.replica, config.fsdp, config.model)
    have = jax.device_count()
    count = have if 0 in sizes else math.prod(sizes)
    # A run of more devices can be opened on fewer.
    if count == 1 or count > have:
        return None
    return make_mesh(MeshConfig(fsdp=count))


def abstract_model(sizes: str, weights: str, dtype: str) -> Any:
    """Return the structure of a language model of published size, without values."""
    kind, config = lm_size(sizes, dtype=dtype)
    make: Any = kind
    model = nnx.eval_shape(lambda: make(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    cast = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(weights)), state)
    return nnx.merge(graphdef, cast)
