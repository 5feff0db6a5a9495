"""States of a frozen language model, pooled to a few numbers per text."""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from flaxae import peft
from flaxae.activations import read
from flaxae.data.tokenizer import PAD
from flaxae.lm.causal import CausalLM
from flaxae.models.lm_vae.tokens import to_language_model
from flaxae.task import Context

HOOK = "mlp_in"  # normed residual stream: the few huge numbers of the stream are scaled down there


def pooled_states(
    lm: CausalLM,
    layers: tuple[int, ...],
    terms: int,
    ids: Int[Array, "B S"],
    ctx: Context,
    ends: tuple[int, int],
) -> Float[Array, "B F"]:
    """Return the cosine transform of a text's states over its positions, first coefficients only.

    Args:
        lm: a language model; its adapters are switched off.
        layers: layers whose states are pooled; later ones are not run.
        terms: number of coefficients.
        ids: texts with EOS, padded with PAD.
        ctx: the step's context.
        ends: the language model's id before a text, whose own state is not pooled, and the id that
            ends a text.
    """
    begin, end = ends
    base = peft.set_active(lm, ()) if peft.adapter_names(lm) else lm
    read_ids = to_language_model(ids, end)
    read_ids = jnp.concatenate([jnp.full_like(ids[:, :1], begin), read_ids], axis=1)
    real = (ids != PAD).astype(jnp.float32)
    mask = jnp.concatenate([jnp.ones_like(real[:, :1]), real], axis=1)
    taps = read.recorder(base, (HOOK,), layers)
    taps.stop = max(layers) + 1
    at = dataclasses.replace(ctx.at("encoder"), taps=taps)
    base.states(read_ids, at, mask=mask)
    states = taps.states[HOOK][:, :, 1:].astype(jnp.float32)  # (L, B, S, D)
    count = jnp.maximum(jnp.sum(real, axis=1), 1)[:, None, None]  # (B, 1, 1)
    place = (jnp.arange(ids.shape[1], dtype=jnp.float32) + 0.5)[None, :, None] / count  # (B, S, 1)
    orders = jnp.arange(terms, dtype=jnp.float32)[None, None]  # (1, 1, K)
    waves = jnp.cos(jnp.pi * place * orders) * real[:, :, None] / count  # (B, S, K)
    found = jnp.einsum("lbsd,bsk->blkd", states, waves, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.stop_gradient(rearrange(found, "b l k d -> b (l k d)"))
