"""The task of training a rectified flow on the codes of a trained text autoencoder."""

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from flaxae.config import Config, TaskConfig
from flaxae.config.ranges import Count, Whole
from flaxae.errors import require
from flaxae.models.t5_vae.prior.base import PriorTask
from flaxae.task import Context, Loss
from flaxae.text_autoencoder.priors import GaussianPrior
from flaxae.text_autoencoder.priors.flow import STEPS, FlowPrior
from flaxae.text_autoencoder.priors.flow_modeling import FREQUENCIES, Velocity


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
    self_condition: bool = False  # the network reads its own first estimate of the code
    scan_unroll: Count = 1

    def make(self, config: Config) -> "FlowTask":
        """Return the task of a config."""
        return FlowTask(config)


class FlowTask(PriorTask):
    """The task of a FlowConfig."""

    name = "flow"
    sharding_rules = (
        (r"blocks/(up|modulate)/kernel$", P(None, None, "model")),
        (r"blocks/down/kernel$", P(None, "model", None)),
    )

    def __init__(self, config: Config):
        require(isinstance(config.task, FlowConfig), "task: not a FlowConfig")
        super().__init__(config)

    def fit_base(self, codes: Any) -> GaussianPrior:
        """Return the Gaussian that whitens codes."""
        return GaussianPrior.fit(codes)

    def init(self, rngs: nnx.Rngs) -> Velocity:
        """Return an untrained velocity."""
        options = self.options
        sizes = (self.dim, options.width, options.depth, options.scan_unroll)
        return Velocity(*sizes, options.self_condition, rngs=rngs)

    def loss(self, model: Velocity, batch: Any, ctx: Context) -> Loss:
        """Return the loss of rectified flows (Liu et al. 2022).

        It is the mean over dimensions of |v(x_t, t) - (code - noise)|^2 with x_t = (1-t) noise + t
        code.
        """
        codes, weight = batch["codes"], batch["weight"]
        noise = jax.random.normal(ctx.at("noise").key, codes.shape, jnp.float32)
        t = self._times(codes.shape[0], ctx)
        points = (1 - t)[:, None] * noise + t[:, None] * codes
        velocity = self._velocity(model, points, t, ctx)
        error = jnp.mean(jnp.square(velocity - (codes - noise)), axis=-1)
        total, rows = jnp.sum(error * weight), jnp.sum(weight)
        return Loss(total, rows, {})

    def _velocity(
        self, model: Velocity, x: Float[Array, "B D"], t: Float[Array, "B"], ctx: Context
    ) -> Float[Array, "B D"]:
        """Return the velocity; with self-conditioning half of the training rows lack an estimate.

        The network makes its first estimate without one, so it has to learn both.
        """
        if not (model.self_condition and ctx.train):
            return model(x, t, ctx)
        kept = jax.random.bernoulli(ctx.at("estimate").key, 0.5, t.shape)
        return model.once(x, t, ctx, jnp.where(kept[:, None], model.estimate(x, t, ctx), 0))

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

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the matmul FLOPs of a train step: three times those of the forward pass.

        With self-conditioning a forward pass without gradient is added.
        """
        rows, dim = batch_spec["codes"].shape
        width, time = self.options.width, 2 * FREQUENCIES
        block = 2 * width * width + 3 * time * width
        forward = 2 * rows * (time * time + 2 * dim * width + self.options.depth * block)
        if not self.options.self_condition:
            return 3 * forward
        return 4 * forward + 3 * 2 * rows * dim * width  # the first estimate has no gradient
