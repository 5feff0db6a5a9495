"""The velocity of a rectified flow on codes: a residual MLP with a time embedding."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.nn.linear import Linear
from flaxae.nn.norm import RMSNorm
from flaxae.nn.stack import scan_blocks, stacked
from flaxae.task import Context

FREQUENCIES = 64  # of the time embedding, which has a sine and a cosine of each


class Block(nnx.Module):
    """A residual block x + gate * MLP(norm(x) * (1 + scale) + shift).

    Gate, scale and shift are linear functions of the time embedding and start at 0, so that the
    block starts as the identity (adaLN-Zero, Peebles & Xie 2022).
    """

    def __init__(self, width: int, time: int, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(width)
        self.up = Linear(width, width, use_bias=True, rngs=rngs)
        self.down = Linear(width, width, use_bias=True, rngs=rngs)
        self.modulate = Linear(time, 3 * width, use_bias=True, std=0.0, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B W"], time: Float[Array, "B E"], ctx: Context
    ) -> Float[Array, "B W"]:
        """Return the block's output.

        Args:
            x: the residual stream.
            time: the time embedding.
            ctx: the step's context.
        """
        scale, shift, gate = jnp.split(self.modulate(time, ctx.at("modulate")), 3, axis=-1)
        hidden = self.norm(x, ctx) * (1 + scale) + shift
        hidden = self.down(jax.nn.silu(self.up(hidden, ctx.at("up"))), ctx.at("down"))
        return x + gate * hidden


class Velocity(nnx.Module):
    """The velocity v(x, t) of x_t = (1 - t) noise + t code (Liu et al. 2022).

    The velocity for standard normal codes is built in. So an untrained flow maps N(0, I) to N(0, I)
    and the network only learns how the codes differ from a normal distribution.

    With self-conditioning (Chen et al. 2023, "Analog Bits") the network also reads an estimate of
    the code, which it makes in a first pass without one. The velocity stays a function of x and t
    alone, so that the flow remains an ordinary differential equation with an inverse.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        unroll: int = 1,
        self_condition: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        """Initialise the parameters.

        Args:
            dim: numbers per code.
            width: width of the residual stream.
            depth: number of blocks.
            unroll: blocks per iteration of the scan.
            self_condition: whether the network reads its first estimate of the code.
            rngs: source of the initialisation, by `rngs.params()`.
        """
        self.dim, self.unroll, self.self_condition = dim, unroll, self_condition
        self.embed = Linear(2 * FREQUENCIES, 2 * FREQUENCIES, use_bias=True, rngs=rngs)
        self.read = Linear(dim, width, use_bias=True, rngs=rngs)
        self.blocks = stacked(lambda r: Block(width, 2 * FREQUENCIES, rngs=r), depth, rngs)
        self.norm = RMSNorm(width)
        self.write = Linear(width, dim, use_bias=True, std=0.0, rngs=rngs)
        if self_condition:
            self.read_estimate = Linear(dim, width, std=0.0, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B D"], t: Float[Array, "B"], ctx: Context
    ) -> Float[Array, "B D"]:
        """Return the velocity of each row.

        Args:
            x: points, in the space of whitened codes.
            t: times: 0 is noise, 1 is codes.
            ctx: the step's context.
        """
        if not self.self_condition:
            return self.once(x, t, ctx)
        return self.once(x, t, ctx, self.estimate(x, t, ctx))

    def estimate(
        self, x: Float[Array, "B D"], t: Float[Array, "B"], ctx: Context
    ) -> Float[Array, "B D"]:
        """Return the code that each row is on its way to: x + (1 - t) v, without a gradient."""
        first = self.once(x, t, ctx.at("first"))
        return jax.lax.stop_gradient(x + (1 - t)[:, None] * first)

    def once(
        self,
        x: Float[Array, "B D"],
        t: Float[Array, "B"],
        ctx: Context,
        estimate: Float[Array, "B D"] | None = None,
    ) -> Float[Array, "B D"]:
        """Return the velocity of each row by one pass of the network.

        Args:
            x: points, in the space of whitened codes.
            t: times: 0 is noise, 1 is codes.
            ctx: the step's context.
            estimate: an estimate of the code; None or zeros: none.
        """
        ctx = ctx.at("velocity")
        hidden = self.read(x, ctx.at("read"))
        if estimate is not None:
            hidden = hidden + self.read_estimate(estimate, ctx.at("read_estimate"))
        time = jax.nn.silu(self.embed(waves(t), ctx.at("embed")))
        hidden, _ = scan_blocks(
            lambda block, h, ctx, _: (block(h, time, ctx), None),
            self.blocks,
            hidden,
            ctx.at("blocks"),
            unroll=self.unroll,
        )
        learned = self.write(self.norm(hidden, ctx), ctx.at("write"))
        return normal_velocity(t)[:, None] * x + learned


def waves(t: Float[Array, "B"]) -> Float[Array, "B E"]:
    """Return sines and cosines of t at frequencies from 1/2 to 100, evenly spaced in their logs."""
    turns = jnp.exp(jnp.linspace(jnp.log(0.5), jnp.log(100.0), FREQUENCIES))
    angle = 2 * jnp.pi * t[:, None] * turns[None, :]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def normal_velocity(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return a(t) of E[code - noise | x_t] = a(t) x_t, if codes and noise are N(0, I)."""
    return (2 * t - 1) / (jnp.square(t) + jnp.square(1 - t))
