"""Training of byte networks on streams: the Task that all of them share."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from flaxae.config import Config, DataConfig, TaskConfig
from flaxae.config.ranges import Count
from flaxae.data import byte_corpus
from flaxae.data.byte_corpus import ByteCorpus
from flaxae.data.byte_manifest import Manifest
from flaxae.errors import require
from flaxae.models.byte_lm.network import ByteNetwork, nats
from flaxae.models.byte_lm.streams import (
    ByteDataConfig,
    HeldOutStreams,
    TrainStreams,
    batch_spec,
)
from flaxae.task import Context, Loaded, Loss, StreamCarry, Task
from flaxae.tree import nest

MANIFEST = "manifest.json"


@dataclasses.dataclass
class ByteLMConfig(TaskConfig):
    """Base class of the byte networks' configs: `network` builds the network.

    Attributes:
        traced: fields of the class that lanes may vary without another compilation, each of which
            the network finds in `ctx.hparams` under its own name.
    """

    data_class: ClassVar[type[DataConfig]] = ByteDataConfig
    traced: ClassVar[tuple[str, ...]] = ()

    update: Count = 16  # bytes of each stream per step
    eval_streams: Count = 32  # at least as many parts of a held-out split are read side by side
    eval_update: Count = 128  # bytes of each part per batch of an evaluation

    def validate(self) -> None:
        """Check that gradients through time, if there are any, end within an update."""
        super().validate()
        bptt = getattr(self, "bptt", 1)
        require(
            bptt <= self.update,
            f"task.bptt={bptt} is above task.update={self.update}, but gradients end at the start "
            "of an update: lower bptt, or raise update",
        )

    def network(self, rows: int, rngs: nnx.Rngs) -> ByteNetwork:
        """Build the network.

        Args:
            rows: number of streams that its state is for.
            rngs: `rngs.params()` draws trained parameters, `rngs.frozen()` frozen ones.
        """
        raise NotImplementedError(f"{type(self).__name__}.network")

    def make(self, config: Config) -> "ByteLMTask":
        """Return the task."""
        return ByteLMTask(config)


class ByteLMTask(Task):
    """Prediction of the next byte of streams whose state is kept from step to step."""

    trainable = nnx.Param

    def __init__(self, config: Config):
        self.config = config
        self.options: Any = config.task  # a ByteLMConfig
        self.hparams = {name: f"task.{name}" for name in self.options.traced}
        self._manifest: Manifest | None = None  # of the data that a run began with

    @functools.cached_property
    def corpus(self) -> ByteCorpus:
        """The data, read when they are first needed.

        Raises:
            ConfigError: if they cannot be read, or are not those that the run began with.
        """
        data: Any = self.config.data
        found = byte_corpus.read(data.path)
        if self._manifest is not None:
            found.manifest.require_same(self._manifest)
        return found

    def data(self, split: str) -> TrainStreams | HeldOutStreams:
        """Return the batches of a split."""
        options, rows = self.options, self.config.data.batch_size
        if split == "train":
            return TrainStreams(self.corpus, rows, options.update, self.config.data.seed)
        # A multiple of the streams of training, which fit the devices.
        held_out = rows * math.ceil(options.eval_streams / rows)
        return HeldOutStreams(self.corpus, split, held_out, options.eval_update)

    def batch_spec(self) -> Any:
        """Return the shapes of a train batch, without reading the data."""
        return batch_spec(self.config.data.batch_size, self.options.update)

    def data_notes(self) -> list[str]:
        """Return the totals of the corpus."""
        return self.corpus.manifest.summary().split("\n")

    def save_assets(self, workdir: str) -> None:
        """Write the manifest of the corpus."""
        self.corpus.manifest.save(Path(workdir) / MANIFEST)

    def load_assets(self, workdir: str) -> None:
        """Read the manifest of the data that the run began with."""
        self._manifest = Manifest.load(Path(workdir) / MANIFEST)

    def init(self, rngs: nnx.Rngs) -> ByteNetwork:
        """Build the network for the streams of the training."""
        return self.options.network(self.config.data.batch_size, rngs)

    def init_carry(self, batch_spec: Any) -> dict[str, Any]:
        """Return the state of new streams, as many as a batch has."""
        rows = batch_spec["x"].shape[0]

        def trace() -> nnx.State:
            rngs = nnx.Rngs(params=0, frozen=0)
            return nnx.split(self.options.network(rows, rngs), StreamCarry, ...)[1]

        flat = dict(nnx.to_flat_state(jax.eval_shape(trace)))
        shapes = {path: var.get_value() for path, var in flat.items()}
        zeros = {path: jnp.zeros(x.shape, x.dtype) for path, x in shapes.items()}
        return {"once": {}, "stream": nest(zeros)}

    def loss(self, model: ByteNetwork, batch: Any, ctx: Context) -> Loss:
        """Return the cross entropy of the next bytes, in nats, and the network's further loss."""
        y, weight = batch["y"].astype(jnp.int32), batch["weight"]
        out = model(batch["x"].astype(jnp.int32), ctx)
        entropy = nats(out.logits, y)  # (B, U)
        count = weight.sum()
        bits = (entropy * weight).sum() / math.log(2)
        metrics = {"bits_per_byte": (bits, count)}
        metrics |= {name: ((each * weight).sum(), count) for name, each in out.metrics.items()}
        total = entropy if out.loss is None else entropy + out.loss
        return Loss((total * weight).sum(), count, metrics)

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the FLOPs of the matmuls with weights, 6 per weight and byte."""
        model = nnx.eval_shape(lambda: self.init(nnx.Rngs(params=0, frozen=0)))
        return 6.0 * model.weights_per_byte() * math.prod(batch_spec["x"].shape)

    def sample(self, model: ByteNetwork, ctx: Context, n: int) -> dict[str, Any]:
        """Return texts that the network generates, and the table of baselines with its number."""
        from flaxae.models.byte_lm.evaluation import after_training

        return after_training(self, model, ctx, n)

    def report(self, loaded: Loaded, outdir: str) -> dict[str, Any]:
        """Evaluate a trained run on both held-out splits, beside compressors and n-grams."""
        from flaxae.models.byte_lm.evaluation import report

        return report(self, loaded, Path(outdir))
