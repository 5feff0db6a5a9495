"""What the explorer asks of an autoencoder, and how a trained one is opened."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from flaxae.errors import ConfigError
from flaxae.weights import hf

CLASS = "AUTOENCODER"  # what a family's api.py calls its class


@runtime_checkable
class Autoencoder(Protocol):
    """Texts to codes and back; codes are clean: what `encode` gives is what `decode` takes.

    Where a model has `training_labels()`, a label of each training text or None, the map can be
    coloured by them.

    Attributes:
        num_latents, dim: a code is (num_latents, dim).
        max_length: of texts in tokens, their end included.
        step: the train step of the parameters.
        fingerprint: another one where the parameters or the tokenizer are others.
        tokenizer: `encode` and `decode` of lists of texts and ids.
        statistics: has `mean` and `std` of the codes of training texts, (num_latents, dim) each.
    """

    num_latents: int
    dim: int
    max_length: int
    step: int
    fingerprint: str
    tokenizer: Any

    @property
    def statistics(self) -> Any: ...

    def encode(
        self, texts: Sequence[str], *, truncate: bool = False
    ) -> Float[np.ndarray, "B L Z"]: ...

    def decode(self, z: Float[np.ndarray, "B L Z"]) -> list[str]: ...

    def prior(self, which: str | None = None) -> Any:
        """Has `sample(n, seed, temperature)`, which gives (n, L * Z).

        Args:
            which: "normal", "gaussian", "gmm" or "flow".

        Raises:
            ConfigError: the model has none of this name.
        """
        ...

    def training_texts(self) -> Sequence[str]:
        """Texts that it was trained on. Raises ConfigError where they did not come with it."""
        ...


def open_model(source: str | Path) -> Autoencoder:
    """Opens the trained autoencoder of a directory or a Hub id, of whatever family.

    A family is explored where its `api.py` names a class `AUTOENCODER` with `from_pretrained`.

    Args:
        source: a run's workdir, a directory that `save_pretrained` made, or a Hub id.

    Raises:
        ConfigError: there is none, or it is of a family without an autoencoder.
    """
    directory = hf.resolve(source)
    data = hf.read_config(directory)
    task = data.get("task")
    name = str(task.get("class", "")) if isinstance(task, dict) else ""
    module, _, config_class = name.partition(":")
    if not module.startswith("flaxae."):
        raise ConfigError(
            f"{source}: its task {name!r} is not flaxae's own; open the model yourself and give it "
            "to flaxae.explore.Explorer(model, corpus)"
        )
    package = module.rpartition(".")[0]
    try:
        api = importlib.import_module(f"{package}.api")
        family = getattr(api, CLASS)
    except (ModuleNotFoundError, AttributeError) as e:
        if isinstance(e, ModuleNotFoundError) and not f"{package}.api".startswith(str(e.name)):
            raise  # it is there, and needs a package that is not
        raise ConfigError(
            f"{source} is a run of {config_class or name}, which is no autoencoder: the explorer "
            f"opens families whose api.py names an {CLASS}"
        ) from None
    return family.from_pretrained(source)
