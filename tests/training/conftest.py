"""A run of the tiny family, compiled once, whose steps tests take by hand."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flaxae.config import Config
from flaxae.machine import sharding
from flaxae.machine.preemption import Preemption
from flaxae.storage import workdir as workdir_lib
from flaxae.task import Context, Loss
from flaxae.training.loop import Loop
from flaxae.training.metrics import Progress
from flaxae.training.restore import restore_or_init
from flaxae.training.setup import Setup, make_setup
from flaxae.training.state import State
from tests.tiny.family import Tiny, TinyConfig, TinyTask, tiny_config


@dataclasses.dataclass
class NoisyConfig(TinyConfig):
    def make(self, config: Config) -> "NoisyTask":
        return NoisyTask(config)


class NoisyTask(TinyTask):
    """Draws a random number in the evaluation, and samples the model's head.

    A metric has a weight of its own.
    """

    sharding_rules = (("wide", P(None, "model")),)

    def loss(self, model: Tiny, batch: Any, ctx: Context) -> Loss:
        assert ctx.sharding_rules == self.sharding_rules  # layers place their parameters by them
        total, weight, metrics = super().loss(model, batch, ctx)
        return Loss(total, weight, {**metrics, "half": (jnp.ones(()), jnp.float32(2))})

    def eval_step(self, model: Tiny, batch: Any, ctx: Context) -> Any:
        noise = jax.random.normal(ctx.key)
        return {**super().eval_step(model, batch, ctx), "noise": (noise, jnp.ones(()))}

    def sample(self, model: Tiny, ctx: Context, n: int) -> dict[str, Any]:
        return {"head": [repr(np.asarray(model.head[...]).tolist())]}


@dataclasses.dataclass
class HookedConfig(NoisyConfig):
    def make(self, config: Config) -> "HookedTask":
        return HookedTask(config)


class HookedTask(NoisyTask):
    """Triples gradients, and adds one to the optimizer's state after each update."""

    def transform_grads(self, grads: Any, state: Any, ctx: Context) -> Any:
        return jax.tree.map(lambda g: 3 * g, grads)

    def after_update(self, state: Any, ctx: Context) -> Any:
        return {**state, "opt": jax.tree.map(lambda x: x + 1, state["opt"])}


class Steps:
    """Takes the steps of a run by hand; its states stay valid after a step.

    Attributes:
        loop: the run.
        setup: its parts.
        progress: prints nothing.
        start: the state from scratch.
    """

    def __init__(self, loop: Loop):
        self.loop, self.setup = loop, loop.setup
        self.progress = Progress(1, 0, False, 1, "examples")
        self.start: State = self.restored(self.setup)

    def restored(self, setup: Setup) -> State:
        """Return the state that a run with these parts starts with, on the host."""
        with jax.set_mesh(setup.mesh):
            return jax.device_get(restore_or_init(setup)[0])

    def take(self, n: int, state: State | None = None, **hparams: Any) -> list[State]:
        """Take n steps from a state; return the states after each, on the host.

        Args:
            n: the number of steps.
            state: the state to start from; None: `start`.
            **hparams: values that replace the run's, for all lanes.
        """
        setup, states = self.setup, []
        self.metrics: list[dict[str, Any]] = []
        device, values = self.placed(state), self.hparams(**hparams)
        with jax.set_mesh(setup.mesh):
            for _ in range(n):
                batch = setup.feed.batch(int(device["step"]))
                batch = sharding.put(batch, sharding.batch_sharding(setup.mesh))
                device, metrics = self.loop.step_fn(device, setup.frozen.values, batch, values)
                states.append(jax.device_get(device))
                self.metrics.append({k: x[0] for k, x in jax.device_get(metrics).items()})
        return states

    def hparams(self, **others: Any) -> dict[str, jax.Array]:
        """Return the run's hyperparameters, some replaced."""
        values = jax.device_get(self.setup.hparams)
        for name, value in others.items():
            values[name] = np.full_like(values[name], value)
        return sharding.put(values, sharding.replicated(self.setup.mesh))

    def placed(self, state: State | None = None, **parts: Any) -> Any:
        """Return a state (default: `start`) on the devices, with other values of some parts."""
        whole: Any = {**(state or self.start), **parts}
        place: Any = self.setup.shardings
        return {k: sharding.put(v, place[k]) if jax.tree.leaves(v) else v for k, v in whole.items()}

    def evaluate(self, state: Any, **hparams: Any) -> dict[str, Any]:
        """Return the metrics of a state that is on the devices."""
        own, self.setup.hparams = self.setup.hparams, self.hparams(**hparams)
        evaluator, progress = self.loop.evaluator, self.progress
        try:
            with jax.set_mesh(self.setup.mesh):
                found = evaluator.evaluate(state, int(state["step"]), Preemption(), progress)
        finally:
            self.setup.hparams = own
        assert found is not None
        return found


def _steps(folder: Path, lanes: Any = None, **overrides: Any) -> Iterator[Steps]:
    options = {"optim__schedule": "constant", "optim__warmup": 4, "mesh__fsdp": 2}
    config = tiny_config(**{"task": NoisyConfig(), **options, **overrides})
    config = workdir_lib.prepare(config, folder, lanes, True)
    with Loop(make_setup(config, folder, lanes)) as loop:
        yield Steps(loop)


@pytest.fixture(scope="session")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    """Yield a run with a moving average, which allows one bad step."""
    yield from _steps(tmp_path_factory.mktemp("steps"), optim__ema=0.3, max_bad_steps=1)


@pytest.fixture(scope="session")
def lane_steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    """Yield three lanes of such a run: healthy, ill for one step, ill for three steps."""
    ill = {"task.poison": -1.0}
    lanes = [{}, ill | {"task.heals": 6}, ill | {"task.heals": 8}]
    folder = tmp_path_factory.mktemp("lane_steps")
    yield from _steps(folder, lanes, optim__ema=0.3, max_bad_steps=1)


@pytest.fixture(scope="session")
def hooked_steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    """Yield a run of two micro-batches per step whose task changes gradients and states."""
    sgd = {"optim__name": "sgd", "optim__clip_norm": 0.01, "optim__warmup": 0, "optim__lr": 0.5}
    folder = tmp_path_factory.mktemp("hooked_steps")
    yield from _steps(folder, task=HookedConfig(), accumulate=2, max_bad_steps=9, **sgd)


@pytest.fixture(scope="session")
def apart(steps: Steps) -> Any:
    """Return a state, on the devices, whose average is far from its parameters."""
    state = steps.take(3)[-1]
    return steps.placed(state, ema=jax.tree.map(lambda x: -2 * x, state["params"]))


@pytest.fixture(scope="session")
def saved(steps: Steps, apart: Any) -> str:
    """Return the workdir of a run that was saved in this state."""
    steps.setup.checkpointer.save(3, apart, steps.setup.extra(), wait=True)
    return str(steps.setup.workdir)
