"""A dictionary inside a language model: its output takes the place of a hidden state."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flaxae.activations.read import hook_path
from flaxae.errors import require
from flaxae.lm.protocol import LanguageModel
from flaxae.lm.recorder import Recorder
from flaxae.sparse_autoencoder.modules import SparseAutoencoder
from flaxae.task import Context

TERMS = ("clean", "spliced", "ablated")
Change = Callable[[Float[Array, "B S I"], Float[Array, "B S O"]], Float[Array, "B S O"]]


class Splice(Recorder):
    """A recorder that replaces the state of one hook by a function of another one's.

    Args:
        hook_in: path of the tap whose state is the input.
        hook_out: path of the tap that is replaced; it comes later in the same layer, or is the
            same.
        at: the layer.
        change: (input, state that is replaced) -> what takes its place.
    """

    def __init__(self, hook_in: str, hook_out: str, at: int, change: Change):
        super().__init__(replace={(hook_out, at): lambda x: x})
        self.hook_in, self.hook_out, self.at, self.change = hook_in, hook_out, at, change
        self.input: Any = None

    def fresh(self) -> "Splice":
        """Return a recorder with the same settings."""
        return self._shared(Splice(self.hook_in, self.hook_out, self.at, self.change))

    def resolved(self, num_layers: int) -> "Splice":
        """Return the same recorder with a layer that is not negative."""
        at = self.at % num_layers
        return self._shared(Splice(self.hook_in, self.hook_out, at, self.change))

    def __call__(self, path: str, value: Array) -> Array:
        """Keep the input's state, replace the output's."""
        if _ends_with(path, self.hook_in):
            self.input = value
        if not _ends_with(path, self.hook_out):
            return value
        self.replaced.add(self.hook_out)
        source = self.input
        require(
            source is not None,
            f"no tap {self.hook_in} comes before {self.hook_out} in a layer: a dictionary's input "
            "must be computed before its output",
        )
        return jax.lax.cond(
            self.layer == self.at, lambda: self.change(source, value), lambda: value
        )


def splice(
    model: LanguageModel,
    sae: SparseAutoencoder,
    hook: str,
    layer: int,
    *,
    hook_out: str = "",
    where: Float[Array, "B S"] | None = None,
    edit: Callable[[Float[Array, "B S F"]], Float[Array, "B S F"]] | None = None,
    error: bool = False,
) -> Splice:
    """Return taps for a context: the model then runs with the dictionary's output.

    Args:
        model: a language model.
        sae: a dictionary of its states.
        hook: name of the hook that it reads.
        layer: the layer.
        hook_out: a transcoder's target; "": `hook`.
        where: 1 for the tokens whose states are replaced; None: all.
        edit: a change of the latents, such as a feature that is clamped.
        error: whether the dictionary's error is added, so that only an edit changes the state.

    Returns:
        The recorder, for `dataclasses.replace(ctx, taps=...)`.

    Raises:
        ConfigError: if the model has no such hook.
    """

    def change(source: Array, state: Array) -> Array:
        at = Context(jax.random.key(0), jnp.int32(0))
        x = source.astype(jnp.float32)
        latents = sae.encode(x, at)
        plain = sae.decode(latents, at, x)
        made = plain if edit is None else sae.decode(edit(latents), at, x)
        if error:  # the difference first: it is exactly 0 where nothing is edited
            made = state.astype(jnp.float32) + (made - plain)
        return _at(where, made.astype(state.dtype), state)

    paths = hook_path(model, hook), hook_path(model, hook_out or hook)
    return Splice(*paths, layer, change)


def ablation(
    model: LanguageModel,
    hook: str,
    layer: int,
    *,
    mean: Float[Array, " O"] | None = None,
    where: Float[Array, "B S"] | None = None,
) -> Splice:
    """Return taps that replace a state by its mean over a data set, or by zeros.

    Args:
        model: a language model.
        hook: name of the hook.
        layer: the layer.
        mean: what takes the state's place; None: zeros.
        where: 1 for the tokens whose states are replaced; None: all.
    """

    def change(_: Array, state: Array) -> Array:
        other = jnp.zeros_like(state)
        if mean is not None:
            other = other + mean.astype(state.dtype)[None, None]
        return _at(where, other, state)

    path = hook_path(model, hook)
    return Splice(path, path, layer, change)


def _ends_with(path: str, end: str) -> bool:
    return path == end or path.endswith(f".{end}")


def _at(where: Float[Array, "B S"] | None, new: Array, old: Array) -> Array:
    return new if where is None else jnp.where(where[:, :, None] > 0, new, old)


def splice_sums(
    model: LanguageModel,
    sae: SparseAutoencoder,
    ids: Int[Array, "B S"],
    mask: Float[Array, "B S"],
    *,
    hook: str,
    layer: int,
    hook_out: str = "",
    use: Float[Array, "B S"] | None = None,
    mean: Float[Array, " O"] | None = None,
    terms: Sequence[str] = TERMS,
) -> dict[str, tuple[Array, Array]]:
    """Return the cross entropies of the next ids: clean, with the dictionary, with an ablation.

    Args:
        model: a language model.
        sae: the dictionary.
        ids: token ids.
        mask: 1 for real tokens.
        hook: hook that the dictionary reads.
        layer: its layer.
        hook_out: a transcoder's target; "": `hook`.
        use: 1 for tokens whose states are replaced; None: all real ones.
        mean: for an ablation by the mean; None: by zeros.
        terms: the passes that are made, of `TERMS`.

    Returns:
        {"clean", "spliced", "ablated", "kl"}: sum over predicted tokens and their number; "kl" is
        KL(clean || spliced), if both passes are made.
    """
    use = mask if use is None else use
    taps = {
        "clean": None,
        "spliced": splice(model, sae, hook, layer, hook_out=hook_out, where=use),
        "ablated": ablation(model, hook_out or hook, layer, mean=mean, where=use),
    }
    targets = ids[:, 1:]
    weights = mask[:, 1:] * mask[:, :-1]
    sums: dict[str, tuple[Array, Array]] = {}
    logs: dict[str, Array] = {}
    ctx = Context(jax.random.key(0), jnp.int32(0))
    for name in terms:
        tap = taps[name]
        at = ctx if tap is None else dataclasses.replace(ctx, taps=tap)
        logits = model.logits(model.states(ids, at, mask=mask)[:, :-1], ctx)
        logs[name] = jax.nn.log_softmax(logits, axis=-1)
        chosen = jnp.take_along_axis(logs[name], targets[:, :, None], axis=-1)[:, :, 0]
        sums[name] = (-jnp.sum(chosen * weights), weights.sum())
    if not {"clean", "spliced"} <= set(terms):
        return sums
    ratio = logs["clean"] - logs["spliced"]
    kl = jnp.sum(jnp.exp(logs["clean"]) * ratio, axis=-1)
    return sums | {"kl": (jnp.sum(kl * weights), weights.sum())}


def recovered(sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
    """Return means of added `splice_sums`, and the share of cross entropy that is recovered.

    Returns:
        "ce_clean", "ce_spliced", "ce_ablated", "kl", and "ce_recovered", (ablated - spliced) /
        (ablated - clean).
    """
    mean = {name: float(total) / max(float(count), 1e-30) for name, (total, count) in sums.items()}
    lost = mean["ablated"] - mean["clean"]
    share = (mean["ablated"] - mean["spliced"]) / lost if lost else float("nan")
    names = {name: f"ce_{name}" for name in ("clean", "spliced", "ablated")}
    return {names.get(name, name): x for name, x in mean.items()} | {"ce_recovered": share}
