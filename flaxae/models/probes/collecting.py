"""Hidden states and answers of prompts, with the adapter off and on in one batch.

The base's states are stored once per prompt and reused by every adapter. A part of the prompts is
computed as a whole and stored as one file per side, so that an interrupted collection continues
with the same numbers.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
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
from flaxae.models.probes.prompts import Encoded, Prompt, PromptStyle, encode_prompts
from flaxae.models.probes.store import BASE, COLUMNS, Part, read_part
from flaxae.models.probes.table import StateTable
from flaxae.models.probes.tokens import choice_tokens
from flaxae.peft.apply import DEFAULT
from flaxae.storage.fingerprint import fingerprint
from flaxae.task import Context

RESIDUAL = "resid_out"
PART = 128  # prompts per file


@dataclasses.dataclass(frozen=True)
class Settings:
    """The states to collect.

    Attributes:
        hooks: names of hidden states, see `activations.read.recorder`.
        layers: the layers, ascending.
        style: form of the prompts.
        limit: most tokens of a prompt.
        rows: prompts per batch and side.
        share_prefix: read the beginning that prompts share once per file.
    """

    hooks: tuple[str, ...]
    layers: tuple[int, ...]
    style: PromptStyle
    limit: int
    rows: int = 8
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
        self._collectors: dict[tuple[float, ...], Collector] = {}
        self._graphdef, self._state = nnx.split(model)
        self._answers = jax.jit(self._choice_log_probs)

    def __call__(
        self, prompts: Sequence[Prompt], scales: Sequence[float] = (0.0, 1.0)
    ) -> tuple[dict[str, Float[np.ndarray, "E N L D"]], Float[np.ndarray, "E N 2"]]:
        """Return the states of prompts, and the probability and coverage of their answers.

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
        found = self._collector(tuple(scales))(texts)
        last = found[RESIDUAL][:, :, self._layers.index(self.model.config.num_layers - 1)]
        sides = zip(last, scales, strict=True)
        answers = np.stack([self._answered(x, encoded, scale) for x, scale in sides])
        chosen = [self._layers.index(layer) for layer in settings.layers]
        return {hook: found[hook][:, :, chosen] for hook in settings.hooks}, answers

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
        found = self._collector((0.0,))(texts)
        chosen = [self._layers.index(layer) for layer in settings.layers]
        return {
            hook: rearrange(found[hook][0][:, chosen], "(N C) L D -> N C L D", C=2)
            for hook in settings.hooks
        }

    def _collector(self, scales: tuple[float, ...]) -> Collector:
        if scales not in self._collectors:
            named = bool(peft.adapter_names(self.model))
            sides = [{DEFAULT: scale} if named else {} for scale in scales]
            self._collectors[scales] = Collector(
                self.model,
                self._hooks,
                self._layers,
                sides=sides,
                rows=self.settings.rows,
                share_prefix=self.settings.share_prefix,
            )
        return self._collectors[scales]

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
        scales = {DEFAULT: scale} if peft.adapter_names(model) else {}
        ctx = Context(jax.random.key(0), jnp.int32(0), adapter_scale=scales)
        # With one token per row, as the norm and the head see it in a whole text.
        normed = model.final_norm(x[:, None], ctx.at("final_norm"))[:, 0]
        found = interventions.choice_log_probs(model.logits(normed, ctx), ids, mask)
        odds, cov = interventions.answer_log_odds(found), interventions.coverage(found)
        return jnp.stack([odds, cov], axis=1)


def collect(
    collector: StateCollector,
    prompts: Sequence[Prompt],
    splits: Sequence[str],
    folder: Path,
    *,
    base: str,
    seed: int = 0,
    part: int = PART,
) -> StateTable:
    """Collect the states of prompts, or read those that the folder has already.

    Args:
        collector: of the model with its adapter.
        prompts: the prompts.
        splits: split of each prompt's example.
        folder: the store.
        base: fingerprint of the base model.
        seed: seed of the run that trained the adapter.
        part: prompts per file.

    Returns:
        The table, in the order of the prompts.
    """
    adapter = adapter_hash(collector.model) or BASE
    found: dict[str, list[Part]] = {BASE: [], adapter: []}
    order: list[int] = []
    for number, rows in enumerate(_parts(prompts, part)):
        chosen = [prompts[i] for i in rows]
        key = _key(collector.settings, chosen, base)
        name = f"part_{number:05d}_{key[:8]}.arrow"
        paths = {side: folder / side / name for side in found}
        missing = [side for side, path in paths.items() if not path.exists()]
        if missing:
            columns = _columns(chosen, [splits[i] for i in rows])
            _compute(collector, chosen, columns, missing, paths, key)
        for side, path in paths.items():
            found[side].append(read_part(path, key, collector.settings.hooks))
        order += rows
    back, sides = np.argsort(order), [found[BASE], found[adapter]]

    def joined(of: Any) -> np.ndarray:
        """Return (sides, rows, ...) of what a function takes from each part."""
        return np.stack([np.concatenate([of(part) for part in side])[back] for side in sides])

    p, cov = (joined(lambda part, name=name: part.columns[name]) for name in ("p", "cov"))
    settings = collector.settings
    states = {hook: joined(lambda part, hook=hook: part.states[hook]) for hook in settings.hooks}
    # Splits of this call: they may be others than at the time of writing.
    columns = {name: np.asarray(values) for name, values in _columns(prompts, splits).items()}
    return StateTable(states, settings.layers, p, cov, columns, adapter, seed)


