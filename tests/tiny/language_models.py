"""Tiny language models of several tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxae.lm.llama.modeling import Llama, LlamaConfig
from flaxae.lm.phi.modeling import Phi, PhiConfig
from flaxae.nn.rope import RopeScaling
from flaxae.task import Context

KINDS = {
    "llama": (
        Llama,
        LlamaConfig(
            d_model=16,
            d_ff=24,
            num_heads=4,
            num_kv_heads=2,
            head_dim=4,
            num_layers=3,
            vocab_size=50,
            max_length=200,
            tie_embeddings=True,
            rope_theta=100.0,
        ),
    ),
    "phi": (
        Phi,
        PhiConfig(
            d_model=16,
            d_ff=24,
            num_heads=2,
            num_kv_heads=2,
            head_dim=8,
            num_layers=3,
            vocab_size=50,
            max_length=200,
            rotary_dim=4,
            rope_theta=100.0,
        ),
    ),
}
LLAMA3 = dict(
    rope_scaling=RopeScaling.LLAMA3, rope_factor=4.0, rope_original_length=16, tie_embeddings=False
)


def tiny(kind, **fields):
    """Make a model whose biases and norms are not at their initial values."""
    model_class, config = KINDS[kind]
    model = model_class(dataclasses.replace(config, **fields), rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    noise = np.random.default_rng(1)
    state = jax.tree.map(lambda x: x + 0.1 * noise.normal(size=x.shape).astype(np.float32), state)
    return nnx.merge(graphdef, state)


def context(**fields):
    return Context(key=jax.random.key(0), step=jnp.int32(0), **fields)


def random_ids(rows, length, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(3, 50, (rows, length)), jnp.int32)
