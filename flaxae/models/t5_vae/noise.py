"""Noise in training that smooths the latent space: on inputs, on codes, and on decoder inputs.

Noise on inputs follows the denoising autoencoder of Shen et al. (2020), word dropout Bowman et al.
(2016).
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flaxae.config import Section
from flaxae.config.ranges import Rate, Share, Whole
from flaxae.errors import require
from flaxae.lm.t5.modeling import EOS, PAD, shift_right
from flaxae.nn.linear import dropout
from flaxae.task import Context


@dataclasses.dataclass
class NoiseConfig(Section):
    """Probabilities of corruptions in training; 0: off. For Gaussian noise see `latent.noise_*`."""

    section: ClassVar[str] = "task.noise"

    mask: Rate = 0.0  # probability that an input token of the encoder becomes mask_id
    replace: Rate = 0.0  # probability that it becomes a random id instead
    shuffle: Share = 0.0  # probability that all tokens of a text are permuted
    swap: Whole = 0  # in texts that are not shuffled, tokens move by up to this number of places
    # Of the four corruptions above (both dropouts below are always on):
    share: Share = 1.0  # probability that a text is corrupted at all
    start: Rate = 0.0  # share of the run after which corruption begins: first copy, then write
    word_dropout: Rate = 0.0  # probability that one of the decoder becomes mask_id
    latent_dropout: Rate = 0.0  # probability that a number of the code becomes 0
    mask_id: Whole = 2  # <unk> of our tokenizers, which no text contains; for a T5: 32099

    def validate(self) -> None:
        """Check the fields."""
        require(
            self.mask + self.replace <= 1, "task.noise.mask + task.noise.replace must be at most 1"
        )
        require(
            self.mask + self.replace > 0 or self.permutes or (self.share == 1 and self.start == 0),
            "task.noise.share and task.noise.start are of the corruption of the encoder's inputs: "
            "they need task.noise.mask, replace, shuffle or swap",
        )
        require(
            not (self.swap and self.shuffle == 1),
            f"task.noise.swap={self.swap} is of texts that are not shuffled, but with "
            "task.noise.shuffle=1 all are",
        )

    @property
    def permutes(self) -> bool:
        """True if tokens of the encoder's inputs change places."""
        return self.shuffle > 0 or self.swap > 0


def corrupted(
    ids: list[Int[Array, "B S"]],
    noise: NoiseConfig,
    num_tokens: int,
    ctx: Context,
    horizon: int = 0,
) -> list[Int[Array, "B S"]]:
    """Corrupt the encoder's inputs in training; EOS, padding and lengths do not change.

    Args:
        ids: the texts, one array per length.
        noise: the probabilities.
        num_tokens: random ids are below it, and above EOS.
        ctx: the step's context.
        horizon: steps of the run, which `noise.start` is a share of.
    """
    if not ctx.train or not (noise.mask + noise.replace or noise.permutes):
        return ids
    out = []
    for i, part in enumerate(ids):
        at = ctx.at(f"corrupted{i}")
        draw = jax.random.uniform(at.key, part.shape)
        other = jax.random.randint(at.at("ids").key, part.shape, EOS + 1, num_tokens, jnp.int32)
        new = permuted(part, noise, at) if noise.permutes else part
        new = jnp.where(draw < noise.mask + noise.replace, other, new)
        new = jnp.where(draw < noise.mask, noise.mask_id, new)
        if noise.share < 1 or noise.start:
            chosen = jax.random.uniform(at.at("share").key, part.shape[:1]) < noise.share
            chosen &= ctx.step >= math.ceil(noise.start * horizon)
            new = jnp.where(chosen[:, None], new, part)
        out.append(jnp.where((part == PAD) | (part == EOS), part, new))
    return out


def permuted(ids: Int[Array, "B S"], noise: NoiseConfig, ctx: Context) -> Int[Array, "B S"]:
    """Permute the tokens of each text, EOS and padding excluded.

    A share `noise.shuffle` of the texts is permuted at random. In the others tokens are sorted by
    their position plus a draw from [0, noise.swap + 1), which moves none by more than `noise.swap`
    places (Lample et al. 2018).
    """
    rows, length = ids.shape
    draw = jax.random.uniform(ctx.at("order").key, ids.shape)
    positions = jnp.arange(length, dtype=jnp.float32)[None]  # (1, S)
    whole = jax.random.uniform(ctx.at("shuffle").key, (rows, 1)) < noise.shuffle
    keys = positions + (noise.swap + 1) * draw if noise.swap else positions
    keys = jnp.where(whole, length * draw, keys)
    # EOS and padding stay behind all tokens, in their order.
    keys = jnp.where((ids == PAD) | (ids == EOS), 2 * length + noise.swap + positions, keys)
    return jnp.take_along_axis(ids, jnp.argsort(keys, axis=1), axis=1)


def decoder_inputs(
    ids: list[Int[Array, "B S"]], noise: NoiseConfig, ctx: Context
) -> list[Int[Array, "B S"]] | None:
    """Return the decoder's inputs in training; None: the texts, shifted right."""
    if not ctx.train or not noise.word_dropout:
        return None
    out = []
    for i, part in enumerate(map(shift_right, ids)):
        draw = jax.random.uniform(ctx.at(f"word_dropout{i}").key, part.shape)
        dropped = (draw < noise.word_dropout) & (part != PAD)  # never the start id
        out.append(jnp.where(dropped, noise.mask_id, part))
    return out


def dropped_latents(
    z: Float[Array, "B L Z"], noise: NoiseConfig, ctx: Context
) -> Float[Array, "B L Z"]:
    """Apply dropout to codes, in training."""
    return dropout(z, noise.latent_dropout, ctx.at("latent_dropout"))
