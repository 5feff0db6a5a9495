"""Opening and saving a trained T5-VAE, and what is known of its codes: statistics and priors."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from flaxae.config import Config
from flaxae.errors import ConfigError, require
from flaxae.models.t5_vae.api import saving
from flaxae.models.t5_vae.api.saving import Statistics
from flaxae.text_autoencoder import checks
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.priors import Prior, StandardNormal, fit, load_prior
from flaxae.weights import hf

NUM_LINES = 4000  # training texts behind statistics and fitted priors


class Pretrained:
    """The part of `flaxae.T5VAE` that knows of files."""

    def __init__(
        self,
        model: Any,
        config: Config,
        tokenizer: Any,
        step: int = 0,
        *,
        source: str | Path | None = None,
        lines: Callable[[], Sequence[str]] | None = None,
        labels: Callable[[], list[str]] | None = None,
        statistics: Statistics | None = None,
    ):
        """Takes a trained model; `from_pretrained` calls this.

        Args:
            model: modeling.T5VAE.
            config, tokenizer, step: it was trained with.
            source: the directory it came from, where its report and priors are looked for.
            lines: gives training texts, for statistics and priors.
            labels: gives a label of each of them; None: they have none.
            statistics: of its codes; None: made from `lines` when first asked for.
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

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Opens a trained model.

        Args:
            source: a run's workdir, a directory that `save_pretrained` made, or a Hub id.

        Raises:
            ConfigError: there is none, or what is there is incomplete or of another model.
        """
        directory = hf.resolve(source)
        if not any((directory / "latest").glob("[0-9]*")):
            found = saving.read(directory)
            model, config, tokenizer, step, statistics = found
            return cls(model, config, tokenizer, step, source=directory, statistics=statistics)
        from flaxae.models.t5_vae.task import T5VAETask
        from flaxae.training.load import load

        loaded = load(directory)
        task = loaded.task
        if not isinstance(task, T5VAETask):
            raise ConfigError(f"{source} is a run of {type(task).__name__}, not of a T5-VAE")
        tokenizer = saving.read_tokenizer(directory, loaded.config)
        return cls(
            loaded.model,
            loaded.config,
            tokenizer,
            loaded.step,
            source=directory,
            lines=lambda: task.text.lines("train"),
            labels=(lambda: task.text.labels("train")) if task.data_config.labels else None,
        )

    def save_pretrained(
        self, directory: str | Path, priors: Sequence[str | Prior] = ("gaussian",)
    ) -> None:
        """Writes one directory that `from_pretrained` opens, without the run and its data.

        Args:
            directory: made if it is not there.
            priors: names (see `prior`) or priors to save with it.

        Raises:
            ConfigError: it cannot be written, or is a run's workdir.
        """
        directory = Path(directory)
        kept = [self.prior(p) for p in priors]
        saving.write(
            directory, self._model, self.config, self.tokenizer, self.step, self.statistics
        )
        for prior in kept:
            prior.save(directory / saving.PRIORS / prior.kind)
        report = saving.read_report(self._source) if self._source else None
        if report is not None:
            saving.write_report(directory, report)
        text = saving.readme(self.config, self.step, report)
        (directory / saving.README).write_text(text, encoding="utf-8")

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Uploads what `save_pretrained` writes to the Hugging Face Hub.

        Args:
            repo_id: owner/name; made if it is not there.
            private: of a new repository.
            token: None: the one that `hf auth login` keeps.

        Returns:
            The repository's address.

        Raises:
            ConfigError: the Hub does not take it, or there is no network.
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
        except Exception as e:  # every network library has its own
            raise ConfigError(
                f"{repo_id}: the Hub did not take it ({str(e).strip().splitlines()[0]}); "
                "save_pretrained(DIR), and where there is a network: hf upload "
                f"{repo_id} DIR"
            ) from None
        finally:
            shutil.rmtree(folder)
        return str(url)

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and standard deviation of the codes of training texts.

        Raises:
            ConfigError: it was made without training texts.
        """
        return Statistics.of(self._training_codes)

    def prior(self, which: str | Prior | None = None) -> Prior:
        """What codes are drawn from.

        >>> vae.prior("gaussian").sample(4).shape == (4, vae.num_latents * vae.dim)
        True

        Args:
            which: None or "normal": N(0, I) where the decoder reads codes; "gaussian" or "gmm":
                saved with the model, or fitted to the codes of training texts; "flow": saved with
                the model; a directory: a saved prior, or the workdir of a trained flow; a Prior.

        Raises:
            ConfigError: there is none of this name, or it is of another width.
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
        require(prior.dim == size, f"the prior is of {prior.dim} numbers, codes have {size}")
        return prior

    def _named(self, name: str) -> Prior:
        if name == "normal":
            return self.prior(None)
        saved = self._source / saving.PRIORS / name if self._source else None
        if saved is not None and saved.is_dir():
            return load_prior(saved)
        if name in ("gaussian", "gmm"):
            return fit(name, self._training_codes.reshape(len(self._training_codes), -1))
        if (Path(name) / "prior.json").is_file():
            return load_prior(name)
        if Path(name).is_dir():
            from flaxae.text_autoencoder.priors import FlowPrior

            return FlowPrior.from_workdir(name)
        raise ConfigError(
            f"prior={name!r}: give 'normal', 'gaussian', 'gmm', the directory of a saved prior or "
            "of a trained flow (configs/t5_vae/flow_prior.py), or 'flow' where one was saved with "
            "the model"
        )

    @cached_property
    def _training_codes(self) -> Float[np.ndarray, "n L Z"]:
        if self._lines is None:
            raise ConfigError(
                f"{self._source or 'this model'} came without its training texts: open the run's "
                "workdir, or a directory that was saved with this prior"
            )
        lines = list(self._lines())
        order = np.random.default_rng(0).permutation(len(lines))[:NUM_LINES]
        texts = [lines[i] for i in sorted(order)]
        return self._codec.encode_ids(checks.texts(texts, self.tokenizer, self.max_length, True))
