"""Toy models for the adapters' tests, and their outputs."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxae.lm.t5.blocks import T5Config
from flaxae.lm.t5.generation import encode, logits
from flaxae.lm.t5.modeling import T5
from flaxae.nn.linear import Linear
from flaxae.nn.norm import RMSNorm
from flaxae.nn.stack import scan_blocks, stacked
from flaxae.task import Context

WIDTH, LAYERS, BATCH, LENGTH = 8, 3, 4, 5


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = RMSNorm(WIDTH)
        self.up = Linear(WIDTH, 2 * WIDTH, use_bias=True, rngs=rngs)
        self.down = Linear(2 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x, ctx):
        y = jax.nn.relu(self.up(self.norm(x, ctx.at("norm")), ctx.at("up")))
        return ctx.tap("out", x + self.down(y, ctx.at("down")).astype(x.dtype))


class Net(nnx.Module):
    """A stack of blocks with biases, and a head; it has no Hugging Face names."""

    def __init__(self, seed=0, remat=False):
        rngs = nnx.Rngs(seed)
        self.blocks = stacked(Block, LAYERS, rngs)
        self.blocks.up.bias[...] = jax.random.normal(rngs.params(), (LAYERS, 2 * WIDTH))
        self.final_norm = RMSNorm(WIDTH)
        self.head = Linear(WIDTH, 6, use_bias=True, rngs=rngs)
        self.remat = remat

    def __call__(self, x, ctx):
        def call(block, x, at, _):
            return block(x, at), None

        x, _ = scan_blocks(call, self.blocks, x, ctx.at("blocks"), remat=self.remat)
        return self.head(self.final_norm(x, ctx.at("final_norm")), ctx.at("head"))


def context(key=0, **fields):
    return Context(key=jax.random.key(key), step=jnp.int32(0), **fields)


def inputs(seed=0):
    return jax.random.normal(jax.random.key(seed), (BATCH, LENGTH, WIDTH))


def run(model, x=None, **fields):
    """Return the model's output, jitted."""
    graphdef, state = nnx.split(model)
    at, x = context(**fields), inputs() if x is None else x

    def forward(state, x):
        return nnx.merge(graphdef, state)(x, at)

    return np.asarray(jax.jit(forward)(state, x))


def loss_of(model, kinds):
    """Return a loss as a function of the variables of a kind, and their values."""
    graphdef, params, rest = nnx.split(model, kinds, ...)
    x, ctx = inputs(), context()

    def loss(params):
        return jnp.sum(jnp.square(nnx.merge(graphdef, params, rest)(x, ctx)))

    return jax.jit(loss), params


def moved(model, kinds, seed=1, size=0.3):
    """Return the model with all variables of a kind moved at random."""
    graphdef, state, rest = nnx.split(model, kinds, ...)
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    draws = [x + size * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, draws), rest)


def t5(**fields):
    return T5(T5Config(vocab_size=32, d_model=16, d_ff=24, d_kv=4, **fields), rngs=nnx.Rngs(0))


def run_t5(model, **fields):
    ids = jax.random.randint(jax.random.key(5), (3, 6), 2, 32)
    targets = jax.random.randint(jax.random.key(6), (3, 4), 2, 32)
    mask = jnp.ones(ids.shape, jnp.float32)
    graphdef, state = nnx.split(model)
    ctx = context(**fields)

    def forward(state):
        model = nnx.merge(graphdef, state)
        return logits(model, encode(model, ids, mask, ctx), mask, targets, ctx)

    return np.asarray(jax.jit(forward)(state))
