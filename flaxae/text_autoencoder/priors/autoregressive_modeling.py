"""A causal transformer over the latents of a code, which predicts a mixture of Gaussians each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from flaxae.nn.attention import Attention
from flaxae.nn.bias import causal_bias
from flaxae.nn.linear import Embedding, Linear
from flaxae.nn.mlp import MLP, FeedForward
from flaxae.nn.norm import RMSNorm
from flaxae.nn.stack import scan_blocks, stacked
from flaxae.task import Context

LOWEST = -5.0  # least logarithm of a standard deviation, in units of the whitened codes


class Mixtures(NamedTuple):
    """Mixtures of Gaussians with diagonal covariances, one per latent.

    Attributes:
        log_weights: log probabilities of the components.
        means: their means.
        log_stds: logarithms of their standard deviations.
    """

    log_weights: Float[Array, "B L K"]
    means: Float[Array, "B L K Z"]
    log_stds: Float[Array, "B L K Z"]

    def log_joint(self, z: Float[Array, "B L Z"]) -> Float[Array, "B L K"]:
        """Return log p(component, latent) of each latent."""
        noise = (z[:, :, None] - self.means) / jnp.exp(self.log_stds)
        constant = jnp.log(2 * jnp.pi)
        inner = -0.5 * (jnp.square(noise) + constant) - self.log_stds
        return self.log_weights + inner.sum(-1)


class Block(nnx.Module):
    """Pre-norm causal self-attention and feed-forward."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.attention_norm, self.mlp_norm = RMSNorm(width), RMSNorm(width)
        self.attention = Attention(width, heads, width // heads, rngs=rngs)
        self.mlp = MLP(width, 4 * width, kind=FeedForward.RELU, rngs=rngs)

    def __call__(self, x: Float[Array, "B L W"], ctx: Context) -> Float[Array, "B L W"]:
        """Return the residual stream after the block."""
        rows, length, _ = x.shape
        y = rearrange(self.attention_norm(x, ctx), "b l w -> (b l) w")
        y = self.attention(
            y, ctx.at("attention"), segments=((rows, length),), bias=[causal_bias(length)]
        )
        x = x + rearrange(y, "(b l) w -> b l w", b=rows)
        return x + self.mlp(self.mlp_norm(x, ctx), ctx.at("mlp"))


class LatentTransformer(nnx.Module):
    """p(z) = product over l of p(z_l | z_1 ... z_(l-1)), each a mixture of Gaussians.

    The components' means have a term that is linear in the previous latent, and their outputs start
    at 0: an untrained model is a mixture of Gaussians that does not depend on earlier latents.
    """

    def __init__(
        self,
        latents: int,
        dim: int,
        width: int,
        depth: int,
        heads: int,
        components: int,
        unroll: int = 1,
        *,
        rngs: nnx.Rngs,
    ):
        """Initialise the parameters.

        Args:
            latents: L, latents per code.
            dim: Z, numbers per latent.
            width: width of the residual stream.
            depth: number of blocks.
            heads: heads of the attention, which divide the width.
            components: K, Gaussians per mixture.
            unroll: blocks per iteration of the scan.
            rngs: source of the initialisation, by `rngs.params()`.
        """
        self.latents, self.dim, self.components, self.unroll = latents, dim, components, unroll
        self.heads = heads
        self.read = Linear(dim, width, rngs=rngs)
        self.positions = Embedding(latents, width, rngs=rngs)  # the first one begins the code
        self.blocks = stacked(lambda r: Block(width, heads, rngs=r), depth, rngs)
        self.norm = RMSNorm(width)
        self.write = Linear(width, components * (1 + 2 * dim), use_bias=True, std=0.0, rngs=rngs)
        self.follow = Linear(dim, components * dim, std=0.0, rngs=rngs)
        spread = 1.0 if components > 1 else 0.0  # equal components would stay equal
        draw = jax.random.normal(rngs.params(), (components, dim), jnp.float32)
        self.centres = nnx.Param(spread * draw)

    def __call__(self, z: Float[Array, "B L Z"], ctx: Context) -> Mixtures:
        """Return the mixture of each latent given the latents before it.

        Args:
            z: whitened codes; the last latent is not read.
            ctx: the step's context.
        """
        ctx = ctx.at("latents")
        before = jnp.pad(z[:, :-1], ((0, 0), (1, 0), (0, 0)))  # (B, L, Z)
        x = self.read(before, ctx.at("read")) + self.positions.table[...][None]
        x, _ = scan_blocks(
            lambda block, h, ctx, _: (block(h, ctx), None),
            self.blocks,
            x,
            ctx.at("blocks"),
            unroll=self.unroll,
        )
        out = self.write(self.norm(x, ctx), ctx.at("write"))
        logits, rest = jnp.split(out, [self.components], axis=-1)
        rest = rearrange(rest, "b l (n k z) -> n b l k z", n=2, k=self.components)
        follow = rearrange(
            self.follow(before, ctx.at("follow")), "b l (k z) -> b l k z", k=self.components
        )
        means = rest[0] + follow + self.centres[...][None, None]
        return Mixtures(jax.nn.log_softmax(logits), means, jnp.maximum(rest[1], LOWEST))

    def log_density(self, z: Float[Array, "B L Z"], ctx: Context) -> Float[Array, "B"]:
        """Return log p(z) of whitened codes, in nats."""
        return jax.nn.logsumexp(self(z, ctx).log_joint(z), axis=-1).sum(-1)
