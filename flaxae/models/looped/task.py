"""The looped transformer as a Task: problems drawn on the device, curricula, exact sums."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.config import Config, TaskConfig
from flaxae.errors import require
from flaxae.machine.sharding import split_rows
from flaxae.models.looped import problems, tables
from flaxae.models.looped.core import SHARDING_RULES
from flaxae.models.looped.depth import grown, random_loops
from flaxae.models.looped.modeling import LoopedTransformer, ModelConfig
from flaxae.models.looped.problems import Drawn, Problem
from flaxae.task import Context, Loss, Source, Task


@dataclasses.dataclass
class LoopedConfig(TaskConfig):
    """What is learned, with how many loops, and how both grow.

    A curriculum starts at `..._start` and adds `..._by` every `..._every` steps up to the model's
    own size (`loops`: up to b); `..._every` = 0: off.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    problem: Problem = Problem.LINEAR
    tables: str = ""  # problem=table: a CSV or parquet file, or a folder of them
    held_out_tables: str = ""  # the same for evaluation; "": other prompts of the same tables
    loops: int = 20  # b
    grad_loops: int = 10  # T: of the last min(b, T) loops the loss and its gradient are taken
    max_grad_loops: int = 0  # compiled for any T up to this, so that lanes may differ; 0: T
    loops_start: int = 1
    loops_by: int = 2
    loops_every: int = 0
    random_loops: bool = False  # b drawn anew at each step, Poisson-lognormal of mean `loops`
    random_sigma: float = 0.5
    max_loops: int = 0  # of a random b; 0: 3 b
    dims_start: int = 5
    dims_by: int = 1
    dims_every: int = 0
    points_start: int = 11
    points_by: int = 2
    points_every: int = 0
    eval_loops: int = 0  # evaluation reads out at each of so many loops too; 0: at b only
    eval_batches: int = 20

    def make(self, config: Config) -> "LoopedTask":
        return LoopedTask(config)

    def validate(self) -> None:
        for name in ("loops", "grad_loops", "loops_start", "dims_start", "points_start",
                     "eval_batches"):  # fmt: skip
            require(getattr(self, name) > 0, f"task.{name}={getattr(self, name)} must be positive")
        for name in ("loops_every", "dims_every", "points_every", "max_loops", "eval_loops"):
            value = getattr(self, name)
            require(value >= 0, f"task.{name}={value} must not be negative")
        most = self.max_grad_loops or self.grad_loops
        require(
            self.grad_loops <= most,
            f"task.grad_loops={self.grad_loops} is above task.max_grad_loops={most}",
        )
        need = problems.NONZERO if self.problem is Problem.SPARSE else 1
        require(
            self.model.dims >= need,
            f"task.problem=sparse has {need} weights: task.model.dims={self.model.dims} is less",
        )
        table = self.problem is Problem.TABLE
        require(not table or self.tables != "", "task.problem=table needs task.tables=FILE")
        require(
            not (table and self.dims_every), "task.dims_every: tables have no curriculum of dims"
        )


class Endless:
    """No data: the step draws its own from the context's key."""

    batch_spec: Any = {}

    def __init__(self, num_batches: int | None, fingerprint: str):
        self.num_batches, self.fingerprint = num_batches, fingerprint

    def batch(self, step: int) -> dict[str, Any]:
        return {}


