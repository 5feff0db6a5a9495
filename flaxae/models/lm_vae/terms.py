"""Terms of an LM-VAE's loss, and the words that its decoder does not read."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from flaxae.config import Config
from flaxae.data.tokenizer import PAD
from flaxae.errors import require
from flaxae.losses import Kernel, mmd
from flaxae.task import Context


def with_dropped(ids: Array, rate: float, ctx: Context) -> Array:
    """Replace words that the decoder reads, in training, by padding, which it reads as an end."""
    if not ctx.train or not rate:
        return ids
    drop = jax.random.uniform(ctx.at("word_dropout").key, ids.shape) < rate
    return jnp.where(drop, PAD, ids)


def check_rows(config: Config, texts: int) -> None:
    """Check that a micro-batch of training has the two texts that an MMD needs."""
    weight = getattr(config.task, "mmd_weight", 0.0)
    batch_size = getattr(config.data, "batch_size", texts)
    require(
        not weight or texts > 1,
        f"task.mmd_weight={weight}: an MMD needs two texts per micro-batch, and data.batch_size="
        f"{batch_size} / accumulate={config.accumulate} is 1: raise data.batch_size, lower "
        "accumulate, or train without the MMD (task.mmd_weight=0)",
    )


def batch_mmd(codes: Float[Array, "B 1 Z"], kernel: Kernel, ctx: Context) -> Float[Array, ""]:
    """Return the MMD^2 of received codes and a draw of N(0, I); 0 for one code."""
    flat = rearrange(codes, "b l z -> b (l z)")
    if len(flat) < 2:
        # A lane may have a weight if the config has none: it fails, as its loss is not finite.
        weight: Any = ctx.hparams.get("mmd_weight", jnp.float32(0))
        return jnp.where(weight > 0, jnp.nan, 0.0)
    return mmd(flat, jax.random.normal(ctx.at("prior").key, flat.shape, jnp.float32), kernel)
