"""A T5 as it was trained: text in, text out. (The T5-VAE decodes from codes instead.)"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flaxae import decoding
from flaxae.lm.t5.modeling import EOS, PAD, T5, shift_right
from flaxae.task import Context


def encode(
    t5: T5, ids: Int[Array, "B S"], mask: Float[Array, "B S"], ctx: Context
) -> Float[Array, "B S D"]:
    """The encoder's states; those at padding mean nothing.

    Args:
        t5: the model.
        ids: token ids.
        mask: 1 for real tokens, 0 for padding.
        ctx: of the model.
    """
    rows, length = ids.shape
    ctx = ctx.at("encoder")
    x = t5.embedding(ids.reshape(-1), ctx.at("embedding"))
    x = t5.encoder(x, ctx, segments=((rows, length),), masks=[mask])
    return x.reshape(rows, length, -1)


def logits(
    t5: T5,
    states: Float[Array, "B S D"],
    mask: Float[Array, "B S"],
    targets: Int[Array, "B T"],
    ctx: Context,
) -> Float[Array, "B T V"]:
    """Scores of every target id given the ids before it (teacher forcing).

    Args:
        t5: the model.
        states, mask: what `encode` gave, and was given.
        targets: ids that end with EOS; the start id is put before them.
        ctx: of the model.
    """
    rows, length = targets.shape
    ctx = ctx.at("decoder")
    x = t5.decoder(
        t5.embedding(shift_right(targets).reshape(-1), ctx.at("embedding")),
        ctx,
        segments=((rows, length),),
        memory=states.reshape(-1, states.shape[-1]),
        memory_segments=((rows, states.shape[1]),),
        memory_masks=[mask],
    )
    return t5.logits(x, ctx).reshape(rows, length, -1)


def generate(
    t5: T5,
    ids: Int[Array, "B S"],
    mask: Float[Array, "B S"],
    ctx: Context,
    max_length: int,
    num_tokens: int = 0,
) -> Int[Array, "B T"]:
    """Greedy, KV-cached, one loop that ends when all rows have. Call it under jit.

    Args:
        t5: the model.
        ids, mask: the input, as for `encode`.
        ctx: of the model.
        max_length: ids to decode at most, EOS included.
        num_tokens: ids from here on are never generated (T5's table has 32128 rows, its tokenizer
            32100); 0: all may be.

    Returns:
        ids with EOS, then 0.
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
