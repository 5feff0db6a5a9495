"""The interface that the explorer needs of a text autoencoder, and opening a trained one.

Any object that has the methods of `Autoencoder` can be explored:
`flaxae.explore.Explorer(model, texts)`. To have a trained run opened by its path, a family
overrides `TaskConfig.open_autoencoder`:

    @dataclasses.dataclass
    class MyConfig(TaskConfig):
        def make(self, config):
            return MyTask(config)

        @classmethod
        def open_autoencoder(cls, source):
            return MyAutoencoder.from_pretrained(source, cls)

A class derived from `flaxae.text_autoencoder.api.TextAutoencoder` has all these methods, and needs
only a module with the methods of `LatentModel`; tests/explore/toy_autoencoder.py is an example.

`open_model` finds this class by the name in the run's config.json if the class is part of flaxae.
A class of the user's own comes only from the config file that the user names:
`python -m flaxae.explore WORKDIR --config=FILE`.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int

from flaxae.config import TaskConfig, own_task_config
from flaxae.config.serialize import ConfigClass, task_config_class
from flaxae.decoding import Sampling
from flaxae.errors import ConfigError, require
from flaxae.task import Context
from flaxae.weights import hf


class Statistics(Protocol):
    """Mean and standard deviation of each number of the codes of training texts."""

    @property
    def mean(self) -> Float[np.ndarray, "L Z"]:
        """Mean of each number."""
        ...

    @property
    def std(self) -> Float[np.ndarray, "L Z"]:
        """Standard deviation of each number."""
        ...


class SampledPrior(Protocol):
    """A distribution of codes to draw from."""

    def sample(self, n: int, seed: int = 0, temperature: float = 1.0) -> Float[np.ndarray, "n D"]:
        """Draw codes, D = L * Z numbers each.

        Args:
            n: number of codes.
            seed: seed of the random draw.
            temperature: standard deviation of the noise that codes are made from.
        """
        ...


class TextTokenizer(Protocol):
    """A tokenizer of lists of texts, whose padding id is 0 and whose end-of-text id is 1."""

    vocab_size: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without the end-of-text id."""
        ...

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row, up to its end-of-text id."""
        ...


class LatentModel(Protocol):
    """The `nnx.Module` of a text autoencoder, as `codec.Codec` calls it.

    Attributes:
        max_length: maximum number of tokens per text, EOS included.
    """

    max_length: int

    @property
    def num_latents(self) -> int:
        """Number of latent vectors per code."""
        ...

    @property
    def dim(self) -> int:
        """Width of a latent vector."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    def encode(self, ids: list[Int[Array, "B S"]], ctx: Context) -> Float[Array, "B L Z"]:
        """Return clean codes of texts.

        Args:
            ids: one array per length; each row is a text with EOS, padded with PAD.
            ctx: the step's context.
        """
        ...

    def generate(
        self,
        z: Float[Array, "B L Z"],
        ctx: Context,
        num_tokens: int = 0,
        *,
        sampling: Sampling | None = None,
        drop_ended: bool = False,
    ) -> Int[Array, "B T"]:
        """Return the ids of decoded codes, with EOS, padded with PAD to max_length.

        Args:
            z: codes as the decoder expects them (see `clean_code`).
            ctx: the step's context.
            num_tokens: ids from this one on are never generated; 0: all may be.
            sampling: how ids are chosen; None: greedily.
            drop_ended: see `decoding.generate`; a decoder without a loop ignores it.
        """
        ...

    def clean_code(self, z: Float[Array, "B L Z"], step: Int[Array, ""]) -> Float[Array, "B L Z"]:
        """Return the code to decode for a clean code: z times a scalar, or z itself."""
        ...

    def sigma(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return the standard deviation of the noise on codes in training; 0: no noise."""
        ...

    # Optional: `channel`, how the noise enters codes (by default additive); `reads_noise`, True if
    # `generate` takes sigma=(B,), the noise in z; `lowest_sigma(step)`, if each text has a noise of
    # its own in training, of which `sigma` is the largest.


class TextCorpus(Protocol):
    """The texts of a run, by split ("train", "dev", ...)."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that the model is trained with."""
        ...

    def lines(self, split: str) -> list[str]:
        """Return the texts of a split."""
        ...

    def labels(self, split: str) -> list[str]:
        """Return one label per text of a split."""
        ...


class TextTask(Protocol):
    """A task that trains on texts."""

    @property
    def text(self) -> TextCorpus:
        """The texts and their tokenizer."""
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """A trained model that turns texts into codes and codes into texts.

    Codes are clean (without the noise of training): `decode` takes what `encode` returns.

    A model may also have a method `training_labels()` that returns one label per training text, or
    None; the explorer's map can then be coloured by label. If it has an attribute `max_noise`,
    `decode` takes `noise` (sigma of the noise on codes, up to max_noise), `temperature` (of the
    choice of ids; 0: the most likely) and `seed`, and the explorer has sliders for them. It may
    have `on_space(z)`, which returns changed codes as the model makes codes, and
    `assumed_noise(prior)` and `path_noise(codes, a, b)`, the `assumed_noise` with which draws of a
    prior, and codes between two ends, are decoded (or None).

    Attributes:
        num_latents: number of latent vectors per code, L.
        dim: width of a latent vector, Z.
        max_length: maximum number of tokens per text, the end token included.
        step: train step of the parameters.
        fingerprint: string that changes when the parameters or the tokenizer change.
        tokenizer: the model's tokenizer.
        statistics: mean and standard deviation of the codes of training texts.
    """

    num_latents: int
    dim: int
    max_length: int
    step: int
    fingerprint: str
    tokenizer: Any  # a TextTokenizer; Any, because a mutable attribute is matched exactly

    @property
    def statistics(self) -> Statistics:
        """Mean and standard deviation of the codes of training texts."""
        ...

    def encode(self, texts: Sequence[str], *, truncate: bool = False) -> Float[np.ndarray, "B L Z"]:
        """Return the clean codes of texts; texts that are too long are cut or raise ConfigError."""
        ...

    def decode(self, z: Float[np.ndarray, "B L Z"]) -> list[str]:
        """Return the texts of clean codes."""
        ...

    def prior(self, which: str | None = None) -> SampledPrior:
        """Return a prior of the codes.

        Args:
            which: "normal", "gaussian", "gmm", "flow" or "autoregressive"; None: "normal".

        Raises:
            ConfigError: if the model has no prior of this name.
        """
        ...

    def training_texts(self) -> Sequence[str]:
        """Return the texts that the model was trained on.

        Raises:
            ConfigError: if the model was saved without its training texts.
        """
        ...


def open_model(source: str | Path, config_class: ConfigClass | None = None) -> Autoencoder:
    """Open a trained text autoencoder of any family.

    Args:
        source: a run's workdir, a directory that `save_pretrained` wrote, or a Hub id.
        config_class: the class of the run's task config, or the path of the run's config file.
            Required if the class is not part of flaxae.

    Returns:
        What the task config's `open_autoencoder` returns.

    Raises:
        ConfigError: if there is no such run, its task is of another class, or the task is not a
            text autoencoder.
    """
    task = hf.read_config(hf.resolve(source)).get("task")
    name = str(task.get("class", "")) if isinstance(task, dict) else ""
    if config_class is None:
        found = _task_config_class(name, source)
    else:
        found = task_config_class(config_class, name or "an unknown task", source)
    model = found.open_autoencoder(source)
    check_autoencoder(model, f"{found.__qualname__}.open_autoencoder returned")
    return model


_ATTRIBUTES = (
    *("num_latents", "dim", "max_length", "step", "fingerprint", "tokenizer", "statistics"),
    *("encode", "decode", "prior", "training_texts"),
)


def check_autoencoder(model: Any, found: str) -> None:
    """Raise ConfigError unless a model has every member of `Autoencoder`.

    Args:
        model: the model.
        found: the beginning of the message, such as "open_autoencoder returned".
    """
    # `statistics` and `fingerprint` may be properties that compute: they are not read here.
    missing = [
        name
        for name in _ATTRIBUTES
        if inspect.getattr_static(model, name, None) is None and not hasattr(model, name)
    ]
    require(
        not missing,
        f"{found} a {type(model).__name__} without {', '.join(missing)}: see "
        "flaxae.text_autoencoder.protocol.Autoencoder",
    )


def _task_config_class(name: str, source: str | Path) -> type[TaskConfig]:
    """Import the task config class that a run's config.json names, if it is part of flaxae."""
    try:
        found = own_task_config(name)
    except ConfigError as e:
        raise ConfigError(f"{source}: {e}") from None
    if found is None:
        raise ConfigError(
            f"{source} is a run of {name or 'an unknown task'}, which is not part of flaxae: give "
            "the config file that it was trained with (--config=FILE), or open the model yourself "
            "and call flaxae.explore.Explorer(model, texts)"
        )
    return found