def _compute(
    collector: StateCollector,
    prompts: Sequence[Prompt],
    columns: dict[str, Any],
    missing: Sequence[str],
    paths: dict[str, Path],
    key: str,
) -> None:
    """Compute and write a part: of both sides in one batch, or of the adapter alone."""
    # The base's file is written last. Where it exists the adapter's was written too, unless that is
    # of another adapter. So a part is computed with the same batches before and after a stop.
    alone = BASE not in missing
    scales = {side: 0.0 if side == BASE else 1.0 for side in paths}
    sides = [side for side in paths if not (alone and side == BASE)]
    states, answers = collector(prompts, [scales[side] for side in sides])
    for i in reversed(range(len(sides))):
        own = {"p": answers[i][:, 0].tolist(), "cov": answers[i][:, 1].tolist()}
        one = Part(columns | own, {h: x[i] for h, x in states.items()}, sides[i])
        one.write(paths[sides[i]], key, collector.settings.layers)


def _parts(prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Yield the indices of each part: prompts of one data set that show the same examples."""
    groups: dict[Any, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault((prompt.example.dataset, prompt.shots), []).append(i)
    for rows in groups.values():
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def _key(settings: Settings, prompts: Sequence[Prompt], base: str) -> str:
    """Return a hash of what the states of a part depend on, besides the adapter."""
    style = settings.style
    about = [base, settings.hooks, settings.layers, style.format.value, style.system]
    about += [settings.rows, settings.share_prefix]
    rows = [[p.example.key, p.example.choices, p.example.label, p.shots] for p in prompts]
    return hashlib.sha256(json.dumps([about, rows]).encode()).hexdigest()[:16]


def _columns(prompts: Sequence[Prompt], splits: Sequence[str]) -> dict[str, list[Any]]:
    rows = [
        (
            p.example.key,
            p.example.dataset,
            p.example.group,
            split,
            p.example.label,
            int(p.lie),
            p.example.polarity,
        )
        for p, split in zip(prompts, splits, strict=True)
    ]
    return {name: list(x) for name, x in zip(COLUMNS, zip(*rows, strict=True), strict=True)}


def collect_pairs(
    collector: StateCollector,
    prompts: Sequence[Prompt],
    folder: Path,
    *,
    base: str,
    part: int = PART,
) -> dict[str, Float[np.ndarray, "N 2 L D"]]:
    """Return the base's states at the last token of each choice after its prompt, for CCS.

    Args:
        collector: of the model.
        prompts: the prompts.
        folder: the store.
        base: fingerprint of the base model.
        part: prompts per file.

    Returns:
        {hook: (N, 2, layers, D)}, in the order of the prompts.
    """
    hooks, order, found = collector.settings.hooks, [], []
    for number, rows in enumerate(_parts(prompts, part)):
        chosen = [prompts[i] for i in rows]
        key = _key(collector.settings, chosen, f"pairs/{base}")
        path = folder / "pairs" / f"part_{number:05d}_{key[:8]}.arrow"
        if not path.exists():
            states = collector.pairs(chosen)
            twice = [p for p in chosen for _ in (0, 1)]
            columns = _columns(twice, [""] * len(twice))
            columns |= {name: [float("nan")] * len(twice) for name in ("p", "cov")}
            flat = {h: x.reshape(-1, *x.shape[2:]) for h, x in states.items()}  # (2 N, L, D)
            Part(columns, flat, BASE).write(path, key, collector.settings.layers)
        found.append(read_part(path, key, hooks))
        order += rows
    back = np.argsort(order)
    out = {}
    for hook in hooks:
        x = np.concatenate([one.states[hook] for one in found])
        out[hook] = x.reshape(-1, 2, *x.shape[1:])[back]  # (N, 2, L, D)
    return out
