"""A family outside flaxae that uses all parts of a Task, in a few lines."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxae.config import (
    Config,
    DataConfig,
    EvalConfig,
    LogConfig,
    OptimConfig,
    SaveConfig,
    TaskConfig,
)
from flaxae.task import Carry, Context, Loss, Rows, StreamCarry, Task

D, H, QUEUE = 4, 16, 8


class Frozen(nnx.Variable):
    """A random projection that is never trained."""


class Tiny(nnx.Module):
    """A frozen projection, recurrent states of streams, a trained head and a queue of outputs."""

    def __init__(self, rows: int, rngs: nnx.Rngs):
        self.project = Frozen(jax.random.normal(rngs.frozen(), (D, H)))
        self.head = nnx.Param(0.1 * jax.random.normal(rngs.params(), (H, D)))
        self.wide = nnx.Param(0.1 * jax.random.normal(rngs.params(), (D, 4 * D)))
        self.narrow = nnx.Param(0.1 * jax.random.normal(rngs.params(), (4 * D, D)))
        self.queue = Carry(jnp.zeros((QUEUE, D)))
        self.state = StreamCarry(jnp.zeros((rows, H)))

    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        if ctx.train:
            x = jnp.where(jax.random.bernoulli(ctx.at("drop").key, 0.9, x.shape), x, 0.0)
        state = jnp.tanh(0.5 * self.state[...] + x @ self.project[...])
        self.state[...] = jax.lax.stop_gradient(state)
        y = state @ self.head[...]
        return y + jnp.tanh(y @ self.wide[...]) @ self.narrow[...]


@dataclasses.dataclass
class TinyConfig(TaskConfig):
    penalty: float = 0.1  # a loss weight that lanes may vary
    poison: float = 0.0  # from step 5 on, above 0: the loss is not finite; below: its gradient
    heals: int = 0  # the step from which on both are finite again; 0: never
    dropout: bool = True

    def make(self, config: Config) -> "TinyTask":
        return TinyTask(config)


class Problems:
    """Random regression problems with padding; a pure function of (seed, step)."""

    def __init__(self, config: Config, split: str):
        self.seed = config.data.seed + (10_000 if split != "train" else 0)
        self.rows, self.num_batches = config.data.batch_size, None if split == "train" else 3
        self.fingerprint = f"problems-{self.seed}"

    def batch(self, step: int) -> Any:
        rng = np.random.default_rng([self.seed, step])
        x = rng.normal(size=(self.rows, D)).astype(np.float32)
        weight = (np.arange(self.rows) % 5 != 3).astype(np.float32)
        return {"x": x, "y": np.roll(x, 1, axis=1), "weight": weight}

    @property
    def batch_spec(self) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.batch(0))


class TinyTask(Task):
    trainable = nnx.Param
    hparams = {"penalty": "task.penalty", "poison": "task.poison", "heals": "task.heals"}

    def __init__(self, config: Config):
        self.config = config

    def data(self, split: str) -> Problems:
        return Problems(self.config, split)

    def init(self, rngs: nnx.Rngs) -> Tiny:
        return Tiny(self.config.data.batch_size, rngs)

    def loss(self, model: Tiny, batch: Any, ctx: Context) -> Loss:
        return self._loss(model, batch, ctx)[0]

    def eval_step(self, model: Tiny, batch: Any, ctx: Context) -> Any:
        loss, errors = self._loss(model, batch, ctx)
        rows = Rows(errors, batch["weight"])
        return {"loss": (loss.total, loss.weight), **loss.metrics, "errors": rows}

    def finalize(self, sums: dict[str, Any]) -> dict[str, float]:
        errors, weight = (np.asarray(x) for x in sums["errors"])
        real = errors[weight > 0]
        return super().finalize(sums) | {"median": float(np.median(real)), "rows": len(real)}

    def _loss(self, model: Tiny, batch: Any, ctx: Context) -> tuple[Loss, jax.Array]:
        options: Any = self.config.task
        ctx = ctx if options.dropout else dataclasses.replace(ctx, train=False)
        y = model(batch["x"], ctx)
        errors = jnp.square(y - batch["y"]).mean(-1)
        error = jnp.sum(errors * batch["weight"])
        weight = jnp.sum(batch["weight"])
        ramp = jnp.minimum(ctx.step.astype(jnp.float32) / 10, 1)
        drift = jnp.square(y.mean(0) - model.queue[...].mean(0)).sum()
        # One queue row per step: the mean output.
        model.queue[...] = (
            jnp.roll(model.queue[...], 1, 0).at[0].set(jax.lax.stop_gradient(y.mean(0)))
        )
        poison, heals = ctx.hparams["poison"], ctx.hparams["heals"]
        ill = (ctx.step >= 5) & ((heals == 0) | (ctx.step < heals)) & ctx.train
        bad = jnp.where((poison > 0) & ill, jnp.nan, 0.0)
        # The square root's slope at 0 is infinite: a value of 0 with a gradient of 0 * infinity.
        bad += 0.0 * jnp.sqrt(jnp.where((poison < 0) & ill, 0.0, 1.0) * (1 + jnp.square(y).sum()))
        total = error + weight * (ctx.hparams["penalty"] * ramp * drift + bad)
        metrics = {"error": (error, weight), "drift": (drift * weight, weight)}
        return Loss(total, weight, metrics), errors


def tiny_config(**overrides: Any) -> Config:
    """Make a config of the tiny family; overrides are dotted fields with "__" for the dot."""
    from flaxae.config import set_field

    config = Config(
        task=TinyConfig(),
        data=DataConfig(batch_size=16, prefetch=2),
        optim=OptimConfig(lr=1e-2, warmup=2),
        log=LogConfig(every=1, tensorboard=False, progress=False),
        eval=EvalConfig(every=10),
        save=SaveConfig(every=10),
        steps=20,
    )
    for name, value in overrides.items():
        set_field(config, name.replace("__", "."), value)
    return config
