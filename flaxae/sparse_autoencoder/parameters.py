"""The arrays of a dictionary by name, and dictionaries made from arrays."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxae.errors import require
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig, SparseAutoencoder
from flaxae.task import Carry


def shapes(config: SAEConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a dictionary's arrays, by the names of `SparseAutoencoder`."""
    d_in, d_sae, d_out = config.d_in, config.d_sae, config.d_out
    found: dict[str, tuple[int, ...]] = {
        "w_enc": (d_in, d_sae),
        "w_dec": (d_sae, d_out),
        "b_enc": (d_sae,),
        "b_dec": (d_out,),
    }
    if config.activation is Activation.JUMPRELU:
        found["threshold"] = (d_sae,)
    if config.activation is Activation.BATCH_TOPK:
        found["threshold"] = ()
    if config.activation is Activation.GATED:
        found |= {"r_mag": (d_sae,), "b_mag": (d_sae,)}
    if config.skip:
        found["w_skip"] = (d_in, d_out)
    return found


def values(sae: SparseAutoencoder) -> dict[str, np.ndarray]:
    """Return a dictionary's arrays on the host, float32."""
    return {name: np.asarray(getattr(sae, name)[...], np.float32) for name in shapes(sae.config)}


def build(config: SAEConfig, arrays: Mapping[str, Any], where: str = "") -> SparseAutoencoder:
    """Make a dictionary from its arrays.

    Args:
        config: sizes and activation.
        arrays: the arrays, by the names of `shapes`.
        where: beginning of messages, such as the file's path.

    Returns:
        The dictionary, float32.

    Raises:
        ConfigError: if an array is missing or unexpected, or has another shape.
    """
    check(shapes(config), {name: np.shape(x) for name, x in arrays.items()}, where)
    sae = nnx.eval_shape(lambda: SparseAutoencoder(config, rngs=nnx.Rngs(0)))
    for name, value in arrays.items():
        carried = config.activation is Activation.BATCH_TOPK and name == "threshold"
        kind = Carry if carried else nnx.Param
        setattr(sae, name, kind(jnp.asarray(value, jnp.float32)))
    return sae


def check(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str = ""
) -> None:
    """Raise ConfigError for a missing or unexpected tensor, or one of another shape.

    Args:
        wanted: name -> shape of the tensors that there must be.
        found: name -> shape of those that there are.
        where: beginning of messages.
    """
    start = f"{where}: " if where else ""
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    require(not missing, f"{start}tensor {', '.join(missing)} is missing")
    require(
        not extra,
        f"{start}unexpected tensor {', '.join(extra)}: only {', '.join(sorted(wanted))} belong to "
        "a dictionary of this architecture",
    )
    for name, shape in wanted.items():
        have = tuple(found[name])
        require(have == tuple(shape), f"{start}{name} has shape {have}, not {tuple(shape)}")
