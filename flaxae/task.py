"""The terms that the loop and the families share: Task, Context, Loss, Source, Carry, Loaded."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from flaxae.config import Config
from flaxae.errors import ConfigError


class Carry(nnx.Variable):
    """State without a batch axis that changes at every step and is not trained.

    A queue of latents is an example. An evaluation starts with the value of the training.
    """


class StreamCarry(nnx.Variable):
    """State with a leading batch axis that changes at every step (recurrent states of streams).

    An evaluation starts with a new one.
    """


class Taps:
    """A trace-time recorder of states by path: collects or replaces the requested ones.

    Args:
        collect: predicate on a path; states whose path passes are collected. None: none is.
        replace: path -> function from the state to what replaces it.

    Attributes:
        collected: path -> state.
    """

    def __init__(
        self, collect: Callable[[str], bool] | None = None, replace: dict[str, Any] | None = None
    ):
        self._collect, self._replace = collect, replace or {}
        self.collected: dict[str, Array] = {}

    def fresh(self) -> "Taps":
        """Return a recorder of the same paths with nothing collected (one per scan body)."""
        return Taps(self._collect, self._replace)

    @property
    def quiet(self) -> bool:
        """True if no state is collected or replaced."""
        return self._collect is None and not self._replace

    def __call__(self, path: str, value: Array) -> Array:
        """Record or replace the state of a path; return the state to continue with."""
        if path in self._replace:
            value = self._replace[path](value)
        if self._collect is not None and self._collect(path):
            self.collected[path] = value
        return value


@dataclasses.dataclass(frozen=True)
class Context:
    """The context that reaches the loss, the model and every layer.

    It is closed over, never an argument of a transformation.

    Attributes:
        key: random key of this (seed, step, micro-batch), folded along the path.
        step: the train step, traced: schedules read it and never recompile.
        hparams: values that a sweep may vary without changing a shape.
        train: True in training (dropout, noise).
        adapter_scale: adapter name -> scale of each row.
        taps: recorder of states.
        path: dotted path from the root, for taps.
        sharding_rules: the task's rules, for layers that place their parameters.
    """

    key: Key[Array, ""]
    step: Int[Array, ""]
    hparams: dict[str, Array] = dataclasses.field(default_factory=dict)
    train: bool = False
    adapter_scale: dict[str, Float[Array, "B"]] = dataclasses.field(default_factory=dict)
    taps: Taps = dataclasses.field(default_factory=Taps)
    path: str = ""
    sharding_rules: tuple = ()

    def parameter(self, name: str) -> tuple[str, tuple]:
        """Return the path by which sharding rules know a layer's parameter, and the rules."""
        return f"/{self.path.replace('.', '/')}/{name}", self.sharding_rules

    def at(self, name: str) -> "Context":
        """Return the context of a child: folds crc32(name) into the key, extends the path."""
        key = jax.random.fold_in(self.key, zlib.crc32(name.encode()))
        return dataclasses.replace(self, key=key, path=f"{self.path}.{name}" if self.path else name)

    def layer(self, index: Int[Array, ""] | int, taps: Taps | None = None) -> "Context":
        """Return the context of a stack's layer: folds its (traced) index into the key."""
        return dataclasses.replace(
            self, key=jax.random.fold_in(self.key, index), taps=taps or self.taps
        )

    def tap(self, name: str, value: Array) -> Array:
        """Record or replace a state; return the state to continue with."""
        return self.taps(f"{self.path}.{name}" if self.path else name, value)


