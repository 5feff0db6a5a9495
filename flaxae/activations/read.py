"""Hidden states of a language model, collected at chosen layers and positions, or replaced.

They are taps inside one forward pass; see `flaxae.lm.recorder` for their handling in the scan.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.errors import require
from flaxae.lm.protocol import LanguageModel
from flaxae.lm.recorder import Recorder as Recorder
from flaxae.lm.recorder import Replace as Replace
from flaxae.task import Context

Model = TypeVar("Model", bound=LanguageModel)


def hook_path(model: LanguageModel, hook: str) -> str:
    """Return the path of a hook's tap.

    Args:
        model: a language model.
        hook: a name of `model.hooks`, or a tap's own path with a dot in it.

    Raises:
        ConfigError: if there is no such hook.
    """
    require(
        hook in model.hooks or "." in hook,
        f"hook {hook!r} is unknown: use {', '.join(model.hooks)}, or the path of a tap (a.b.out)",
    )
    return model.hooks.get(hook, hook)


def recorder(
    model: LanguageModel,
    hooks: Sequence[str] = (),
    layers: Sequence[int] = (),
    positions: Int[Array, "B P"] | None = None,
    replace: dict[tuple[str, int | None], Replace] | None = None,
) -> Recorder:
    """Build a recorder for a context's `taps`, for a model that `collect` does not call.

    Args:
        model: a language model.
        hooks: "resid_in", "resid_out", "attn_out", "mlp_in", "mlp_pre", "mlp_post", "mlp_out", or
            paths.
        layers: the chosen layers, in the order of the results; negative ones count from the end.
        positions: the chosen positions of each row, (B, P); None: all positions.
        replace: {(hook, layer, or None for every layer): value -> value of the same shape}.

    Returns:
        The recorder; its `states` are filled when the model has run.

    Raises:
        ConfigError: if a hook is unknown, or `layers` is empty or names a layer twice.
    """
    num_layers = model.config.num_layers
    collect = {hook: hook_path(model, hook) for hook in hooks}
    require(not hooks or bool(layers), "layers is empty: name the layers to collect from")
    require(
        len({layer % num_layers for layer in layers}) == len(layers),
        f"layers {tuple(layers)} name a layer twice",
    )
    paths = {(hook_path(model, hook), layer): f for (hook, layer), f in (replace or {}).items()}
    return Recorder(collect, layers, positions, paths)


def collect(
    model: LanguageModel,
    ids: Int[Array, "B S"],
    ctx: Context,
    *,
    hooks: Sequence[str],
    layers: Sequence[int],
    mask: Float[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    positions: Int[Array, "B P"] | None = None,
    replace: dict[tuple[str, int | None], Replace] | None = None,
) -> tuple[Float[Array, "B S D"], dict[str, Float[Array, "L B P D"]]]:
    """Run a model and keep hidden states. Call it under jit.

    Args:
        model: a language model, with or without adapters.
        ids: token ids.
        ctx: context of the model; its taps are not used.
        hooks: names of hidden states, see `recorder`.
        layers: the chosen layers, see `recorder`.
        mask: 1 for real tokens, 0 for padding, on either side.
        segment_ids: for packed sequences, see `CausalLM.states`.
        positions: the chosen positions of each row; None: all positions.
        replace: values to replace, see `recorder`.

    Returns:
        The final states, which `model.logits` reads, and {hook: (chosen layers, B, P, width)}.

    Raises:
        ConfigError: see `recorder`; or the model has no such tap or layer.
    """
    taps = recorder(model, hooks, layers, positions, replace)
    at = dataclasses.replace(ctx, taps=taps)
    final = model.states(ids, at, mask=mask, segment_ids=segment_ids)
    return final, taps.states


def last_positions(mask: Float[Array, "B S"]) -> Int[Array, "B 1"]:
    """Return the position of each row's last real token, for padding on either side."""
    index = jnp.arange(mask.shape[1], dtype=jnp.int32)[None]
    return jnp.max(jnp.where(mask > 0, index, 0), axis=1, keepdims=True)


def truncated(model: Model, num_layers: int) -> Model:
    """Return the model with its first layers only, for states that no later layer changes.

    Call it once, outside of jit: inside, the weights would be copied at every call.

    Args:
        model: a language model; it is not changed.
        num_layers: the number of layers to keep.

    Raises:
        ConfigError: if the model does not have that many layers.
    """
    have = model.config.num_layers
    require(0 < num_layers <= have, f"num_layers={num_layers}: the model has {have} layers")
    graphdef, state = nnx.split(model)
    blocks = jax.tree.map(lambda x: x[:num_layers], state["blocks"])
    short: Any = nnx.merge(graphdef, nnx.State({**state, "blocks": blocks}))
    short.config = dataclasses.replace(short.config, num_layers=num_layers)
    return short
