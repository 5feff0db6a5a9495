"""A dictionary in training: with the scale of its states and the activity of its latents."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool

from flaxae.models.sae.config import SAEOptions
from flaxae.models.sae.dead import Activity, updated_silence
from flaxae.models.sae.options import Architecture
from flaxae.models.sae.per_layer import LayeredAutoencoder
from flaxae.models.sae.quantised import FSQ, VQ, StateTokenizer
from flaxae.sparse_autoencoder.modules import Activation, SparseAutoencoder
from flaxae.task import Carry


class TrainedSAE(nnx.Module):
    """A dictionary, the factors of its states, and the tokens since each latent was active.

    Args:
        options: the task's config.
        d_in: width of the input.
        d_out: width of the output.
        pool: inputs that dead latents are resampled from; 0: none.
        rngs: source of the initial values.

    Attributes:
        sae: the dictionary of multiplied states.
        factors: factor of the input and of the target, (2,).
        mean: mean of the multiplied targets of the first batches, (O,), for exact sums of squares.
        silent: tokens since each latent was active, (F,).
        pool_x: inputs of the last batch, for resampling, (P, I).
        pool_loss: their squared errors, (P,).
    """

    def __init__(self, options: SAEOptions, d_in: int, d_out: int, *, pool: int, rngs: nnx.Rngs):
        config = options.dictionary(d_in, d_out)
        self.sae = SparseAutoencoder(
            config,
            rngs=rngs,
            decoder_norm=1.0 if options.unit_norm else 0.1,
            threshold=options.threshold,
        )
        self.factors = Carry(jnp.ones(2, jnp.float32))
        self.mean = Carry(jnp.zeros(config.d_out, jnp.float32))
        self.silent = Carry(jnp.zeros(config.d_sae, jnp.int32))
        if pool:
            self.pool_x = Carry(jnp.zeros((pool, d_in), jnp.float32))
            self.pool_loss = Carry(jnp.zeros(pool, jnp.float32))

    def dead(self, after: int) -> Bool[Array, "F"]:
        """Return the latents that were not active in the last `after` tokens."""
        return self.silent[...] >= after

    def observe(self, found: Activity, rate: float) -> None:
        """Count activity, and move the threshold of batch top-k towards the least active value.

        Args:
            found: activity in a batch.
            rate: share of this batch in the threshold's moving average.
        """
        self.silent[...] = updated_silence(self.silent[...], found)
        if self.sae.config.activation is not Activation.BATCH_TOPK:
            return
        least, old = found.least, jnp.asarray(self.sae.threshold[...])
        # The first value is taken whole, or the average of a short run would be far too low.
        moved = jnp.where(old > 0, (1 - rate) * old + rate * least, least)
        self.sae.threshold[...] = jnp.where(jnp.isfinite(least), moved, old)


class TrainedStates(nnx.Module):
    """A model of states of several layers: `layered`, `vq` or `fsq`, with the factor of the states.

    Args:
        options: the task's config.
        layers: number of layers.
        width: width of each.
        rngs: source of the initial values.
    """

    def __init__(self, options: SAEOptions, layers: int, width: int, *, rngs: nnx.Rngs):
        self.factors = Carry(jnp.ones(2, jnp.float32))
        self.mean = Carry(jnp.zeros((layers, width), jnp.float32))
        if options.architecture is Architecture.LAYERED:
            latents = options.d_sae or options.expansion * width
            self.inner: Any = LayeredAutoencoder(
                layers, width, latents, normalised=options.normalised, rngs=rngs
            )
            return
        if options.architecture is Architecture.FSQ:
            quantiser: Any = FSQ(options.levels)
        else:
            quantiser = VQ(
                options.codes, options.code_width, rngs=rngs, commitment=options.commitment
            )
        self.inner = StateTokenizer(
            layers,
            width,
            tokens=options.tokens,
            hidden=options.hidden,
            quantiser=quantiser,
            rngs=rngs,
        )