class Loss(NamedTuple):
    """A loss as sums: the step divides once, so padding, accumulation and hosts are exact.

    Attributes:
        total: SUM over examples or tokens, float32.
        weight: number that `total` is divided by.
        metrics: name -> (sum of any shape, its own weight).
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: dict[str, tuple[Array, Array]]


class Rows(NamedTuple):
    """Values of single examples, which an evaluation collects instead of adding them up.

    They are for a measure that is not a sum, such as an MMD: `finalize` computes it once over the
    split, so that it does not depend on the size of the batches.

    Attributes:
        values: (rows, ...).
        weight: (rows,), 0 for rows that only pad a batch.
    """

    values: Any
    weight: Any


Sums = dict[str, tuple[Array, Array]]  # name -> (sum, weight), or Rows


ORDER_MARK = "@"


@runtime_checkable
class Source(Protocol):
    """Random-access data: `batch(step)` is a pure function of (data seed, step).

    Attributes:
        num_batches: the number of batches; None: endless.
        fingerprint: hash that changes if the batches change. After ORDER_MARK it names the
            algorithm of their order, which does not decide which examples are held out.
    """

    num_batches: int | None
    fingerprint: str

    @property
    def batch_spec(self) -> Any:
        """Pytree of jax.ShapeDtypeStruct of a (global) batch."""
        ...

    def batch(self, step: int) -> Any:
        """Return the global batch of a step: a pytree of numpy arrays, rows on axis 0."""
        ...


def same_examples(a: str, b: str) -> bool:
    """Return True if fingerprints of data differ at most in the order of training.

    Args:
        a: fingerprint of a source, or of several, joined by "+".
        b: another one.
    """
    first, second = (
        [part.partition(ORDER_MARK)[0] for part in fingerprint.split("+")] for fingerprint in (a, b)
    )
    return first == second


class Task:
    """Base class of a family's part of training; methods with a body here are optional.

    A task may also define the methods of `LoadsPretrained`, `InitializesFromData`,
    `InitializesCarry`, `TransformsGrads` and `UpdatesState` below.

    Attributes:
        trainable: filter of the variables that are trained.
        sharding_rules: ((path regex, PartitionSpec), ...); (): split over `fsdp` only.
        hparams: name -> dotted config field that may be traced.
        lanes_apart: traced config fields that decide how long a lane's step takes: a sweep does
            not put runs that differ in them into one program.
        shown: names of metrics that the progress shows beside the loss.
    """

    trainable: Any = nnx.Param
    sharding_rules: tuple = ()
    hparams: dict[str, str] = {}
    lanes_apart: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    def data(self, split: str) -> Source:
        """Return the batches of a split."""
        raise NotImplementedError

    def batch_spec(self) -> Any:
        """Return the shapes of a train batch. Override it if a config determines them."""
        return self.data("train").batch_spec

    def data_notes(self) -> list[str]:
        """Return remarks on the data, such as what was left out; a run prints them at its start."""
        return []

    def init(self, rngs: nnx.Rngs) -> nnx.Module:
        """Build the model. `rngs.params` draws trained parameters, `rngs.frozen` frozen ones."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Any, ctx: Context) -> Loss:
        """Return the loss of a batch as sums."""
        raise NotImplementedError

    def eval_step(self, model: Any, batch: Any, ctx: Context) -> Sums:
        """Return sums with weights (or `Rows`) of a batch; default: the loss and its metrics."""
        loss = require_loss(self, self.loss(model, batch, ctx))
        return {"loss": (loss.total, loss.weight), **loss.metrics}

    def finalize(self, sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
        """Return the metrics of a whole split; default: sum / weight of the scalars.

        Args:
            sums: the sums of all batches with their weights, and `Rows` of all examples.

        Returns:
            Name -> value, nan where nothing was measured (a weight of 0).
        """
        return {
            k: float(s) / float(w) if float(w) else float("nan")
            for k, (s, w) in sums.items()
            if getattr(s, "ndim", 0) == 0
        }

    def sample(self, model: Any, ctx: Context, n: int) -> dict[str, Any]:
        """Return texts (lists of str), arrays or figures for the log."""
        return {}

    def report(self, loaded: "Loaded", outdir: str) -> dict[str, Any]:
        """Evaluate a trained run as a whole, for `python -m flaxae.evaluate`.

        Args:
            loaded: the trained model with its config.
            outdir: a local folder for figures and tables.

        Returns:
            Names with values that JSON can contain. `--json=FILE` writes them; the scalars are
            printed if the method prints nothing.
        """
        raise ConfigError(
            f"{type(self).__name__} defines no report(): there is no whole evaluation of its runs; "
            "the metrics of training are in metrics.jsonl"
        )

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the FLOPs of one train step without rematerialisation; 0: unknown."""
        return 0.0

    def save_assets(self, workdir: str) -> None:
        """Write the files that the model needs (a tokenizer) into a new workdir."""

    def load_assets(self, workdir: str) -> None:
        """Read what `save_assets` wrote; called before any other method of the task."""


def has_report(task: Any) -> bool:
    """Return True if a task defines `report`."""
    return getattr(type(task), "report", Task.report) is not Task.report


def require_loss(task: Any, loss: Any) -> Loss:
    """Return what a task's `loss` returned; raise ConfigError if it is not a Loss."""
    if isinstance(loss, Loss):
        return loss
    kind = "an array" if isinstance(loss, jax.Array) else f"a {type(loss).__name__}"
    raise ConfigError(
        f"{type(task).__name__}.loss must return flaxae.task.Loss (total, weight, metrics), not "
        f"{kind}"
    )


@runtime_checkable
class LoadsPretrained(Protocol):
    """A task that reads pretrained weights from the files that `config.pretrained` names."""

    def load_pretrained(self, abstract: Any, shardings: Any) -> dict[str, Any]:
        """Return {"params", "frozen"}, placed by the shardings.

        Args:
            abstract: {"params", "frozen"} of shapes.
            shardings: the same tree of shardings.
        """
        ...


@runtime_checkable
class InitializesFromData(Protocol):
    """A task whose initial state depends on batches."""

    def init_from_data(self, state: Any, batches: Iterator[Any], ctx: Context) -> Any:
        """Return the state to start a new run with."""
        ...


@runtime_checkable
class InitializesCarry(Protocol):
    """A task that makes the carry that an evaluation starts with."""

    def init_carry(self, batch_spec: Any) -> dict[str, Any]:
        """Return {"once", "stream"} of one lane, for batches of these shapes."""
        ...


@runtime_checkable
class TransformsGrads(Protocol):
    """A task that changes gradients before the optimizer reads them."""

    def transform_grads(self, grads: Any, state: Any, ctx: Context) -> Any:
        """Return the gradients to use; runs inside the step."""
        ...


@runtime_checkable
class UpdatesState(Protocol):
    """A task that changes the state after the optimizer's update."""

    def after_update(self, state: Any, ctx: Context) -> Any:
        """Return the state to continue with; runs inside the step."""
        ...


@dataclasses.dataclass
class Loaded:
    """A trained model with its config and task (see `flaxae.load`).

    Attributes:
        model: the family's module with the trained values.
        config: the run's config.
        task: the run's task.
        step: the step of the checkpoint.
        workdir: the run's folder.
        extra: JSON saved with the state, such as fingerprints.
    """

    model: Any
    config: Config
    task: Any
    step: int
    workdir: Path
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        names = f"model={type(self.model).__name__}, task={type(self.task).__name__}"
        return f"Loaded({names}, step={self.step}, workdir={str(self.workdir)!r})"

    def check_data(self) -> None:
        """Check that the data, and so the held-out examples, are those of the training.

        Raises:
            ConfigError: if the data have changed.
        """
        now = self.task.data("train").fingerprint
        if not same_examples(self.extra.get("data", now), now):
            raise ConfigError(
                f"{self.workdir}: its data have changed since it was trained (fingerprint "
                f"{self.extra['data']}, now {now}), so it is unknown which examples "
                "were held out. Restore the files, or the Python, that it was trained with"
            )
