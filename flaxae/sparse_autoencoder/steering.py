"""Text generated while a feature is clamped, or a direction is added to a hidden state."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxae import decoding
from flaxae.activations.read import hook_path
from flaxae.decoding import Sampling
from flaxae.errors import require
from flaxae.lm.generation import before_end, cache_axes, start, stepper
from flaxae.lm.protocol import LanguageModel
from flaxae.nn.stack import unstacked
from flaxae.sparse_autoencoder.api import SAE
from flaxae.sparse_autoencoder.modules import SparseAutoencoder
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
    where: Float[Array, "B S"] | None = None,
) -> Splice:
    """Return taps with which one latent has a fixed value at every token, or at chosen ones.

    The rest of the state, the dictionary's error included, stays the same.

    Args:
        model: a language model.
        sae: a dictionary of its states.
        hook: name of the hook that it reads.
        layer: the layer.
        feature: number of the latent; or one per row, (B,). It may be traced.
        value: its value; or one per row. NaN: the row's states stay exactly the same.
        hook_out: a transcoder's target; "": `hook`.
        where: 1 for the tokens whose states change; None: all. The first token of a text is
            usually a sink of attention, whose states the dictionary was not trained on.

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

    steered = ~jnp.isnan(jnp.atleast_1d(jnp.asarray(value, jnp.float32)))[:, None]  # (B, 1)
    steered = steered if where is None else steered & (jnp.asarray(where, jnp.float32) > 0)
    where = steered.astype(jnp.float32)
    return splice(model, sae, hook, layer, hook_out=hook_out, where=where, edit=edit, error=True)


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

    Tokens whose states the dictionary was not trained on stay as they are: special ones, and the
    first ones of the text (`Origin.skip_first`; 1 if the file does not contain it).

    Args:
        lm: a language model with `model`, `tokenizer` and `fingerprint`, see `lm.loading.load`.
        sae: a dictionary with its hook and layer.
        other_model: allow a model that the dictionary was not trained on.

    Raises:
        ConfigError: if the dictionary does not name its hook and layer, or was trained on another
            model, or the model is an encoder.
    """

    def __init__(self, lm: Any, sae: SAE, *, other_model: bool = False):
        model, origin = lm.model, sae.origin
        require(
            bool(origin.hook) and origin.layer is not None,
            "the dictionary does not name its hook and layer",
        )
        require(hasattr(model, "cached_states"), "an encoder generates no text: nothing to steer")
        if not other_model:
            origin.check_model("the dictionary", lm)
        self.tokenizer, self.origin = lm.tokenizer, origin
        self._graphdef, self._state = nnx.split((model, sae.module))
        self._ends = tuple(model.config.eos_ids)
        named = (lm.tokenizer.id(token) for token in lm.tokenizer.tokens.values())
        self._special = sorted({*self._ends, *(i for i in named if i is not None)})
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
        rows = np.asarray(new).tolist()
        return [self.tokenizer.decode(before_end(row, self._ends)) for row in rows]

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
        origin, layer, length = self.origin, self.origin.layer, ids.shape[1]
        assert layer is not None  # checked when made
        skip = 1 if origin.skip_first is None else origin.skip_first

        def context(ids: Array, positions: Array) -> Context:
            where = (positions >= skip) & ~jnp.isin(ids, jnp.asarray(self._special))
            taps = clamped(
                model,
                sae,
                origin.hook,
                layer,
                features,
                values,
                hook_out=origin.hook_out,
                where=where,
            )
            return dataclasses.replace(Context(key, jnp.int32(0)), taps=taps)

        def step(last: Array, cache: dict[str, Any], index: Array) -> Any:
            ctx = context(last[:, None], (cache["next"] + index)[:, None])
            run = stepper(model, ctx, length, self.tokenizer.vocab_size, blocks)
            return run(last, cache, index)

        unroll = jax.default_backend() == "cpu"
        blocks = unstacked(model.blocks) if unroll else None
        mask = jnp.ones(ids.shape, jnp.float32)
        first = context(ids[:, :-1], jnp.arange(length - 1)[None])
        last, cache = start(model, ids, mask, first, new, unroll)
        ends = {"eos": self._ends, "pad": self._ends[0]}
        axes = cache_axes(cache)
        return decoding.generate(step, cache, last, new, sampling, key, cache_axes=axes, **ends)
