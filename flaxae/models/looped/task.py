"""The looped transformer as a Task: problems drawn on the device, curricula, and its evaluation."""

import dataclasses
from typing import Annotated, Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.config import Config, TaskConfig
from flaxae.config.ranges import Count, Range, Whole
from flaxae.errors import ConfigError, require
from flaxae.machine.sharding import split_rows
from flaxae.models.looped import problems, tables
from flaxae.models.looped.core import SHARDING_RULES
from flaxae.models.looped.depth import grown, random_loops
from flaxae.models.looped.modeling import LoopedTransformer, ModelConfig
from flaxae.models.looped.problems import Problem, ProblemBatch
from flaxae.task import Context, Loaded, Loss, Source, Task

# The increment of a curriculum; bounded, so that no step's number exceeds an int32.
Growth = Annotated[int, Range(1, 1000, "[]")]


@dataclasses.dataclass
class LoopedConfig(TaskConfig):
    """The problems, the numbers of loops, and curricula of both.

    A curriculum starts at `..._start` and adds `..._by` every `..._every` steps up to the model's
    size (`loops`: up to b); `..._every` = 0 turns it off.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    problem: Problem = Problem.LINEAR
    tables: str = ""  # problem=table: a CSV or parquet file, or a folder of them
    held_out_tables: str = ""  # tables of evaluation; "": other prompts of the same tables
    loops: Count = 20  # number of loops, b
    grad_loops: Count = 10  # T: the loss and its gradient are those of the last min(b, T) loops
    max_grad_loops: Whole = 0  # the program takes any T up to this, so that lanes may differ; 0: T
    loops_start: Count = 1
    loops_by: Growth = 2
    loops_every: Whole = 0
    random_loops: bool = False  # a new b at each step, Poisson-lognormal with mean `loops`
    random_sigma: Annotated[float, Range(0, 10, "[]")] = 0.5
    max_loops: Whole = 0  # largest random b; 0: 3 b
    dims_start: Count = 5
    dims_by: Growth = 1
    dims_every: Whole = 0
    points_start: Count = 11
    points_by: Growth = 2
    points_every: Whole = 0
    eval_loops: Whole = 0  # evaluation also reads out after each of these loops; 0: only after b
    eval_batches: Count = 20

    def make(self, config: Config) -> "LoopedTask":
        """Make the task."""
        return LoopedTask(config)

    def validate(self) -> None:
        """Raise ConfigError for numbers out of range and options that exclude each other."""
        most = self.max_grad_loops or self.grad_loops
        require(
            self.grad_loops <= most,
            f"task.grad_loops={self.grad_loops} is above task.max_grad_loops={most}",
        )
        require(
            not self.random_loops or not self.max_loops or self.max_loops >= self.loops,
            f"task.max_loops={self.max_loops} is below the mean of random b, task.loops="
            f"{self.loops}",
        )
        ends = {"loops": self.loops, "dims": self.model.dims, "points": self.model.points}
        for name, end in ends.items():
            start, where = getattr(self, f"{name}_start"), "" if name == "loops" else "model."
            require(
                not getattr(self, f"{name}_every") or start <= end,
                f"task.{name}_start={start} is above task.{where}{name}={end}: a curriculum grows",
            )
        need = problems.NONZERO if self.problem is Problem.SPARSE else 1
        require(
            self.model.dims >= need,
            f"task.problem=sparse needs task.model.dims of at least {need}, not {self.model.dims}",
        )
        table = self.problem is Problem.TABLE
        require(not table or self.tables != "", "task.problem=table needs task.tables=FILE")
        require(not (table and self.dims_every), "task.dims_every must be 0 for task.problem=table")


class EmptySource:
    """A source of empty batches, for a step that draws its data from the context's key."""

    batch_spec: Any = {}

    def __init__(self, num_batches: int | None, fingerprint: str):
        self.num_batches, self.fingerprint = num_batches, fingerprint

    def batch(self, step: int) -> dict[str, Any]:
        """Return an empty batch."""
        return {}