class LoopedTask(Task):
    sharding_rules = SHARDING_RULES
    # A vmapped program runs as many loops as its deepest lane: a sweep keeps such runs apart.
    lanes_apart = ("task.loops", "task.grad_loops", "task.loops_start")

    def __init__(self, config: Config):
        require(isinstance(config.task, LoopedConfig), "task: not a LoopedConfig")
        self.config = config
        self.options: Any = config.task
        names = ["loops", "loops_start"] + ["grad_loops"] * (self.options.max_grad_loops > 0)
        self.hparams = {name: f"task.{name}" for name in names}

    def data(self, split: str) -> Source:
        options, train = self.options, split == "train"
        if options.problem is Problem.TABLE:
            model = options.model
            path = options.tables if train else options.held_out_tables or options.tables
            return tables.TableSource(
                tables.read(path, model.points), self.config.data.batch_size, model.points,
                model.dims, self.config.data.seed, None if train else options.eval_batches,
            )  # fmt: skip
        return Endless(None if train else options.eval_batches, options.problem.value)

    def batch_spec(self) -> Any:
        return {} if self.options.problem is not Problem.TABLE else self.data("train").batch_spec

    def init(self, rngs: nnx.Rngs) -> LoopedTransformer:
        return LoopedTransformer(self.options.model, rngs=rngs)

    def loss(self, model: LoopedTransformer, batch: Any, ctx: Context) -> Loss:
        """(prediction - y)^2, its mean over the last min(b, T) loops, summed over rows and points.

        The last loops' error at the last point, over the variance of y, is the metric "error".
        """
        options, step = self.options, ctx.step
        active = points = None
        if options.dims_every:
            active = grown(step, options.dims_start, options.model.dims, options.dims_by,
                           options.dims_every)  # fmt: skip
        if options.points_every:
            points = grown(step, options.points_start, options.model.points, options.points_by,
                           options.points_every)  # fmt: skip
        drawn = self.draw(batch, ctx, active)
        loops = self.loops(ctx)
        grad_loops: Any = ctx.hparams.get("grad_loops", options.grad_loops)
        window = options.max_grad_loops or options.grad_loops
        out = model.last_loops(
            model.prompt(drawn.xs, drawn.ys, ctx), ctx, loops=loops, grad_loops=grad_loops,
            window=window,
        )  # fmt: skip
        squares = jnp.square(out.predictions - drawn.ys[None])  # (T, B, n)
        return regression_loss(squares, out.weight, points, loops, self.scale(active))

    def loops(self, ctx: Context) -> Array:
        """B of this step."""
        options = self.options
        whole = jnp.asarray(ctx.hparams.get("loops", options.loops))
        start = jnp.asarray(ctx.hparams.get("loops_start", options.loops_start))
        loops = grown(ctx.step, start, whole, options.loops_by, options.loops_every)
        if options.random_loops and ctx.train:
            most = options.max_loops or 3 * whole  # a lane's own
            loops = random_loops(ctx.at("loops").key, loops, options.random_sigma, most)
        return loops

    def draw(self, batch: Any, ctx: Context, active: Any = None) -> Drawn:
        """The batch's problems: the source's, or drawn from the context's key."""
        if self.options.problem is Problem.TABLE:
            return Drawn(batch["xs"], batch["ys"])
        rows = self.config.data.batch_size // (self.config.accumulate if ctx.train else 1)
        model = self.options.model
        drawn = problems.draw(
            self.options.problem, ctx.at("problems").key, rows, model.points, model.dims, active
        )
        return Drawn(*map(split_rows, drawn))

    def scale(self, active: Any = None) -> Any:
        """What errors are divided by; fewer dimensions vary less."""
        return problems.scale(self.options.problem, self.options.model.dims, active)

    def eval_step(self, model: LoopedTransformer, batch: Any, ctx: Context) -> dict[str, Any]:
        """After b loops, whatever b a curriculum has reached: error by point, and over loops."""
        options = self.options
        drawn = self.draw(batch, ctx)
        prompt = model.prompt(drawn.xs, drawn.ys, ctx)
        loops = jnp.asarray(ctx.hparams.get("loops", options.loops))
        last = model.last_loops(prompt, ctx, loops=loops, grad_loops=1, window=1)
        squares = jnp.square(last.predictions[0] - drawn.ys) / self.scale()  # (B, n)
        rows = jnp.float32(len(squares))
        sums = {
            "loss": (jnp.sum(squares) * self.scale(), rows * squares.shape[1]),
            "error": (jnp.sum(squares[:, -1]), rows),
            "error_by_point": (jnp.sum(squares, axis=0), rows),
        }
        if options.eval_loops:
            trace = model.every_loop(prompt, ctx, options.eval_loops)
            later = jnp.square(trace.predictions[..., -1] - drawn.ys[None, :, -1]) / self.scale()
            sums["error_by_loop"] = (jnp.sum(later, axis=1), rows)
        return sums

    def finalize(self, sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
        out = super().finalize(sums)
        if "error_by_loop" in sums:
            total, weight = sums["error_by_loop"]
            out[f"error_at_{len(total)}_loops"] = float(total[-1] / weight)
        return out

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        from flaxae.models.looped import evaluation

        return evaluation.report(loaded, outdir)

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Of b loops forward and the last min(b, T) backward; curricula and random b left out."""
        options, model = self.options, self.options.model
        tokens = 2 * model.points
        layer = 24 * model.width**2 + 4 * tokens * model.width  # a token, matmuls
        loop = layer * model.num_layers + 2 * model.width  # and the readout
        turns = options.loops + 2 * min(options.loops, options.grad_loops)
        read_in = 3 * 2 * model.dims * model.width
        return float(self.config.data.batch_size * tokens * (loop * turns + read_in))


def regression_loss(
    squares: Float[Array, "T B n"], weight: Float[Array, " T"], points: Any, loops: Any, scale: Any
) -> Loss:
    """The loss of squared errors of the last loops.

    Args:
        squares: of each of the last loops.
        weight: which loops the loss takes.
        points: only the first so many count (traced); None: all.
        loops: b, for the log.
        scale: what the metric "error" is divided by.
    """
    rows, most = squares.shape[1:]
    mean = jnp.einsum("tbn,t->bn", squares, weight) / jnp.sum(weight)
    if points is None:
        counted, last = jnp.ones(most, jnp.float32), squares[-1, :, -1]
    else:
        counted = (jnp.arange(most) < points).astype(jnp.float32)
        last = jnp.take(squares[-1], points - 1, axis=1)
    total, rows = jnp.sum(mean * counted[None]), jnp.float32(rows)
    error = jnp.sum(last) / scale
    depth = jnp.asarray(loops).astype(jnp.float32) * rows
    return Loss(total, rows * jnp.sum(counted), {"error": (error, rows), "loops": (depth, rows)})
