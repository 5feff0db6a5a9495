"""The rectified flow as a Task of its own, whose data are the codes of a trained T5-VAE."""

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
from flaxae.data.loader import ArraySource
from flaxae.data.text import digest
from flaxae.errors import ConfigError, require
from flaxae.models.t5_vae.prior.codes import Codes
from flaxae.task import Context, Loss, Task
from flaxae.text_autoencoder.priors import GaussianPrior
from flaxae.text_autoencoder.priors.flow import STEPS, FlowPrior
from flaxae.text_autoencoder.priors.flow_modeling import FREQUENCIES, Velocity

BASE = "gaussian"  # a workdir's folder: the Gaussian whose noise the flow is trained on


class Times(enum.Enum):
    UNIFORM = "uniform"
    LOGIT_NORMAL = "logit-normal"  # more of the middle (Esser et al. 2024)


@dataclasses.dataclass
class FlowConfig(TaskConfig):
    """A velocity network, and whose codes it learns."""

    codes_from: str = ""  # the workdir of a trained T5-VAE
    num_lines: int = 0  # of its training split; 0: all
    width: int = 512
    depth: int = 4
    times: Times = Times.UNIFORM
    solver_steps: int = STEPS
    scan_unroll: int = 1

    def make(self, config: Config) -> "FlowTask":
        return FlowTask(config)

    def validate(self) -> None:
        for name in ("width", "depth", "solver_steps", "scan_unroll"):
            require(getattr(self, name) > 0, f"task.{name}={getattr(self, name)} must be positive")
        require(self.num_lines >= 0, f"task.num_lines={self.num_lines} must not be negative")


class FlowTask(Task):
    sharding_rules = (
        (r"blocks/(up|modulate)/kernel$", P(None, None, "model")),
        (r"blocks/down/kernel$", P(None, "model", None)),
    )

    def __init__(self, config: Config):
        require(isinstance(config.task, FlowConfig), "task: not a FlowConfig")
        self.config = config
        self.options: Any = config.task
        self._kept_base: GaussianPrior | None = None  # of an earlier start of the same run

    @cached_property
    def codes(self) -> Codes:
        """The codes that are learned."""
        options, data = self.options, self.config.data
        return Codes(options.codes_from, options.num_lines, data.seed, data.cache)

    @property
    def base(self) -> GaussianPrior:
        """The Gaussian fitted to the training codes: they are whitened by it."""
        if self._kept_base is None:
            self._kept_base = GaussianPrior.fit(self.codes.codes("train"))
        return self._kept_base

    def data(self, split: str) -> ArraySource:
        data = self.config.data
        rows = self.base.to_noise(self.codes.codes(split))
        source = ArraySource({"codes": rows}, data.batch_size, data.seed, split == "train")
        # Of what the codes are made of: their last bits differ from machine to machine.
        source.fingerprint = digest(
            [self.codes.fingerprint(split), split, str(data.batch_size), str(data.seed)]
        )
        return source

    def init(self, rngs: nnx.Rngs) -> Velocity:
        options = self.options
        dim = self.codes.dim if self._kept_base is None else self._kept_base.dim
        return Velocity(dim, options.width, options.depth, options.scan_unroll, rngs=rngs)

    def loss(self, model: Velocity, batch: Any, ctx: Context) -> Loss:
        """|v(x_t, t) - (code - noise)|^2 a dimension, x_t = (1-t) noise + t code (Liu 2022)."""
        codes, weight = batch["codes"], batch["weight"]
        noise = jax.random.normal(ctx.at("noise").key, codes.shape, jnp.float32)
        t = self._times(codes.shape[0], ctx)
        made = model((1 - t)[:, None] * noise + t[:, None] * codes, t, ctx)
        error = jnp.mean(jnp.square(made - (codes - noise)), axis=-1)
        total, rows = jnp.sum(error * weight), jnp.sum(weight)
        return Loss(total, rows, {})

    def _times(self, rows: int, ctx: Context) -> Float[Array, "B"]:
        key = ctx.at("time").key
        # Evaluation is always of uniform times, so that runs can be compared.
        if ctx.train and self.options.times is Times.LOGIT_NORMAL:
            return jax.nn.sigmoid(jax.random.normal(key, (rows,), jnp.float32))
        return jax.random.uniform(key, (rows,), jnp.float32)

    def prior(self, model: Velocity, steps: int = 0) -> FlowPrior:
        """A model of this task as a prior; steps of its solver, 0: the config's."""
        return FlowPrior(model, self.base, steps or self.options.solver_steps)

    def sample(self, model: Velocity, ctx: Context, n: int) -> dict[str, list[str]]:
        prior, codec = self.prior(model), self.codes.codec
        out = {"samples of the flow": codec.decode(prior.sample(n))}
        dev = self.codes.codes("dev")
        if len(dev) > 1:
            way = prior.interpolate(dev[0], dev[1], 5)
            out["interpolation through noise"] = codec.decode(way)
        return out

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        from flaxae.models.t5_vae.prior import report

        loaded.check_data()
        return report.report(loaded, outdir)

    def save_assets(self, workdir: str) -> None:
        self.base.save(Path(workdir) / BASE)

    def load_assets(self, workdir: str) -> None:
        base = GaussianPrior.load(Path(workdir) / BASE)
        try:
            dim = self.codes.dim
        except ConfigError:
            dim = base.dim  # the T5-VAE has gone; its prior is still one
        if dim != base.dim:
            raise ConfigError(
                f"{workdir} is a flow of {base.dim} dimensions, but the codes of "
                f"task.codes_from={self.options.codes_from!r} now have {dim}: restore that run, "
                "or train a flow of the new one in a new workdir"
            )
        self._kept_base = base

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Matmul FLOPs of a train step: three times the forward pass."""
        rows, dim = batch_spec["codes"].shape
        width, time = self.options.width, 2 * FREQUENCIES
        block = 2 * width * width + 3 * time * width
        return 3 * 2 * rows * (time * time + 2 * dim * width + self.options.depth * block)
