"""Codes of the texts of a trained text autoencoder, encoded once and cached."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from flaxae.config import TaskConfig
from flaxae.data.text import digest
from flaxae.errors import ConfigError
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.priors import parameters_of


class Codes:
    """The codes of the splits of a run.

    Attributes:
        num_latents: latents per code.
        dim: numbers per code, all latents together.
    """

    def __init__(self, workdir: str, num_lines: int = 0, seed: int = 0, cache: str = ".cache"):
        """Read the workdir's config; everything else is read at first use.

        Args:
            workdir: workdir of a run of a text autoencoder of flaxae.
            num_lines: number of texts of the training split, chosen at random; 0: all.
            seed: seed of that choice.
            cache: folder for encoded codes.

        Raises:
            ConfigError: if the workdir is missing, or is not a text autoencoder's.
        """
        from flaxae.storage.workdir import stored_config

        self.workdir, self.num_lines, self.seed, self.cache = workdir, num_lines, seed, cache
        try:
            if not workdir:
                raise ConfigError("it is empty")
            config = stored_config(workdir)
            kind = type(config.task)
            if kind.open_autoencoder.__func__ is TaskConfig.open_autoencoder.__func__:
                raise ConfigError(f"{workdir} is a run of {kind.__name__}")
        except ConfigError as e:
            raise ConfigError(
                f"task.codes_from={workdir!r} must be the workdir of a trained text autoencoder: "
                f"{e}"
            ) from None
        config.freeze(check=False)
        task = config.task.make(config)
        model: Any = nnx.eval_shape(lambda: task.init(nnx.Rngs(0)))
        self.num_latents = model.num_latents
        self.dim = model.num_latents * model.dim
        self._codes: dict[str, np.ndarray] = {}

    @cached_property
    def loaded(self) -> Any:
        """The trained run, whose data are checked to be unchanged."""
        from flaxae.training.load import load

        loaded = load(self.workdir)
        loaded.check_data()
        return loaded

    @cached_property
    def codec(self) -> Codec:
        """The codec of the run's model."""
        task: Any = self.loaded.task
        return Codec(self.loaded.model, task.text.tokenizer, self.loaded.step)

    @property
    def made_by(self) -> str:
        """The fingerprint of the model's parameters, see `priors.parameters_of`."""
        return parameters_of(self.loaded.model)

    def lines(self, split: str) -> list[str]:
        """Return the texts of a split that are encoded."""
        lines = self.loaded.task.text.lines(split)
        if split == "train" and 0 < self.num_lines < len(lines):
            order = np.random.default_rng(self.seed).permutation(len(lines))
            return [lines[i] for i in sorted(order[: self.num_lines])]
        return list(lines)

    def codes(self, split: str) -> Float[np.ndarray, "n D"]:
        """Return the clean codes of a split, from the cache if it has them."""
        if split not in self._codes:
            path = Path(self.cache) / f"codes-{self.fingerprint(split)}.safetensors"
            self._codes[split] = self._cached(path, split)
        return self._codes[split]

    def fingerprint(self, split: str) -> str:
        """Return a hash of a split's texts, the tokenizer and the model's parameters."""
        tokenizer = self.loaded.task.text.tokenizer
        return digest([self._parameters, tokenizer.fingerprint, *self.lines(split)])

    @cached_property
    def _parameters(self) -> str:
        from flaxae.storage.fingerprint import fingerprint

        return fingerprint(nnx.split(self.loaded.model)[1])

    def _cached(self, path: Path, split: str) -> np.ndarray:
        lines = self.lines(split)
        try:
            found = load_file(path)["codes"]
            if found.shape == (len(lines), self.dim):
                return found
        except (OSError, KeyError, SafetensorError):
            pass  # not cached yet, or an incomplete file
        codes = np.asarray(self.codec.encode(lines), np.float32).reshape(len(lines), -1)
        temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"codes": codes}, temporary)
            temporary.replace(path)
        except OSError as e:
            raise ConfigError(
                f"data.cache={self.cache!r} cannot be written: {e.strerror}"
            ) from None
        return codes
