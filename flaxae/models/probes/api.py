"""The class that users open fitted probes with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae import peft
from flaxae.config.locate import user_path
from flaxae.errors import ConfigError, require
from flaxae.lm import loading
from flaxae.lm.chat import ChatTokenizer
from flaxae.models.probes import files
from flaxae.models.probes.examples import Example
from flaxae.models.probes.files import ADAPTER, Origin
from flaxae.models.probes.fitting.base import Probe as FittedProbe
from flaxae.models.probes.prompts import Format, Prompt, PromptStyle, Shot, in_order
from flaxae.models.probes.state_collector import Settings, StateCollector, adapter_hash

SEVERAL_LAYERS = ("layer_conv",)


class Probe:
    """A probe of truth with the language model whose states it reads.

    Args:
        probe: the fitted probe.
        origin: the states that it reads.
        model: the language model, with its adapter unless the probe reads the base alone.
        tokenizer: the model's.

    Raises:
        ConfigError: if the model or its adapter is another one than the probe was fitted on.
    """

    def __init__(self, probe: FittedProbe, origin: Origin, model: Any, tokenizer: ChatTokenizer):
        self.probe, self.origin = probe, origin
        now = peft.base_fingerprint(model)
        require(
            now == origin.base,
            f"the probe reads states of {origin.model} (fingerprint {origin.base}), and this "
            f"model has fingerprint {now}: open the model that it was fitted on",
        )
        if origin.arm != "base" or probe.kind == "ranking":
            found = adapter_hash(model)
            require(
                found == origin.adapter,
                f"the probe reads states of adapter {origin.adapter}, and this model has "
                f"{found or 'none'}: add the adapter that it was fitted with",
            )
        require(
            str(model.config.dtype) == origin.dtype,
            f"the probe reads states computed in {origin.dtype}, and this model computes in "
            f"{model.config.dtype}: open it with dtype={origin.dtype!r}",
        )
        style = PromptStyle(Format(origin.format), origin.system)
        settings = Settings((origin.hook,), origin.layers, style, model.config.max_length)
        self._collector = StateCollector(model, tokenizer, settings)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        model: str | Path | None = None,
        **expected: Any,
    ) -> "Probe":
        """Open a probe of `save_pretrained`, its language model and its adapter.

        Args:
            directory: of the probe.
            model: directory of the language model, if it is not where it was.
            **expected: what the probe must read: model, hook, layer, arm, adapter, format, or
                another field of `files.Origin`.

        Raises:
            ConfigError: if the probe reads something else, or a file is missing or broken.
        """
        probe, origin = files.load(directory)
        origin.check(str(directory), **expected)
        source = str(model or origin.model)
        opened = loading.load(source, weights=origin.weights, dtype=origin.dtype)
        if opened.tokenizer is None:
            raise ConfigError(f"{model or origin.model} has no tokenizer.json")
        base, folder = opened.model, user_path(directory) / ADAPTER
        if folder.is_dir():
            base = peft.load_adapter(base, folder)
        return cls(probe, origin, base, opened.tokenizer)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the probe, and its adapter if it has one.

        Args:
            directory: created if it does not exist.
        """
        files.save(directory, self.probe, self.origin)
        if peft.adapter_names(self._collector.model):
            folder = user_path(directory) / ADAPTER
            peft.save_adapter(self._collector.model, folder, base=self.origin.model)

    def predict_proba(self, texts: Sequence[str], dataset: str = "") -> Float[np.ndarray, "N 2"]:
        """Return the probabilities that choice 0 and choice 1 are right.

        Args:
            texts: questions in the form of a data set of `origin.sets`; the examples and the format
                of the prompt are added.
            dataset: the data set; "": the first one.

        Raises:
            ConfigError: if there are no texts, one is too long, or there is no such data set.
        """
        origin, prompts = self.origin, self._prompts(texts, dataset)
        if self.probe.kind == "ccs":
            return self.probe.predict_proba(self._collector.pairs(prompts)[origin.hook][:, :, 0])
        scales = {"base": (0.0,), "adapter": (1.0,)}.get(origin.arm, (0.0, 1.0))
        ranking = self.probe.kind == "ranking"
        states, answers = self._collector(prompts, (0.0, 1.0) if ranking else scales)
        x = states[origin.hook]  # (sides, N, L, D)
        if ranking:
            probe: Any = self.probe
            return probe.predict_truth(np.moveaxis(x[:, :, 0], 0, 1), answers[..., 0])
        return self.probe.predict_proba(arm_features(x, origin.arm, self.probe.kind))

    def _prompts(self, texts: Sequence[str], dataset: str = "") -> list[Prompt]:
        """Return prompts of texts, whose examples are in one of two orders, as in training."""
        require(not isinstance(texts, str) and len(texts) > 0, "texts: give a list of texts")
        sets = self.origin.sets
        dataset = dataset or next(iter(sets))
        require(dataset in sets, f"dataset={dataset!r}: the probe knows {', '.join(sets)}")
        shots = tuple(Shot(*pair) for pair in sets[dataset].shots)
        return [
            Prompt(
                Example(text, sets[dataset].choices, 0, text, dataset),
                False,
                tuple(in_order(shots, text)),
            )
            for text in texts
        ]

    def __repr__(self) -> str:
        origin = self.origin
        return (
            f"Probe({self.probe.kind}, model={origin.model!r}, hook={origin.hook!r}, "
            f"layers={origin.layers}, arm={origin.arm!r})"
        )


def arm_features(
    x: Float[np.ndarray, "E N L D"], arm: str, kind: str
) -> Float[np.ndarray, "N ..."]:
    """Return the features of an arm: (N, F), or (N, L, F) for a probe of several layers.

    A probe of one direction that reads two layers reads their difference.
    """
    if arm == "both":
        x = np.concatenate([x[0], x[1]], axis=-1)
    else:
        x = x[1] - x[0] if arm == "diff" else x[0]  # (N, L, D)
    if kind in SEVERAL_LAYERS:
        return x
    return x[:, 0] if x.shape[1] == 1 else x[:, 1] - x[:, 0]
