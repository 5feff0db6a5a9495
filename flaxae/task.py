"""The words that the loop and the families share: Context, Taps, Loss, Source, Task, Carry."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Key


class Carry(nnx.Variable):
    """State without a batch axis that changes at every step, untrained (a queue of latents).

    An evaluation starts with the training's.
    """


class StreamCarry(nnx.Variable):
    """State with a leading batch axis that changes at every step (recurrent states of streams).

    An evaluation starts with a new one.
    """


class Taps:
    """A trace-time recorder of states, by path: collects those asked for, replaces those given."""

    def __init__(
        self, collect: Callable[[str], bool] | None = None, replace: dict[str, Any] | None = None
    ):
        self._collect, self._replace = collect, replace or {}
        self.collected: dict[str, Array] = {}

    def fresh(self) -> "Taps":
        """A recorder with the same wishes and nothing collected (each scan body makes one)."""
        return Taps(self._collect, self._replace)

    @property
    def quiet(self) -> bool:
        """Whether nothing is asked for or given."""
        return self._collect is None and not self._replace

    def __call__(self, path: str, value: Array) -> Array:
        if path in self._replace:
            value = self._replace[path](value)
        if self._collect is not None and self._collect(path):
            self.collected[path] = value
        return value


@dataclasses.dataclass(frozen=True)
class Context:
    """What reaches the loss, the model and every layer.

    It is closed over, never an argument of a transformation.

    Attributes:
        key: random key of this (seed, step, micro-batch), folded along the path.
        step: the train step, traced: schedules read it and never recompile.
        hparams: what a sweep may vary without changing a shape.
        train: training (dropout, noise) or not.
        adapter_scale: adapter name -> scale of each row.
        taps: recorder of states.
        path: dotted path from the root, for taps.
        sharding_rules: the task's, for parameters where they are used.
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
        """A layer's parameter as the sharding rules know it: its path, and the rules."""
        return f"/{self.path.replace('.', '/')}/{name}", self.sharding_rules

    def at(self, name: str) -> "Context":
        """The context of a child: folds crc32(name) into the key and extends the tap path."""
        key = jax.random.fold_in(self.key, zlib.crc32(name.encode()))
        return dataclasses.replace(self, key=key, path=f"{self.path}.{name}" if self.path else name)

    def layer(self, index: Int[Array, ""] | int, taps: Taps | None = None) -> "Context":
        """The context of a stack's layer: folds its (traced) index into the key."""
        return dataclasses.replace(
            self, key=jax.random.fold_in(self.key, index), taps=taps or self.taps
        )

    def tap(self, name: str, value: Array) -> Array:
        """Records or replaces a state; returns what to go on with."""
        return self.taps(f"{self.path}.{name}" if self.path else name, value)


class Loss(NamedTuple):
    """A loss as sums: the step divides once, so padding, accumulation and hosts are exact.

    total: SUM over examples or tokens, float32. weight: what to divide it by.
    metrics: name -> (sum of any shape, its own weight).
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: dict[str, tuple[Array, Array]]


@runtime_checkable
class Source(Protocol):
    """Random-access data: `batch(step)` is a pure function of (data seed, step)."""

    num_batches: int | None  # None: endless
    fingerprint: str

    @property
    def batch_spec(self) -> Any:
        """Pytree of jax.ShapeDtypeStruct of a (global) batch."""
        ...

    def batch(self, step: int) -> Any:
        """The global batch of a step: a pytree of numpy arrays, rows on axis 0."""
        ...


class Task:
    """What a family gives the loop. Subclass it; what has a body here is optional."""

    trainable: Any = nnx.Param
    sharding_rules: tuple = ()
    hparams: dict[str, str] = {}
    lanes_apart: tuple[str, ...] = ()  # fields whose value decides what a lane costs: see sweep

    def data(self, split: str) -> Source:
        raise NotImplementedError

    def batch_spec(self) -> Any:
        """The shapes of a train batch. Override it where a config tells them without its data."""
        return self.data("train").batch_spec

    def init(self, rngs: nnx.Rngs) -> nnx.Module:
        """Builds the model. `rngs.params` draws what is trained, `rngs.frozen` frozen parts."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Any, ctx: Context) -> Loss:
        raise NotImplementedError

    def eval_step(self, model: Any, batch: Any, ctx: Context) -> dict[str, tuple[Array, Array]]:
        """Sums with weights of one batch; default: the loss and its metrics."""
        loss = self.loss(model, batch, ctx)
        return {"loss": (loss.total, loss.weight), **loss.metrics}

    def finalize(self, sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
        """Metrics of a whole split from its sums; default: sum / weight of the scalars."""
        return {
            k: float(s) / max(float(w), 1e-30)
            for k, (s, w) in sums.items()
            if getattr(s, "ndim", 0) == 0
        }

    def sample(self, model: Any, ctx: Context, n: int) -> dict[str, Any]:
        """Texts (list of str), arrays or figures for the log."""
        return {}

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """The whole evaluation of a trained run, written into outdir."""
        raise NotImplementedError(f"{type(self).__name__} has no report")

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """FLOPs of one train step, rematerialisation not counted; 0: unknown."""
        return 0.0

    def save_assets(self, workdir: str) -> None:
        """Writes what the model needs beside its parameters (a tokenizer) into a new workdir."""

    def load_assets(self, workdir: str) -> None:
        """Takes what `save_assets` wrote, before anything else is asked of the task."""

    # Optional hooks, called where a task defines them:
    #   load_pretrained(abstract, shardings) -> params
    #   init_from_data(state, batches, ctx) -> state
    #   transform_grads(grads, state, ctx) -> grads
    #   after_update(state, ctx) -> state
