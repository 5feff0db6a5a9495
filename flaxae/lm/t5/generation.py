"""Text-to-text generation as a T5 was trained; the T5-VAE decodes from latent codes instead."""

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from flaxae import decoding
from flaxae.lm.t5.modeling import EOS, PAD, T5, shift_right
from flaxae.task import Context


def encode(
    t5: T5, ids: Int[Array, "B S"], mask: Float[Array, "B S"], ctx: Context
) -> Float[Array, "B S D"]:
    """Return the encoder's states, which are undefined at padding.

    Args:
        t5: the model.
        ids: token ids.
        mask: 1 for real tokens, 0 for padding.
        ctx: context of the model.
    """
    rows, length = ids.shape
    ctx = ctx.at("encoder")
    x = t5.embedding(rearrange(ids, "B S -> (B S)"), ctx.at("embedding"))
    x = t5.encoder(x, ctx, segments=((rows, length),), masks=[mask])
    return rearrange(x, "(B S) D -> B S D", B=rows)


def logits(
    t5: T5,
    states: Float[Array, "B S D"],
    mask: Float[Array, "B S"],
    targets: Int[Array, "B T"],
    ctx: Context,
) -> Float[Array, "B T V"]:
    """Return the scores of every target id, given the ids before it (teacher forcing).

    Args:
        t5: the model.
        states: output of `encode`.
        mask: 1 for real tokens of the input, 0 for padding.
        targets: ids that end with EOS; the start id is put before them.
        ctx: context of the model.
    """
    rows, length = targets.shape
    ctx = ctx.at("decoder")
    x = t5.decoder(
        t5.embedding(rearrange(shift_right(targets), "B T -> (B T)"), ctx.at("embedding")),
        ctx,
        segments=((rows, length),),
        memory=rearrange(states, "B S D -> (B S) D"),
        memory_segments=((rows, states.shape[1]),),
        memory_masks=[mask],
    )
    return rearrange(t5.logits(x, ctx), "(B T) V -> B T V", B=rows)


def generate(
    t5: T5,
    ids: Int[Array, "B S"],
    mask: Float[Array, "B S"],
    ctx: Context,
    max_length: int,
    num_tokens: int = 0,
) -> Int[Array, "B T"]:
    """Decode greedily with a cache, in one loop that ends when all rows have ended.

    Call it under jit.

    Args:
        t5: the model.
        ids: token ids of the input.
        mask: 1 for real tokens of the input, 0 for padding.
        ctx: context of the model.
        max_length: maximum number of ids to decode, EOS included.
        num_tokens: ids from this one on are never generated (T5's table has 32128 rows, its
            tokenizer 32100 tokens); 0: all ids may be.

    Returns:
        The ids with EOS, then 0.
    """
    states = encode(t5, ids, mask, ctx)
    ctx = ctx.at("decoder")

    def step(last: Array, cache: dict, index: Array) -> tuple[Array, dict]:
        x, cache = t5.decoder.step(t5.embedding(last, ctx.at("embedding")), ctx, cache, index, mask)
        scores = t5.logits(x, ctx)
        return decoding.mask_unused(scores, num_tokens or scores.shape[-1]), cache

    cache = t5.decoder.init_cache(states, ctx, max_length)
    start = jnp.full(ids.shape[0], PAD, jnp.int32)
    return decoding.greedy(step, cache, start, max_length, eos=EOS, pad=PAD)
