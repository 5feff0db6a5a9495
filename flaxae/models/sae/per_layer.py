"""Dictionaries over the states of several layers at once, with weights of their own per layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.models.sae.penalties import hoyer_square
from flaxae.task import Carry, Context


class LayerLinear(nnx.Module):
    """A linear map per layer, (B, L, I) -> (B, L, O).

    Args:
        layers: number of layers.
        in_features: features of the input per layer.
        out_features: features of the output per layer.
        rngs: source of the initial values, its stream `params`.
    """

    def __init__(self, layers: int, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        shape = (layers, in_features, out_features)
        kernel = jax.random.normal(rngs.params(), shape, jnp.float32) * in_features**-0.5
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((layers, out_features), jnp.float32))

    def __call__(self, x: Float[Array, "B L I"], ctx: Context) -> Float[Array, "B L O"]:
        """Return each layer's output."""
        return jnp.einsum("bli,lio->blo", x, self.kernel[...]) + self.bias[...][None]


class RunningNorm(nnx.Module):
    """Mean and standard deviation per layer and feature; by a batch in training, else running ones.

    The output is mapped back by the same numbers: they are the bias that input and output share.
    """

    def __init__(self, layers: int, features: int, *, decay: float = 0.99):
        self.decay = decay
        self.mean = Carry(jnp.zeros((layers, features), jnp.float32))
        self.variance = Carry(jnp.ones((layers, features), jnp.float32))
        self.started = Carry(jnp.zeros((), bool))

    def statistics(
        self, x: Float[Array, "B L D"], weights: Float[Array, "B"], ctx: Context
    ) -> tuple[Float[Array, "L D"], Float[Array, "L D"]]:
        """Return mean and standard deviation; in training, move the running ones."""
        mean: Any = self.mean[...]
        variance: Any = self.variance[...]
        if ctx.train:
            share = (weights / jnp.maximum(weights.sum(), 1e-30))[:, None, None]
            own = jax.lax.stop_gradient((x * share).sum(0))
            spread = jax.lax.stop_gradient((jnp.square(x - own[None]) * share).sum(0))
            real = weights.sum() > 0
            # The first batch is taken whole: an average that starts at 0 and 1 would be wrong.
            new: Any = jnp.where(self.started[...], 1 - self.decay, 1.0)
            new = jnp.where(real, new, 0.0)
            distance = own - mean
            self.mean[...] = mean + new * distance
            # The variance of the two batches together, around their common mean.
            within = (1 - new) * variance + new * spread
            self.variance[...] = within + new * (1 - new) * jnp.square(distance)
            self.started[...] = self.started[...] | real
            mean, variance = own, spread
        return mean, jnp.sqrt(jnp.maximum(variance, 1e-6))


class LayeredOutput(NamedTuple):
    """Latents (B, L, F) and reconstructions (B, L, D)."""

    latents: Float[Array, "B L F"]
    output: Float[Array, "B L D"]


class LayeredAutoencoder(nnx.Module):
    """One ReLU encoder and decoder per layer.

    Args:
        layers: number of layers.
        features: features per layer.
        latents: latents per layer.
        normalised: whether states are normalised by `RunningNorm`.
        rngs: source of the initial values, its stream `params`.
    """

    def __init__(
        self, layers: int, features: int, latents: int, *, normalised: bool, rngs: nnx.Rngs
    ):
        self.encoder = LayerLinear(layers, features, latents, rngs=rngs)
        self.decoder = LayerLinear(layers, latents, features, rngs=rngs)
        self.norm = RunningNorm(layers, features) if normalised else None

    def __call__(
        self, x: Float[Array, "B L D"], ctx: Context, weights: Float[Array, "B"]
    ) -> LayeredOutput:
        """Return latents and reconstructions.

        Args:
            x: states.
            ctx: context.
            weights: weight of each row; 0 for padding.
        """
        inputs, mean, std = x, None, None
        if self.norm is not None:
            mean, std = self.norm.statistics(x, weights, ctx)
            inputs = (x - mean[None]) / std[None]
        f = ctx.tap("latents", jax.nn.relu(self.encoder(inputs, ctx.at("encoder"))))
        output = self.decoder(f, ctx.at("decoder"))
        if mean is not None and std is not None:
            output = output * std[None] + mean[None]
        return LayeredOutput(f, output)


def layered_loss(
    found: LayeredOutput,
    x: Float[Array, "B L D"],
    weights: Float[Array, "B"],
    *,
    importance: Float[Array, "L D"] | None,
    sparsity: float | Float[Array, ""],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the loss of a batch and its parts, as sums over rows.

    Args:
        found: output of a `LayeredAutoencoder`.
        x: states.
        weights: weight of each row.
        importance: factor of each feature's error, per layer; None: 1.
        sparsity: weight of DeepHoyer's penalty of each row's latents.
    """
    scale = jnp.ones(x.shape[1:], jnp.float32) if importance is None else importance
    error = jnp.square((found.output - x) * scale[None]).sum((1, 2))
    hoyer = jax.vmap(hoyer_square)(found.latents.reshape(len(x), -1))
    parts = {"recon": jnp.sum(error * weights), "sparsity": jnp.sum(hoyer * weights)}
    return parts["recon"] + sparsity * parts["sparsity"], parts
