"""Training speed of byte networks on this machine, without data, logs and checkpoints."""

import statistics
import time
from typing import Any

import jax
import numpy as np

from flaxae.config import Config, copy_config
from flaxae.machine import sharding
from flaxae.training.hparams import make_hparams
from flaxae.training.layout import make_layout
from flaxae.training.state import abstract_state, make_state, shardings_of
from flaxae.training.step import make_train_step

ROUNDS = 5


class Timed:
    """The training loop's compiled step of one run, or of several lanes, on random bytes.

    Attributes:
        bytes_per_call: bytes that a call trains on, of all lanes.
        compile_seconds: time of tracing and compiling it.
    """

    def __init__(self, config: Config, lanes: list[dict[str, Any]] | None = None):
        """Compile the step.

        Args:
            config: the run, or the base of the lanes.
            lanes: overrides of each lane; None: a single run.
        """
        task, count = config.task.make(config), len(lanes or [])
        configs = [copy_config(config, x) for x in lanes] if lanes else [config]
        self._mesh = sharding.make_mesh(config.mesh)
        with jax.set_mesh(self._mesh):
            began = time.perf_counter()
            layout = make_layout(task, config)
            shardings = shardings_of(abstract_state(task, config, self._mesh, count))
            everywhere = sharding.replicated(self._mesh)
            hparams = jax.device_get(make_hparams(task, configs, bool(count)))
            self._hparams = sharding.put(hparams, everywhere)
            init = jax.jit(lambda h: make_state(task, config, h, count), out_shardings=shardings)
            self._state, calls = init(self._hparams), config.steps_per_call
            rows = config.data.batch_size, config.task.update  # pyright: ignore[reportAttributeAccessIssue]
            shape = rows if calls == 1 else (calls, *rows)
            draw = np.random.default_rng(0).integers(256, size=(2, *shape)).astype(np.uint8)
            batch = {"x": draw[0], "y": draw[1], "weight": np.ones(shape, np.float32)}
            leading = int(calls > 1)
            self._batch = sharding.put(batch, sharding.batch_sharding(self._mesh, leading))
            step = make_train_step(task, config, layout, shardings, count)
            self._step = step.lower(self._state, {}, self._batch, self._hparams).compile()
            self.compile_seconds = time.perf_counter() - began
        self.bytes_per_call = max(count, 1) * int(np.prod(shape))

    def __call__(self) -> None:
        """Train on the batch once more, and wait for it."""
        self._state, metrics = self._step(self._state, {}, self._batch, self._hparams)
        jax.device_get(metrics["loss"])

    def bytes_per_second(self, seconds: float = 1.0) -> float:
        """Return the median speed over some rounds.

        Args:
            seconds: duration of all rounds together, at least a call per round.
        """
        self()
        began = time.perf_counter()
        self()
        calls = max(1, round(seconds / ROUNDS / (time.perf_counter() - began)))
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            for _ in range(calls):
                self()
            times.append((time.perf_counter() - began) / calls)
        return self.bytes_per_call / statistics.median(times)
