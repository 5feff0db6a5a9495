"""The task of training an autoregressive prior on the codes of a trained text autoencoder."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.sharding import PartitionSpec as P

from flaxae.config import Config, TaskConfig
from flaxae.config.ranges import Count, Whole
from flaxae.errors import require
from flaxae.models.t5_vae.prior.base import PriorTask
from flaxae.task import Context, Loss
from flaxae.text_autoencoder.priors import AutoregressivePrior, GaussianPrior
from flaxae.text_autoencoder.priors.autoregressive_modeling import LatentTransformer


@dataclasses.dataclass
class AutoregressiveConfig(TaskConfig):
    """A causal transformer over the latents of a code, and the codes that it learns."""

    codes_from: str = ""  # the workdir of a trained text autoencoder
    num_lines: Whole = 0  # texts of its training split; 0: all
    pieces: Whole = 0  # parts of a code that are drawn one after the other; 0: its latents
    width: Count = 128
    depth: Count = 3
    heads: Count = 4
    components: Count = 8  # Gaussians per part
    scan_unroll: Count = 1

    def validate(self) -> None:
        """Check the fields."""
        require(
            self.width % self.heads == 0,
            f"task.width={self.width} is not a multiple of task.heads={self.heads}",
        )

    def make(self, config: Config) -> "AutoregressiveTask":
        """Return the task of a config."""
        return AutoregressiveTask(config)


class AutoregressiveTask(PriorTask):
    """The task of an AutoregressiveConfig."""

    name = "autoregressive prior"
    sharding_rules = (
        (r"blocks/attention/(q|k|v)/kernel$", P(None, None, "model")),
        (r"blocks/attention/o/kernel$", P(None, "model", None)),
        (r"blocks/mlp/wi/kernel$", P(None, None, "model")),
        (r"blocks/mlp/wo/kernel$", P(None, "model", None)),
    )

    def __init__(self, config: Config):
        require(isinstance(config.task, AutoregressiveConfig), "task: not an AutoregressiveConfig")
        super().__init__(config)

    @property
    def pieces(self) -> int:
        """Parts of a code that are drawn one after the other."""
        pieces = self.options.pieces or self.codes.num_latents
        require(
            self.dim % pieces == 0,
            f"task.pieces={pieces} does not divide the {self.dim} numbers of a code",
        )
        return pieces

    def fit_base(self, codes: Any) -> GaussianPrior:
        """Return the Gaussian that scales each number by itself, which keeps latents apart."""
        std = np.maximum(codes.std(0), 1e-6 * codes.std())
        return GaussianPrior(codes.mean(0), np.diag(std))

    def init(self, rngs: nnx.Rngs) -> LatentTransformer:
        """Return an untrained transformer."""
        options, pieces = self.options, self.pieces
        sizes = (options.width, options.depth, options.heads, options.components)
        return LatentTransformer(pieces, self.dim // pieces, *sizes, options.scan_unroll, rngs=rngs)

    def loss(self, model: LatentTransformer, batch: Any, ctx: Context) -> Loss:
        """Return the negative log density of whitened codes, in nats per number."""
        z = rearrange(batch["codes"], "b (l z) -> b l z", l=model.latents)
        nats = -model.log_density(z, ctx) / batch["codes"].shape[1]
        weight = batch["weight"]
        return Loss(jnp.sum(nats * weight), jnp.sum(weight), {})

    def prior(self, model: LatentTransformer) -> AutoregressivePrior:
        """Return a trained model of this task as a prior."""
        return AutoregressivePrior(model, self.base)

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the matmul FLOPs of a train step: three times those of the forward pass."""
        rows, dim = batch_spec["codes"].shape
        options, length = self.options, self.pieces
        width, size = options.width, dim // length
        block = 12 * width * width + 2 * length * width  # with scores and sums of attention
        ends = size * width + options.components * (width * (1 + 2 * size) + size * size)
        return 3 * 2 * rows * length * (ends + options.depth * block)
