"""Base class of a trained autoencoder: opening, saving, statistics and priors of its codes."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from flax import nnx
from jaxtyping import Float

from flaxae.config import Config
from flaxae.config.locate import user_path
from flaxae.config.serialize import ConfigClass
from flaxae.data.config import text_data
from flaxae.data.text import digest
from flaxae.data.tokenizer import Tokenizer
from flaxae.errors import ConfigError, causes, require
from flaxae.storage.fingerprint import fingerprint
from flaxae.text_autoencoder import checks, saving
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.latent_stats import Statistics
from flaxae.text_autoencoder.priors import (
    FOLDER,
    Prior,
    StandardNormal,
    check_model,
    fit,
    load_prior,
    trained_prior,
)
from flaxae.weights import hf

NUM_LINES = 4000  # training texts that statistics and priors are computed from


class Pretrained:
    """The part of `TextAutoencoder` that opens and saves models.

    A family sets the class attributes and defines `card`. The task of its config must have the
    attribute `text` (see `protocol.TextTask`).

    Attributes:
        family: the family's name in messages, such as "T5-VAE".
        model_class: the class of its module (see `protocol.LatentModel`).
    """

    family: ClassVar[str]
    model_class: ClassVar[type[nnx.Module]]

    def card(self) -> str:
        """Return the README of a saved model, without the section on its evaluation."""
        raise NotImplementedError

    def __init__(
        self,
        model: Any,
        config: Config,
        tokenizer: Tokenizer,
        step: int = 0,
        *,
        source: str | Path | None = None,
        lines: Callable[[], Sequence[str]] | None = None,
        labels: Callable[[], list[str]] | None = None,
        statistics: Statistics | None = None,
    ):
        """Wrap a trained module; `from_pretrained` calls this.

        Args:
            model: the module (see `protocol.LatentModel`).
            config: the config of its run.
            tokenizer: its tokenizer.
            step: train step of its parameters.
            source: the directory it came from, which may contain a report and priors.
            lines: returns training texts, for statistics and priors.
            labels: returns one label per training text; None: there are no labels.
            statistics: statistics of its codes; None: computed from `lines` at first use.
        """
        self.config, self.tokenizer, self.step = config, tokenizer, step
        self._model, self._codec = model, Codec(model, tokenizer, step)
        self.max_length = self._codec.max_length
        self.num_latents, self.dim = self._codec.num_latents, self._codec.dim
        self._source, self._lines = Path(source) if source else None, lines
        self._labels = labels
        self._priors: dict[str, Prior] = {}
        if statistics is not None:
            self.statistics = statistics

    def __repr__(self) -> str:
        source = f", source={str(self._source)!r}" if self._source else ""
        return (
            f"{type(self).__name__}(step={self.step}, num_latents={self.num_latents}, "
            f"dim={self.dim}, max_length={self.max_length}{source})"
        )

    @classmethod
    def from_pretrained(cls, source: str | Path, config_class: ConfigClass | None = None) -> Self:
        """Open a trained model.

        Args:
            source: a run's workdir, a directory that `save_pretrained` wrote, or a Hub id.
            config_class: the class of the task's config, or the path of the run's config file;
                needed if the class is not one of flaxae's own.

        Raises:
            ConfigError: if there is no model, or it is incomplete or of another family.
        """
        directory = hf.resolve(source)
        if any((directory / "latest").glob("[0-9]*")):
            return cls._from_workdir(directory, config_class)
        saved = saving.read(directory, cls.family, config_class)
        cls._check_family(directory, saved.model, saved.config)
        return cls(
            saved.model,
            saved.config,
            saved.tokenizer,
            saved.step,
            source=directory,
            statistics=saved.statistics,
        )

    @classmethod
    def _from_workdir(cls, directory: Path, config_class: ConfigClass | None) -> Self:
        from flaxae.training.load import load

        loaded = load(directory, config_class)
        cls._check_family(directory, loaded.model, loaded.config)
        task: Any = loaded.task  # a TextTask
        labelled = text_data(loaded.config).labels
        return cls(
            loaded.model,
            loaded.config,
            saving.read_tokenizer(directory, loaded.model.vocab_size),
            loaded.step,
            source=directory,
            lines=lambda: task.text.lines("train"),
            labels=(lambda: task.text.labels("train")) if labelled else None,
        )

    @classmethod
    def _check_family(cls, directory: Path, model: Any, config: Config) -> None:
        if not isinstance(model, cls.model_class):
            kind = type(config.task).__name__
            raise ConfigError(f"{directory} is a run of {kind}, not of a {cls.family}")

    def save_pretrained(
        self, directory: str | Path, priors: Sequence[str | Prior] = ("gaussian",)
    ) -> None:
        """Write a directory that `from_pretrained` opens without the run and its data.

        Args:
            directory: created if it does not exist.
            priors: names (see `prior`) or priors to save with the model.

        Raises:
            ConfigError: if the directory cannot be written, or is a run's workdir.
        """
        directory = user_path(directory)
        kept = [self.prior(p) for p in priors]
        saving.write(
            directory, self._model, self.saved_config(), self.tokenizer, self.step, self.statistics
        )
        for prior in kept:
            prior.save(directory / FOLDER / prior.kind)
        report = saving.read_report(self._source) if self._source else None
        if report is not None:
            saving.write_report(directory, report)
        text = f"{self.card()}\n{saving.evaluation_section(report)}"
        (directory / saving.README).write_text(text, encoding="utf-8")

    def saved_config(self) -> Config:
        """Return the config that a saved model is opened with; a family may resolve fields."""
        return self.config

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model to the Hugging Face Hub, as `save_pretrained` writes it.

        Args:
            repo_id: owner/name; created if it does not exist.
            private: whether a new repository is private.
            token: access token; None: the one that `hf auth login` stored.

        Returns:
            The repository's address.

        Raises:
            ConfigError: if the Hub rejects it, or there is no network.
        """
        import huggingface_hub as hub

        folder = tempfile.mkdtemp()
        try:
            self.save_pretrained(folder)
            api = hub.HfApi(token=token)
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder)
        except ConfigError:
            raise
        except Exception as e:  # each network library has exceptions of other classes
            raise ConfigError(
                f"{repo_id}: the upload to the Hub failed ({causes(e)}); call "
                f"save_pretrained(DIR), and later, with a network, run: hf upload {repo_id} DIR"
            ) from None
        finally:
            shutil.rmtree(folder)
        return str(url)

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and standard deviation of the codes of training texts.

        Raises:
            ConfigError: if the model came without training texts.
        """
        return Statistics.from_codes(self._training_codes)

    def prior(self, which: str | Prior | None = None) -> Prior:
        """Return a prior of the codes.

        Examples:
            >>> vae.prior("gaussian").sample(4).shape == (4, vae.num_latents * vae.dim)
            True

        Args:
            which: one of
                None or "normal": N(0, I), as the decoder reads it;
                "gaussian" or "gmm": the one saved with the model, otherwise fitted to the codes of
                training texts;
                "flow" or "autoregressive": the one saved with the model;
                a directory: a saved prior, or the workdir of a run that trained one;
                a Prior.

        Raises:
            ConfigError: if there is no such prior, or its codes have another size.
        """
        if isinstance(which, str):
            if which not in self._priors:
                self._priors[which] = self._named(which)
            prior = self._priors[which]
        else:
            prior = which
        size = self.num_latents * self.dim
        if prior is None:
            return StandardNormal(size, 1 / self._codec.scale)
        if not isinstance(prior, Prior):
            raise ConfigError(f"prior={prior!r} is neither a Prior nor the name of one")
        require(
            prior.dim == size, f"the prior's codes have {prior.dim} numbers, the model's {size}"
        )
        return prior

    def _named(self, name: str) -> Prior:
        if name == "normal":
            return self.prior(None)
        saved = self._source / FOLDER / name if self._source else None
        if saved is not None and saved.is_dir():
            prior = load_prior(saved)
            check_model(prior, self._model, saved)
            return prior
        if name in ("gaussian", "gmm"):
            return fit(name, self._training_codes.reshape(len(self._training_codes), -1))
        folder = user_path(name)
        if (folder / "prior.json").is_file():
            return load_prior(folder)
        if folder.is_dir():
            return trained_prior(folder)
        raise ConfigError(
            f"prior={name!r}: give 'normal', 'gaussian', 'gmm', the directory of a saved prior or "
            "of a run that trained one (configs/t5_vae/flow_prior.py, autoregressive_prior.py), or "
            "'flow' or 'autoregressive' if one was saved with the model"
        )

    def training_texts(self) -> list[str]:
        """Return the texts that the model was trained on.

        Examples:
            >>> "import os = 0" in vae.training_texts()
            True

        Raises:
            ConfigError: if the model came without them.
        """
        if self._lines is None:
            raise ConfigError(f"{self._source or 'this model'} came without its training texts")
        return list(self._lines())

    def training_labels(self) -> list[str] | None:
        """Return one label per training text; None if the run's data have no labels.

        Examples:
            >>> vae.training_labels() is None
            True
        """
        return self._labels() if self._labels is not None else None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the parameters and the tokenizer.

        Examples:
            >>> len(vae.fingerprint)
            16
        """
        return digest([fingerprint(self._codec.state), str(self.tokenizer.fingerprint)])

    @cached_property
    def _training_codes(self) -> Float[np.ndarray, "n L Z"]:
        if self._lines is None:
            raise ConfigError(
                f"{self._source or 'this model'} came without its training texts: open the run's "
                "workdir, or a directory that was saved with this prior"
            )
        lines = self.training_texts()
        order = np.random.default_rng(0).permutation(len(lines))[:NUM_LINES]
        texts = [lines[i] for i in sorted(order)]
        return self._codec.encode_ids(checks.texts(texts, self.tokenizer, self.max_length, True))
