"""The looped language model as a Task: rows of bytes, and a new random b at each step."""

import dataclasses
import math
from functools import cached_property
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from flaxae.config import Config, DataConfig, TaskConfig
from flaxae.config.ranges import Count, Counts, NonNegative, Range, Whole
from flaxae.data.config import TextDataConfig, text_data
from flaxae.data.hub import load_examples
from flaxae.data.loader import ArraySource
from flaxae.data.text import Corpus, Splits, split_corpus
from flaxae.errors import ConfigError, require
from flaxae.models.looped.core import SHARDING_RULES
from flaxae.models.looped.depth import random_loops
from flaxae.models.looped.text.data import BYTES, decode_row, encode_lines, targets_and_weights
from flaxae.models.looped.text.modeling import LoopedText, TextModelConfig
from flaxae.task import Context, Loaded, Loss, Source, Task


@dataclasses.dataclass
class TextConfig(TaskConfig):
    """The model, and the number of loops."""

    data_class: ClassVar[type[DataConfig]] = TextDataConfig

    model: TextModelConfig = dataclasses.field(default_factory=TextModelConfig)
    loops: Count = 6  # mean of b (Poisson-lognormal), and b of evaluation
    grad_loops: Count = 3  # T: the loss and its gradient are those of the last min(b, T) loops
    random_loops: bool = True
    random_sigma: Annotated[float, Range(0, 10, "[]")] = 0.5
    max_loops: Whole = 0  # largest random b; 0: 3 times the mean
    report_loops: Counts = (1, 2, 4, 8, 12, 16, 24, 32)
    temperature: NonNegative = 0.7  # temperature of samples

    def make(self, config: Config) -> "TextTask":
        """Make the task."""
        return TextTask(config)

    def validate(self) -> None:
        """Raise ConfigError for numbers of loops that do not fit each other."""
        require(
            not self.random_loops or not self.max_loops or self.max_loops >= self.loops,
            f"task.max_loops={self.max_loops} is below the mean of random b, task.loops="
            f"{self.loops}",
        )
        loops = self.report_loops
        require(
            bool(loops) and list(loops) == sorted(set(loops)),
            f"task.report_loops={loops} must be ascending numbers of loops",
        )


class TextTask(Task):
    """Language modelling of bytes."""

    sharding_rules = SHARDING_RULES
    hparams = {"loops": "task.loops"}
    lanes_apart = ("task.loops",)

    def __init__(self, config: Config):
        if not isinstance(config.task, TextConfig):
            raise ConfigError("task: not a TextConfig")
        self.config, self.options = config, config.task
        self.data_config = text_data(config)
        self._sources: dict[str, ArraySource] = {}
        self._skipped: list[str] = []

    @cached_property
    def corpus(self) -> Corpus:
        """All lines."""
        return load_examples(self.data_config)

    @cached_property
    def splits(self) -> Splits:
        """The lines of each split."""
        return split_corpus(self.corpus, self.data_config.seed)

    def data_notes(self) -> list[str]:
        """Return remarks on what the corpus and its splits contain."""
        return [*self.corpus.notes, *self.splits.notes, *self._skipped]

    def data(self, split: str) -> Source:
        """Return the batches of a split."""
        if split not in self.splits:
            raise ConfigError(f"no split {split!r}: the splits are {', '.join(self.splits)}")
        if split not in self._sources:
            data = self.data_config
            try:
                arrays = encode_lines(self.splits[split], data.max_length, data.long_lines)
            except ConfigError as error:
                raise ConfigError(f"split {split!r} of {self.corpus.name}: {error}") from None
            train = split == "train"
            if too_long := len(self.splits[split]) - len(arrays["length"]):
                self._skipped.append(
                    f"{split}: {too_long} lines of more than {data.max_length} bytes are left out"
                )
            self._sources[split] = ArraySource(arrays, data.batch_size, data.seed, train)
        return self._sources[split]

    def batch_spec(self) -> Any:
        """Return the shapes of a batch."""
        data = self.data_config
        return {
            "bytes": jax.ShapeDtypeStruct((data.batch_size, data.max_length), np.uint8),
            "length": jax.ShapeDtypeStruct((data.batch_size,), np.int32),
            "weight": jax.ShapeDtypeStruct((data.batch_size,), np.float32),
        }

    def init(self, rngs: nnx.Rngs) -> LoopedText:
        """Draw a model."""
        return LoopedText(self.options.model, self.data_config.max_length, rngs=rngs)

    def loops(self, ctx: Context) -> Array:
        """Return b of this step."""
        options = self.options
        loops = jnp.asarray(ctx.hparams.get("loops", options.loops))
        if options.random_loops and ctx.train:
            most = options.max_loops or 3 * loops  # depends on the lane
            loops = random_loops(ctx.at("loops").key, loops, options.random_sigma, most)
        return loops

    def loss(self, model: LoopedText, batch: Any, ctx: Context) -> Loss:
        """Return the loss: nats, averaged over the last min(b, T) loops.

        The metrics are those of the last loop.
        """
        options, (rows, weight) = self.options, targets_and_weights(batch)
        loops = self.loops(ctx)
        grad_loops = options.grad_loops
        (nats, correct), taken = model.last_loops(
            rows, weight, ctx, loops=loops, grad_loops=grad_loops, window=grad_loops
        )
        count, depth = jnp.sum(weight), loops.astype(jnp.float32)
        metrics = {
            "bits_per_byte": (nats[-1] / math.log(2), count),
            "accuracy": (jax.lax.stop_gradient(correct[-1]), count),
            "loops": (depth * count, count),
        }
        return Loss(jnp.sum(nats * taken) / jnp.sum(taken), count, metrics)

    def eval_step(self, model: LoopedText, batch: Any, ctx: Context) -> dict[str, Any]:
        """Return the sums of a batch after the mean number of loops."""
        rows, weight = targets_and_weights(batch)
        loops = self.loops(ctx)
        (nats, correct), _ = model.last_loops(
            rows, weight, ctx, loops=loops, grad_loops=1, window=1
        )
        count = jnp.sum(weight)
        return {
            "loss": (nats[0], count),
            "bits_per_byte": (nats[0] / math.log(2), count),
            "accuracy": (correct[0], count),
        }

    def sample(self, model: LoopedText, ctx: Context, n: int) -> dict[str, Any]:
        """Draw texts."""
        graphdef, params = nnx.split(model)
        length, temperature = self.data_config.max_length, self.options.temperature

        @jax.jit
        def draw(params: Any, loops: Array) -> Array:
            return nnx.merge(graphdef, params).sample(ctx, n, length, loops, temperature)

        loops = jnp.asarray(ctx.hparams.get("loops", self.options.loops))
        return {"samples": [decode_row(row) for row in np.asarray(draw(params, loops))]}

    def report(self, loaded: Loaded, outdir: str) -> dict[str, Any]:
        """Evaluate a run; see `evaluation.report`."""
        from flaxae.models.looped.text import evaluation

        return evaluation.report(loaded, outdir)

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Count one step: the mean b forward, the last T backward; padding is included."""
        options, data = self.options, self.data_config
        width, read_out = options.model.width, 2 * BYTES * options.model.width
        stable = 2 * width**2 if options.model.injection.value == "stable" else 0
        layer = 24 * width**2 + 4 * data.max_length * width  # per token, matmuls
        loop = layer * options.model.num_layers + stable
        last = min(options.loops, options.grad_loops)
        token = loop * (options.loops + 2 * last) + 3 * read_out * options.grad_loops
        return float(data.batch_size * data.max_length * token)