class LoopedTask(Task):
    """In-context regression."""

    sharding_rules = SHARDING_RULES
    # A vmapped program runs as many loops as its deepest lane, so sweeps separate such runs.
    lanes_apart = ("task.loops", "task.grad_loops", "task.loops_start")

    def __init__(self, config: Config):
        if not isinstance(config.task, LoopedConfig):
            raise ConfigError("task: not a LoopedConfig")
        self.config, self.options = config, config.task
        self._read: dict[str, tables.Tables] = {}
        names = ["loops", "loops_start"] + ["grad_loops"] * (self.options.max_grad_loops > 0)
        self.hparams = {name: f"task.{name}" for name in names}

    def data(self, split: str) -> Source:
        """Return the batches of a split."""
        options, train = self.options, split == "train"
        if options.problem is Problem.TABLE:
            model = options.model
            path = options.tables if train else options.held_out_tables or options.tables
            return tables.TableSource(
                self._tables(path),
                self.config.data.batch_size,
                model.points,
                model.dims,
                self.config.data.seed,
                None if train else options.eval_batches,
            )
        return EmptySource(None if train else options.eval_batches, options.problem.value)

    def _tables(self, path: str) -> tables.Tables:
        if path not in self._read:
            self._read[path] = tables.read(path, self.options.model.points)
        return self._read[path]

    def data_notes(self) -> list[str]:
        """Return remarks on the files of tables."""
        return list(dict.fromkeys(note for read in self._read.values() for note in read.notes))

    def batch_spec(self) -> Any:
        """Return the shapes of a batch."""
        return {} if self.options.problem is not Problem.TABLE else self.data("train").batch_spec

    def init(self, rngs: nnx.Rngs) -> LoopedTransformer:
        """Draw a model."""
        return LoopedTransformer(self.options.model, rngs=rngs)

    def loss(self, model: LoopedTransformer, batch: Any, ctx: Context) -> Loss:
        """Return the loss: (prediction - y)^2, averaged over the last min(b, T) loops.

        It is summed over rows and points. The metric "error" is that of the last loop at the last
        point, divided by the variance of y.
        """
        options, step = self.options, ctx.step
        active = points = None
        if every := options.dims_every:
            active = grown(step, options.dims_start, options.model.dims, options.dims_by, every)
        if every := options.points_every:
            end = options.model.points
            points = grown(step, options.points_start, end, options.points_by, every)
        drawn = self.draw(batch, ctx, active)
        loops = self.loops(ctx)
        grad_loops = ctx.hparams.get("grad_loops", options.grad_loops)
        window = options.max_grad_loops or options.grad_loops
        prompt = model.prompt(drawn.xs, drawn.ys, ctx)
        out = model.last_loops(prompt, ctx, loops=loops, grad_loops=grad_loops, window=window)
        squares = jnp.square(out.predictions - drawn.ys[None])  # (T, B, n)
        return regression_loss(squares, out.weight, points, loops, self.scale(active))

    def loops(self, ctx: Context) -> Array:
        """Return b of this step."""
        options = self.options
        whole = jnp.asarray(ctx.hparams.get("loops", options.loops))
        start = jnp.asarray(ctx.hparams.get("loops_start", options.loops_start))
        loops = grown(ctx.step, start, whole, options.loops_by, options.loops_every)
        if options.random_loops and ctx.train:
            most = options.max_loops or 3 * whole  # depends on the lane
            loops = random_loops(ctx.at("loops").key, loops, options.random_sigma, most)
        return loops

    def draw(self, batch: Any, ctx: Context, active: Any = None) -> ProblemBatch:
        """Return the problems of the batch, or draw problems from the context's key.

        Args:
            batch: batch of the source.
            ctx: the context.
            active: number of dimensions that are not 0; None: all.

        Returns:
            The problems.
        """
        if self.options.problem is Problem.TABLE:
            return ProblemBatch(batch["xs"], batch["ys"])
        rows = self.config.data.batch_size // (self.config.accumulate if ctx.train else 1)
        model = self.options.model
        drawn = problems.draw(
            self.options.problem, ctx.at("problems").key, rows, model.points, model.dims, active
        )
        return ProblemBatch(*map(split_rows, drawn))

    def scale(self, active: Any = None) -> Any:
        """Return the variance of y, by which errors are divided; see `problems.scale`."""
        return problems.scale(self.options.problem, self.options.model.dims, active)

    def eval_step(self, model: LoopedTransformer, batch: Any, ctx: Context) -> dict[str, Any]:
        """Return the sums of a batch after the b loops of the config: error by point and by loop.

        Curricula and random b are not used.
        """
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
        """Return the measures of a split from its sums."""
        out = super().finalize(sums)
        if "error_by_loop" in sums:
            total, weight = sums["error_by_loop"]
            out[f"error_at_{len(total)}_loops"] = float(total[-1] / weight)
        return out

    def report(self, loaded: Loaded, outdir: str) -> dict[str, Any]:
        """Evaluate a run; see `evaluation.report`."""
        from flaxae.models.looped import evaluation

        return evaluation.report(loaded, outdir)

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Count one step: b loops forward, the last min(b, T) backward; curricula are ignored."""
        options, model = self.options, self.options.model
        tokens = 2 * model.points
        layer = 24 * model.width**2 + 4 * tokens * model.width  # per token, matmuls
        loop = layer * model.num_layers + 2 * model.width  # with the readout
        passes = options.loops + 2 * min(options.loops, options.grad_loops)
        read_in = 3 * 2 * model.dims * model.width
        return float(self.config.data.batch_size * tokens * (loop * passes + read_in))


def regression_loss(
    squares: Float[Array, "T B n"], weight: Float[Array, " T"], points: Any, loops: Any, scale: Any
) -> Loss:
    """Return the loss of the squared errors of the last loops.

    Args:
        squares: squared errors after each of the last loops.
        weight: 1 for loops that the loss counts, else 0.
        points: number of points that count, the first ones (traced); None: all.
        loops: b, for the log.
        scale: divisor of the metric "error".

    Returns:
        The loss, summed over rows and points, and the metrics "error" and "loops".
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
