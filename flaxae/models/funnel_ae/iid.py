"""A toy: rows of independent, uniform tokens, which no model of language can guess.

An autoencoder must carry every token through its code, so its cross entropy says how much of the
row the code contains: ln V nats per token for a code without information.
"""

import dataclasses
import hashlib
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from flaxae.config import Config, DataConfig
from flaxae.config.ranges import Count
from flaxae.errors import ConfigError
from flaxae.models.funnel_ae.modeling import FunnelAEModel
from flaxae.models.funnel_ae.task import FunnelAEConfig, FunnelAETask
from flaxae.task import Context

FIRST = 2  # lower ids are padding and EOS, which rows of this toy do not contain
EVALUATED = 16  # batches of an evaluation


@dataclasses.dataclass
class IIDConfig(FunnelAEConfig):
    """The Funnel AE's options, and the rows of the toy."""

    data_class: ClassVar[type[DataConfig]] = DataConfig

    num_ids: Count = 64  # size of the vocabulary
    length: Count = 8  # tokens per row

    def make(self, config: Config) -> "IIDTask":
        """Return the task of a config."""
        return IIDTask(config)


class UniformRows:
    """Batches of uniform ids, a pure function of (data seed, split, step)."""

    def __init__(self, config: Config, split: str):
        options: Any = config.task
        self.num_batches = None if split == "train" else EVALUATED
        self._shape = (config.data.batch_size, options.length)
        self._seed = [config.data.seed, *hashlib.sha256(split.encode()).digest()[:4]]
        self._num_ids = options.num_ids
        name = repr((self._shape, self._seed, self._num_ids))
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()[:16]

    def batch(self, step: int) -> dict[str, Int[np.ndarray, "B N"]]:
        """Return the batch of a step."""
        rng = np.random.default_rng([*self._seed, step])
        ids = rng.integers(FIRST, FIRST + self._num_ids, self._shape)
        return {"ids": ids.astype(np.int32)}

    @property
    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a batch."""
        return {"ids": jax.ShapeDtypeStruct(self._shape, np.int32)}


class IIDTask(FunnelAETask):
    """The task of an IIDConfig."""

    @property
    def max_length(self) -> int:
        """Places per row."""
        return self.options.length

    @property
    def funnel(self) -> Any:
        """The Funnel's sizes, the vocabulary's included."""
        return dataclasses.replace(self.options.funnel, vocab_size=FIRST + self.options.num_ids)

    @property
    def num_tokens(self) -> int:
        """Number of ids that may be generated."""
        return FIRST + self.options.num_ids

    def data(self, split: str) -> Any:
        """Return the batches of a split."""
        return UniformRows(self.config, split)

    def data_notes(self) -> list[str]:
        """Return no remarks."""
        return []

    def batch_spec(self) -> Any:
        """Return the shapes of a batch."""
        return self.data("train").batch_spec

    def rows(self, batch: Any) -> tuple[Int[Array, "B N"], Float[Array, "B"]]:
        """Return the ids of a batch; all rows count."""
        return batch["ids"], jax.numpy.ones(batch["ids"].shape[0], jax.numpy.float32)

    def sample(self, model: FunnelAEModel, ctx: Context, n: int) -> dict[str, Any]:
        """Return nothing: ids have no text."""
        return {}

    def save_assets(self, workdir: str) -> None:
        """Write nothing: there is no tokenizer."""

    def load_assets(self, workdir: str) -> None:
        """Read nothing: there is no tokenizer."""

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """Refuse: ids have no texts to report on.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "this run trains on rows of ids, not on texts: its evaluations are in metrics.jsonl"
        )
