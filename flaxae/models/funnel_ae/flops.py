"""Matmul FLOPs of a Funnel AE's train step."""

from flaxae.lm.funnel.config import FunnelConfig
from flaxae.lm.funnel.pooling import block_lengths
from flaxae.models.funnel_ae.latents import LatentConfig


def train_step(funnel: FunnelConfig, latent: LatentConfig, length: int, rows: int) -> float:
    """Return the FLOPs of a train step: three times those of the forward pass.

    Args:
        funnel: sizes, with the vocabulary's.
        latent: the bottleneck.
        length: places per row.
        rows: rows of a batch.
    """
    width, inner = funnel.d_model, funnel.num_heads * funnel.d_head
    lengths = block_lengths(length, funnel)
    total = 0.0
    for size, layers, repeats in zip(lengths, funnel.block_sizes, funnel.repeats, strict=True):
        maps = 4 * width * inner + 2 * width * funnel.d_ff
        # Scores and values, and the scores of positions: their map to the width, and the sum.
        attention = 2 * inner * size + inner * width + funnel.num_heads * width * size
        total += 2 * layers * repeats * size * (maps + attention)  # encoder and decoder
    total += 2 * lengths[-1] * width * latent.dim
    return 3 * 2.0 * rows * (total + length * width * funnel.vocab_size)
