"""Text generated while a feature is clamped, or a direction is added to a hidden state."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxae.activations.read import hook_path
from flaxae.decoding import Sampling
from flaxae.errors import require
from flaxae.lm.generation import generate
from flaxae.lm.protocol import LanguageModel
from flaxae.sparse_autoencoder.modules import SparseAutoencoder
from flaxae.sparse_autoencoder.origin import Origin
from flaxae.sparse_autoencoder.splice import Splice, splice
from flaxae.task import Context


def clamped(
    model: LanguageModel,
    sae: SparseAutoencoder,
    hook: str,
    layer: int,
    feature: Any,
    value: Any,
    *,
    hook_out: str = "",
) -> Splice:
    """Return taps with which one latent has a fixed value at every token.

    The rest of the state, the dictionary's error included, stays the same.

    Args:
        model: a language model.
        sae: a dictionary of its states.
        hook: name of the hook that it reads.
        layer: the layer.
        feature: number of the latent; or one per row, (B,). It may be traced.
        value: its value; or one per row. NaN: the latent keeps its own.
        hook_out: a transcoder's target; "": `hook`.

    Returns:
        The recorder, for `dataclasses.replace(ctx, taps=...)`.
    """

    def edit(latents: Float[Array, "B S F"]) -> Float[Array, "B S F"]:
        rows = latents.shape[0]
        at = jnp.broadcast_to(jnp.asarray(feature, jnp.int32), (rows,))
        wanted = jnp.broadcast_to(jnp.asarray(value, latents.dtype), (rows,))[:, None]
        own = jnp.take_along_axis(latents, at[:, None, None], axis=2)[:, :, 0]  # (B, S)
        new = jnp.where(jnp.isnan(wanted), own, wanted)
        return latents.at[jnp.arange(rows), :, at].set(new)

    return splice(model, sae, hook, layer, hook_out=hook_out, edit=edit, error=True)


def shifted(
    model: LanguageModel, hook: str, layer: int, direction: Float[Array, "D"], strength: Any = 1.0
) -> Splice:
    """Return taps that add a direction to a hidden state at every token.

    Args:
        model: a language model.
        hook: name of the hook.
        layer: the layer.
        direction: the direction.
        strength: its factor; or one per row, (B,). It may be traced.
    """

    def change(_: Array, state: Array) -> Array:
        factor = jnp.broadcast_to(jnp.asarray(strength, jnp.float32), state.shape[:1])
        added = factor[:, None, None] * jnp.asarray(direction, jnp.float32)[None, None]
        return (state.astype(jnp.float32) + added).astype(state.dtype)

    path = hook_path(model, hook)
    return Splice(path, path, layer, change)


class Steering:
    """Generation with clamped features; one compiled program per length of prompt and text.

    Args:
        model: a language model.
        tokenizer: its tokenizer.
        sae: a dictionary.
        origin: its hook and layer.
    """

    def __init__(self, model: Any, tokenizer: Any, sae: SparseAutoencoder, origin: Origin):
        require(
            bool(origin.hook) and origin.layer is not None,
            "the dictionary does not name its hook and layer",
        )
        require(hasattr(model, "cached_states"), "an encoder generates no text: nothing to steer")
        self.tokenizer, self.origin = tokenizer, origin
        self._graphdef, self._state = nnx.split((model, sae))
        self._ends = tuple(model.config.eos_ids)
        self._run = jax.jit(self._generated, static_argnames="new")

    def __call__(
        self,
        prompt: str,
        settings: Sequence[tuple[int, float | None]],
        *,
        max_new_tokens: int = 40,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> list[str]:
        """Return one text per setting, without the prompt, from one batch.

        Args:
            prompt: the beginning of the text.
            settings: (feature, value that it is clamped to); value None: not steered.
            max_new_tokens: maximum number of new tokens.
            sampling: how tokens are chosen; default: the most likely ones.
            seed: seed of sampling.

        Raises:
            ConfigError: if the prompt is empty or there is no such feature.
        """
        _, sae = nnx.merge(self._graphdef, self._state)
        for feature, _ in settings:
            require(
                0 <= feature < sae.config.d_sae,
                f"there is no feature {feature}: they are 0 to {sae.config.d_sae - 1}",
            )
        ids = self.tokenizer.encode([prompt])[0]
        require(bool(ids), "the prompt is empty")
        rows = np.repeat(np.asarray([ids], np.int32), len(settings), axis=0)
        features = np.asarray([feature for feature, _ in settings], np.int32)
        values = np.asarray([np.nan if v is None else v for _, v in settings], np.float32)
        new = self._run(
            self._state,
            rows,
            features,
            values,
            jax.random.key(seed),
            sampling or Sampling(),
            new=max_new_tokens,
        )
        return [self.tokenizer.decode(_before(row, self._ends)) for row in np.asarray(new)]

    def _generated(
        self,
        state: Any,
        ids: Array,
        features: Array,
        values: Array,
        key: Array,
        sampling: Sampling,
        new: int,
    ) -> Array:
        model, sae = nnx.merge(self._graphdef, state)
        origin, layer = self.origin, self.origin.layer
        assert layer is not None  # checked when made
        taps = clamped(model, sae, origin.hook, layer, features, values, hook_out=origin.hook_out)
        ctx = dataclasses.replace(Context(key, jnp.int32(0)), taps=taps)
        mask = jnp.ones(ids.shape, jnp.float32)
        unroll = jax.default_backend() == "cpu"
        return generate(
            model,
            ids,
            mask,
            ctx,
            new,
            sampling,
            num_tokens=self.tokenizer.vocab_size,
            unroll=unroll,
        )


def _before(ids: np.ndarray, ends: tuple[int, ...]) -> list[int]:
    """Return the ids before the first end."""
    stops = np.nonzero(np.isin(ids, ends))[0]
    return ids[: stops[0] if len(stops) else len(ids)].tolist()
