"""Parts of the loss: masked inputs, the MMD of a batch, the details of the Haar upsampler."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flaxae.data.tokenizer import EOS, PAD
from flaxae.errors import require
from flaxae.lm.funnel.modeling import Encoded
from flaxae.losses import Kernel, mmd
from flaxae.models.funnel_ae.modeling import FunnelAEModel
from flaxae.task import Context

MASK_ID = 2  # <unk> of our tokenizers, which no text contains


def masked(ids: Int[Array, "B N"], prob: float, ctx: Context) -> Int[Array, "B N"]:
    """Replace tokens by MASK_ID in training; EOS and padding stay.

    Args:
        ids: the texts.
        prob: probability that a token is replaced.
        ctx: the step's context.
    """
    if not ctx.train or not prob:
        return ids
    drawn = jax.random.bernoulli(ctx.at("masked").key, prob, ids.shape)
    return jnp.where(drawn & (ids != PAD) & (ids != EOS), MASK_ID, ids)


def batch_mmd(codes: Float[Array, "B Z"], kernel: Kernel, ctx: Context) -> Float[Array, ""]:
    """Return the MMD^2 of a micro-batch's codes and an equal number of draws of N(0, I).

    Raises:
        ConfigError: if there are fewer than two codes (when traced).
    """
    require(
        len(codes) > 1,
        "task.latent.kind=mmd compares the texts of a micro-batch: give each at least 2 "
        "(data.batch_size, grad_accum)",
    )
    prior = jax.random.normal(ctx.at("prior").key, codes.shape, jnp.float32)
    return mmd(codes, prior, kernel)


class Details(NamedTuple):
    """Sums over the pairs of real tokens of one level.

    Attributes:
        error: squared error of the predicted details.
        square: squares of the details.
        total: the details.
        count: pairs.
    """

    error: Any  # jax or numpy arrays
    square: Any
    total: Any
    count: Any

    def unexplained(self) -> Any:
        """Return error / (spread of the details around their mean), that is 1 - R^2."""
        spread = self.square - (self.total**2).sum() / self.count.clip(1)
        return self.error / spread.clip(1e-9)


def details(
    model: FunnelAEModel, encoded: Encoded, rows: Float[Array, "B"], ctx: Context
) -> list[Details]:
    """Return sums of real and predicted Haar details, one of each per level, outermost first.

    Args:
        model: a model with Haar upsamplers.
        encoded: the encoder's states.
        rows: weights of the rows.
        ctx: context of the model.
    """
    out = []
    for guess, detail, real in model.details(encoded, ctx):
        weight = (real * rows[:, None])[..., None]
        guess, detail = guess.astype(jnp.float32), detail.astype(jnp.float32)
        error, square = ((weight * jnp.square(x)).sum() for x in (guess - detail, detail))
        out.append(Details(error, square, (weight * detail).sum((0, 1)), weight.sum()))
    return out
