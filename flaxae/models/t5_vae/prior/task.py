"""The task of training a rectified flow on the codes of a trained text autoencoder."""

import dataclasses
import enum
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from flaxae.config import Config, TaskConfig
from flaxae.config.ranges import Count, Whole
from flaxae.data.loader import ArraySource, with_order
from flaxae.data.text import digest
from flaxae.errors import ConfigError, require
from flaxae.models.t5_vae.prior.codes import Codes
from flaxae.task import Context, Loss, Task
from flaxae.text_autoencoder.priors import GaussianPrior
from flaxae.text_autoencoder.priors.flow import STEPS, FlowPrior
from flaxae.text_autoencoder.priors.flow_modeling import FREQUENCIES, Velocity

BASE = "gaussian"  # the folder of a workdir with the Gaussian that whitens codes


class Times(enum.Enum):
    """The distribution of times in training."""

    UNIFORM = "uniform"
    LOGIT_NORMAL = "logit-normal"  # more often near 1/2 (Esser et al. 2024)


@dataclasses.dataclass
class FlowConfig(TaskConfig):
    """A velocity network, and the codes that it learns."""

    codes_from: str = ""  # the workdir of a trained text autoencoder
    num_lines: Whole = 0  # texts of its training split; 0: all
    width: Count = 512
    depth: Count = 4
    times: Times = Times.UNIFORM
    solver_steps: Count = STEPS
    scan_unroll: Count = 1

    def make(self, config: Config) -> "FlowTask":
        """Return the task of a config."""
        return FlowTask(config)


class FlowTask(Task):
    """The task of a FlowConfig."""

    sharding_rules = (
        (r"blocks/(up|modulate)/kernel$", P(None, None, "model")),
        (r"blocks/down/kernel$", P(None, "model", None)),
    )

    def __init__(self, config: Config):
        require(isinstance(config.task, FlowConfig), "task: not a FlowConfig")
        self.config = config
        self.options: Any = config.task
        self._kept_base: GaussianPrior | None = None  # from an earlier start of the same run

    @cached_property
    def codes(self) -> Codes:
        """The codes that the flow learns."""
        options, data = self.options, self.config.data
        return Codes(options.codes_from, options.num_lines, data.seed, data.cache)

    @property
    def base(self) -> GaussianPrior:
        """The Gaussian of the training codes, which whitens them."""
        if self._kept_base is None:
            self._kept_base = GaussianPrior.fit(self.codes.codes("train"))
        return self._kept_base

    def data(self, split: str) -> ArraySource:
        """Return the batches of a split: whitened codes."""
        data = self.config.data
        rows = self.base.to_noise(self.codes.codes(split))
        source = ArraySource({"codes": rows}, data.batch_size, data.seed, split == "train")
        # A hash of what codes are computed from, as their last bits differ between machines.
        found = digest([self.codes.fingerprint(split), split, str(data.batch_size), str(data.seed)])
        source.fingerprint = with_order(found, split == "train")
        return source

    def init(self, rngs: nnx.Rngs) -> Velocity:
        """Return an untrained velocity."""
        options = self.options
        dim = self.codes.dim if self._kept_base is None else self._kept_base.dim
        return Velocity(dim, options.width, options.depth, options.scan_unroll, rngs=rngs)

    def loss(self, model: Velocity, batch: Any, ctx: Context) -> Loss:
        """Return the loss of rectified flows (Liu et al. 2022).

        It is the mean over dimensions of |v(x_t, t) - (code - noise)|^2 with x_t = (1-t) noise + t
        code.
        """
        codes, weight = batch["codes"], batch["weight"]
        noise = jax.random.normal(ctx.at("noise").key, codes.shape, jnp.float32)
        t = self._times(codes.shape[0], ctx)
        velocity = model((1 - t)[:, None] * noise + t[:, None] * codes, t, ctx)
        error = jnp.mean(jnp.square(velocity - (codes - noise)), axis=-1)
        total, rows = jnp.sum(error * weight), jnp.sum(weight)
        return Loss(total, rows, {})

    def _times(self, rows: int, ctx: Context) -> Float[Array, "B"]:
        key = ctx.at("time").key
        # Evaluation always uses uniform times, so that runs can be compared.
        if ctx.train and self.options.times is Times.LOGIT_NORMAL:
            return jax.nn.sigmoid(jax.random.normal(key, (rows,), jnp.float32))
        return jax.random.uniform(key, (rows,), jnp.float32)

    def prior(self, model: Velocity, steps: int = 0) -> FlowPrior:
        """Return a model of this task as a prior.

        Args:
            model: the trained velocity.
            steps: steps of the solver; 0: those of the config.
        """
        return FlowPrior(model, self.base, steps or self.options.solver_steps)

    def sample(self, model: Velocity, ctx: Context, n: int) -> dict[str, list[str]]:
        """Return texts for the log: samples and an interpolation."""
        prior, codec = self.prior(model), self.codes.codec
        out = {"samples of the flow": codec.decode(prior.sample(n))}
        dev = self.codes.codes("dev")
        if len(dev) > 1:
            path = prior.interpolate(dev[0], dev[1], 5)
            out["interpolation through noise"] = codec.decode(path)
        return out

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """Compare the flow with other priors (see `prior.report`)."""
        from flaxae.models.t5_vae.prior import report

        loaded.check_data()
        return report.report(loaded, outdir)

    def save_assets(self, workdir: str) -> None:
        """Store the Gaussian in the workdir."""
        self.base.save(Path(workdir) / BASE)

    def load_assets(self, workdir: str) -> None:
        """Read the Gaussian from the workdir.

        Raises:
            ConfigError: if the codes of the T5-VAE now have another size.
        """
        base = GaussianPrior.load(Path(workdir) / BASE)
        try:
            dim = self.codes.dim
        except ConfigError:
            dim = base.dim  # the T5-VAE is missing, but the prior alone can be opened
        if dim != base.dim:
            raise ConfigError(
                f"{workdir} is a flow of {base.dim} dimensions, but the codes of "
                f"task.codes_from={self.options.codes_from!r} now have {dim}: restore that run, "
                "or train a flow of the new one in a new workdir"
            )
        self._kept_base = base

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the matmul FLOPs of a train step: three times those of the forward pass."""
        rows, dim = batch_spec["codes"].shape
        width, time = self.options.width, 2 * FREQUENCIES
        block = 2 * width * width + 3 * time * width
        return 3 * 2 * rows * (time * time + 2 * dim * width + self.options.depth * block)
