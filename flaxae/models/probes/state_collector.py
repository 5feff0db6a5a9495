"""The reader of hidden states and answers of prompts, with the adapter off or on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from flaxae import peft
from flaxae.activations.collect import Collector
from flaxae.errors import require
from flaxae.lm.chat import ChatTokenizer
from flaxae.models.probes import interventions
from flaxae.models.probes.fitting.base import sigmoid
from flaxae.models.probes.prompts import (
    Encoded,
    Format,
    Prompt,
    PromptStyle,
    encode_prompts,
)
from flaxae.models.probes.tokens import choice_tokens
from flaxae.peft.apply import DEFAULT
from flaxae.storage.fingerprint import fingerprint
from flaxae.task import Context

RESIDUAL = "resid_out"
VERSION = 2  # of the numbers that the same settings give


@dataclasses.dataclass(frozen=True)
class Settings:
    """The states to collect.

    Attributes:
        hooks: names of hidden states, see `activations.read.recorder`.
        layers: the layers, ascending.
        style: form of the prompts.
        limit: most tokens of a prompt.
        rows: prompts per batch.
        share_prefix: read the beginning that prompts share once per file.
    """

    hooks: tuple[str, ...]
    layers: tuple[int, ...]
    style: PromptStyle
    limit: int
    rows: int = 16
    share_prefix: bool = True

    def __post_init__(self) -> None:
        require(
            list(self.layers) == sorted(set(self.layers)) and bool(self.layers),
            f"layers {self.layers} must be ascending and not empty",
        )


def adapter_hash(model: Any) -> str:
    """Return a hash of the values of a model's adapter."""
    values: Any = nnx.to_pure_dict(nnx.state(model, peft.trainable()))  # pyright: ignore
    return fingerprint(values)


class StateCollector:
    """A collector of states and answers; programs are shared by all prompts.

    Args:
        model: a language model with one adapter, or with none.
        tokenizer: its tokenizer.
        settings: what to collect.
    """

    def __init__(self, model: Any, tokenizer: ChatTokenizer, settings: Settings):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        config = model.config
        require(
            all(0 <= x < config.num_layers for x in settings.layers),
            f"layers {settings.layers}: the model has layers 0 to {config.num_layers - 1}",
        )
        # The answer is computed from the last layer's residual state.
        self._layers = tuple(sorted({*settings.layers, config.num_layers - 1}))
        self._hooks = tuple(dict.fromkeys((*settings.hooks, RESIDUAL)))
        self._named = bool(peft.adapter_names(model))
        self._collector = Collector(
            model,
            self._hooks,
            self._layers,
            sides=[self._side(1.0)],
            rows=settings.rows,
            share_prefix=settings.share_prefix,
        )
        self._graphdef, self._state = nnx.split(model)
        self._answers = jax.jit(self._choice_log_probs)

    def __call__(
        self, prompts: Sequence[Prompt], scales: Sequence[float] = (0.0, 1.0)
    ) -> tuple[dict[str, Float[np.ndarray, "E N L D"]], Float[np.ndarray, "E N 2"]]:
        """Return the states of prompts, and the probability and coverage of their answers.

        The sides are computed one after another by the same programs, so that a side's numbers do
        not depend on which others are asked for.

        Args:
            prompts: the prompts; what they share at the beginning is read once.
            scales: scale of the adapter on each side.

        Returns:
            {hook: (sides, N, layers, D)}, and (p1 / (p0 + p1), p0 + p1) by side.

        Raises:
            ConfigError: if a prompt is too long.
        """
        settings = self.settings
        encoded = encode_prompts(prompts, settings.style, self.tokenizer, limit=settings.limit)
        texts = [row[: n + 1].tolist() for row, n in zip(encoded.ids, encoded.last, strict=True)]
        found = [self._collector(texts, [self._side(scale)]) for scale in scales]
        last = self._layers.index(self.model.config.num_layers - 1)
        sides = zip(found, scales, strict=True)
        answers = [self._answered(x[RESIDUAL][0][:, last], encoded, scale) for x, scale in sides]
        chosen = [self._layers.index(layer) for layer in settings.layers]
        states = {h: np.stack([x[h][0][:, chosen] for x in found]) for h in settings.hooks}
        return states, np.stack(answers)

    def pairs(self, prompts: Sequence[Prompt]) -> dict[str, Float[np.ndarray, "N 2 L D"]]:
        """Return the base's states at the last token of each choice after its prompt.

        Args:
            prompts: the prompts.
        """
        settings = self.settings
        encoded = encode_prompts(prompts, settings.style, self.tokenizer, limit=settings.limit)
        choices = choice_tokens(prompts, settings.style, self.tokenizer)
        texts = [
            [*encoded.ids[i, : encoded.last[i] + 1], *tokens[mask > 0]]
            for i in range(len(prompts))
            for tokens, mask in zip(choices.tokens[i], choices.mask[i], strict=True)
        ]
        found = self._collector(texts, [self._side(0.0)])
        chosen = [self._layers.index(layer) for layer in settings.layers]
        return {
            hook: rearrange(found[hook][0][:, chosen], "(N C) L D -> N C L D", C=2)
            for hook in settings.hooks
        }

    @property
    def about(self) -> list[Any]:
        """Settings that the states depend on, besides the model's values and the prompts."""
        settings, style = self.settings, self.settings.style
        template = self.tokenizer.template if style.format is Format.CHAT else ""
        return [
            VERSION,
            settings.hooks,
            settings.layers,
            style.format.value,
            style.system,
            template,
            str(self.model.config.dtype),
            settings.rows,
            settings.share_prefix,
        ]

    def _side(self, scale: float) -> dict[str, float]:
        """Return the scale by the adapter's name; {} for a model without one."""
        return {DEFAULT: scale} if self._named else {}

    def _answered(
        self, last: Float[np.ndarray, "N D"], encoded: Encoded, scale: float
    ) -> Float[np.ndarray, "N 2"]:
        out, rows = [], self.settings.rows
        for start in range(0, len(last), rows):
            parts = (last, encoded.choice_ids, encoded.choice_mask)
            x, ids, mask = (part[start : start + rows] for part in parts)
            short = [(0, rows - len(x))]
            x, ids = np.pad(x, [*short, (0, 0)]), np.pad(ids, [*short, (0, 0), (0, 0)])
            mask = np.pad(mask, [*short, (0, 0), (0, 0)], constant_values=1)
            found = self._answers(self._state, x, ids, mask, np.full(rows, scale, np.float32))
            out.append(np.asarray(found)[: rows - short[0][1]])
        odds, cov = np.concatenate(out).T
        return np.stack([sigmoid(odds), np.asarray(cov, np.float64)], axis=1)

    def _choice_log_probs(
        self, state: Any, x: Array, ids: Array, mask: Array, scale: Array
    ) -> Float[Array, "B 2"]:
        model = nnx.merge(self._graphdef, state)
        scales = {DEFAULT: scale} if self._named else {}
        ctx = Context(jax.random.key(0), jnp.int32(0), adapter_scale=scales)
        # With one token per row, as the norm and the head see it in a whole text.
        normed = model.final_norm(x[:, None], ctx.at("final_norm"))[:, 0]
        found = interventions.choice_log_probs(model.logits(normed, ctx), ids, mask)
        odds, cov = interventions.answer_log_odds(found), interventions.coverage(found)
        return jnp.stack([odds, cov], axis=1)
