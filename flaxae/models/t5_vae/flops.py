"""Matmul FLOPs of a forward pass of a T5-VAE, by part."""

from collections.abc import Sequence

from flaxae.lm.t5.blocks import T5Config
from flaxae.models.t5_vae.bottlenecks import Bottleneck, LatentConfig

Shapes = Sequence[tuple[int, int]]  # (rows, length) of each bucket


def _feed_forward(t5: T5Config) -> int:
    return (2 if t5.feed_forward.value == "relu" else 3) * t5.d_model * t5.d_ff


def encode(t5: T5Config, latent: LatentConfig, max_length: int, shapes: Shapes) -> float:
    """Return the FLOPs of the encoder and the bottleneck."""
    width, inner = t5.d_model, t5.num_heads * t5.d_kv
    total, heads, num = 0.0, 1 + latent.gaussian, latent.num_latents
    per_text = {
        Bottleneck.FLATTEN: max_length * heads * latent.size * width,
        Bottleneck.MEAN: heads * latent.size * width,
        Bottleneck.FIRST_N: latent.first_n * heads * latent.size * width,
    }.get(latent.bottleneck, num * width * (2 * inner + heads * latent.dim))
    attends = latent.bottleneck in (Bottleneck.RESAMPLER, Bottleneck.ATTENTION_POOL)
    for rows, length in shapes:
        tokens = rows * length
        block = 4 * width * inner + _feed_forward(t5) + 2 * inner * length
        total += t5.num_layers * tokens * block
        total += rows * per_text
        total += attends * tokens * (2 * width * inner + 2 * inner * num)
    return 2 * total


def decode(t5: T5Config, latent: LatentConfig, max_length: int, shapes: Shapes) -> float:
    """Return the FLOPs of the teacher-forced decoder and its maps of z, without the head."""
    width, inner, layers = t5.d_model, t5.num_heads * t5.d_kv, t5.num_decoder_layers
    memory, total = latent.memory_tokens, 0.0
    from_code = width * (memory + latent.injection * max_length + latent.embed_injection)
    from_code += latent.kv_slot * layers * inner
    for rows, length in shapes:
        tokens = rows * length
        block = 6 * width * inner + _feed_forward(t5) + 2 * inner * (length + memory)
        total += layers * (tokens * block + rows * memory * 2 * width * inner)
        total += rows * latent.size * from_code
    return 2 * total


def head(t5: T5Config, vocab_size: int, shapes: Shapes) -> float:
    """Return the FLOPs of the output head."""
    return 2.0 * sum(rows * length for rows, length in shapes) * t5.d_model * vocab_size


def train_step(
    t5: T5Config,
    latent: LatentConfig,
    max_length: int,
    shapes: Shapes,
    *,
    cycle: bool = False,
    critic: bool = False,
) -> float:
    """Return the FLOPs of a train step: three times those of the forward pass.

    Args:
        t5: sizes of encoder and decoder, with the vocabulary's.
        latent: the bottleneck, and how the decoder reads codes.
        max_length: maximum number of tokens per text.
        shapes: (rows, length) of each bucket.
        cycle: the loss has the cycle term.
        critic: the loss has the critic's terms.
    """
    args = (t5, latent, max_length, shapes)
    encoding, decoding = encode(*args), decode(*args)
    logits = head(t5, t5.vocab_size, shapes)
    total = encoding + decoding + logits
    if cycle or critic:
        total += encoding + 2 * logits  # the logits again, and their mean embeddings
    if critic:
        total += encoding + decoding + 2 * logits
    return 3 * total
