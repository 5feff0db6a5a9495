"""THE training loop: set up, restore, step, log, evaluate, sample, save.

It knows nothing of any family: what it trains is a `Task`.
"""

import dataclasses
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxae.config import Config, to_json
from flaxae.data.loader import Prefetcher
from flaxae.errors import NonFiniteError
from flaxae.machine import distributed, sharding
from flaxae.machine.preemption import Preemption
from flaxae.machine.watchdog import Watchdog
from flaxae.storage import paths
from flaxae.storage import workdir as workdir_lib
from flaxae.storage.checkpoint import Checkpointer
from flaxae.storage.metrics_file import Writer
from flaxae.task import Task
from flaxae.training import metrics as metrics_lib
from flaxae.training import step as train_step
from flaxae.training.evaluator import Evaluator
from flaxae.training.feed import Feed
from flaxae.training.frozen import Frozen
from flaxae.training.lanes import lane_configs, take_lane
from flaxae.training.profiling import Trace
from flaxae.training.restore import restore_or_init
from flaxae.training.state import abstract_state, make_hparams, make_layout
from flaxae.tree import path_name


@dataclasses.dataclass
class Result:
    """What a run gives back: the state, the last evaluation, and how it ended.

    status: "done", "already_done", "sigterm" or "sigint".
    """

    state: dict[str, Any]
    metrics: dict[str, Any]
    status: str


def run(config: Config, workdir: str | Path, lanes: list[dict[str, Any]] | None = None) -> Result:
    """Trains, or resumes, or says that it is done.

    Args:
        config: the experiment; it is copied and frozen.
        workdir: where everything of the run lives: a local folder or gs://BUCKET/FOLDER.
        lanes: overrides of each lane ({} is a lane without any): many runs of one shape as one
            vmapped program. None: a single run.

    Returns:
        The state, the metrics of the last evaluation ("split/name"), and how the run ended.

    Raises:
        ConfigError, CheckpointError, NonFiniteError: each with one message that names the way out.
            One of several processes is ended by any error, as are the others (see `watchdog`).
    """
    workdir = paths.as_workdir(workdir)
    with Watchdog() as watchdog:
        config = workdir_lib.prepare(config, workdir, lanes, distributed.is_main())
        distributed.sync("workdir")
        with Loop(config, workdir, lanes, watchdog) as loop:
            return loop.train()


class Loop:
    """One run's parts, made once."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        lanes: list[dict[str, Any]] | None,
        watchdog: Watchdog | None = None,
    ):
        self.config, self.workdir = config, workdir
        self.watchdog = watchdog or Watchdog()
        self.main = distributed.is_main()
        self.trace = Trace(config.profile, workdir)
        self.goodput = metrics_lib.Goodput()
        self.compiled = metrics_lib.CompileTime()
        self.task: Task = config.task.make(config)
        self.configs = lane_configs(config, lanes, self.task)
        self.lanes = 0 if lanes is None else len(lanes)
        # Mesh, then state.
        self.mesh = sharding.make_mesh(config.mesh)
        with jax.set_mesh(self.mesh):
            self.layout = make_layout(self.task, config)
            self.abstract = abstract_state(self.task, config, self.mesh, self.lanes)
            self.shardings = jax.tree.map(lambda x: x.sharding, self.abstract)
            hparams = make_hparams(self.task, self.configs, bool(self.lanes))
            self.hparams = sharding.put(jax.device_get(hparams), sharding.replicated(self.mesh))
        # Lanes share a batch unless their data sections differ.
        self.tasks = [self.task]
        if any(to_json(c.data) != to_json(config.data) for c in self.configs):
            self.tasks = [c.task.make(c) for c in self.configs]
        self.checkpointer = Checkpointer(workdir, config.save)
        self.lane_dirs = [workdir / "lanes" / f"{i:02d}" for i in range(self.lanes)]
        self._assets()
        self.feed = Feed([task.data("train") for task in self.tasks], config.steps_per_call)
        self.lane_batches = len(self.tasks) > 1
        sharding.check_batch(self.feed.batch_spec, self.mesh, config.accumulate)
        self.frozen = Frozen(self.task, config, self.mesh, bool(self.checkpointer.steps()))
        self.evaluator = Evaluator(self)
        self.logged_once = False
        self.writers = [
            Writer(folder, config.log, jax.process_index())
            for folder in (self.lane_dirs or [workdir])
        ]
        self.step_fn = train_step.make_train_step(
            self.task, config, self.layout, self.shardings, self.lanes, self.lane_batches
        )

    def _assets(self) -> None:
        """A saved run goes on with what it was begun with; a new one keeps its own."""
        own = self.tasks if len(self.tasks) > 1 else self.tasks * max(self.lanes, 1)
        folders = self.lane_dirs or [self.workdir]
        if self.checkpointer.steps():
            for task, folder in zip(own, folders, strict=True):
                with paths.local_for_reading(folder, paths.NO_ASSETS) as local:
                    task.load_assets(str(local))
        elif self.main:
            for task, folder, config in zip(own, folders, self.configs, strict=True):
                with paths.local_for_writing(folder) as local:
                    task.save_assets(str(local))
                if self.lanes:
                    workdir_lib.write_json(folder / "config.json", to_json(config))

    def __enter__(self) -> "Loop":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self.watchdog.failed(error)  # of several processes none waits for the others here
        self.compiled.close()
        for writer in self.writers:
            writer.close()
        self.checkpointer.close()
        self.evaluator.close()

    def train(self) -> Result:
        config = self.config
        with jax.set_mesh(self.mesh), Preemption() as preemption:
            self.preemption = preemption
            state, start = restore_or_init(self)
            for writer in self.writers:
                writer.cut(start)
            last = start >= config.steps
            owed = self._due(start) - self.evaluator.logged(start) if start else set()
            if last and not owed:
                return Result(state, self.evaluator.last_logged(), "already_done")
            self.progress = metrics_lib.Progress(
                config.steps, start, config.log.progress and self.main,
                config.data.batch_size, "examples",
            )  # fmt: skip
            self._describe(start)
            self.results: dict[str, Any] = {}
            if owed:
                # The run was stopped before it had evaluated or sampled at this step.
                self._between(state, start, owed, last, None)
                stop = preemption.noticed
                if stop or last:
                    self.progress.close()
                    return Result(state, self.results, stop or "done")
            self.clock = (time.perf_counter(), start)
            rows = sharding.batch_sharding(self.mesh, self.feed.leading)
            feed = Prefetcher(
                self.feed, start // config.steps_per_call, lambda b: sharding.put(b, rows),
                config.data.prefetch,
            )  # fmt: skip
            try:
                state, status = self._steps(state, start, feed, preemption)
            finally:
                feed.close()
                self.trace.stop()
                self.progress.close()
            return Result(state, self.results, status)

    def _steps(self, state: Any, start: int, feed: Iterator, preemption: Any) -> tuple[Any, str]:
        config, n = self.config, self.config.steps_per_call
        pending = None
        for call, batch in feed:
            end = (call + 1) * n
            self.watchdog.at(f"step {end}", slow=end - n == start)  # the first is compiled
            self.trace.before(end - n, end)
            state, metrics = self.step_fn(state, self.frozen.values, batch, self.hparams)
            del batch
            # The metrics of the step before: the device already works on this one.
            if pending is not None:
                self._digest(*pending)
            pending = (end, metrics)
            self.trace.after(end, metrics)
            last = end >= config.steps
            stop = preemption.check(end)
            due = self._due(end)
            if last or stop or _due(end, config.save.every) or _due(end, config.save.keep_every):
                due.add("save")
            if due:
                self._digest(*pending)
                pending = None
                self.watchdog.at(f"{' and '.join(sorted(due))} at step {end}", slow=True)
                self._between(state, end, due, last, stop)
                stop = stop or preemption.noticed
                self.clock = (time.perf_counter(), end)
            if last or stop:
                return state, stop or "done"
            self.watchdog.at(f"the batch of step {end + n}")
        raise AssertionError("the feed is endless")

    def _due(self, end: int) -> set[str]:
        """Of "eval" and "sample", what is to be done after a step."""
        last, config = end >= self.config.steps, self.config.eval
        due = {"eval"} if config.splits and (last or _due(end, config.every)) else set()
        if (last or _due(end, config.sample_every)) and not self.lanes:
            due.add("sample")
        return due

    def _between(self, state: Any, end: int, due: set[str], last: bool, stop: Any) -> None:
        """Evaluates, samples, saves: in this order, so that a saved step has all its log lines.

        A signal interrupts it: what was not done is done on resume, when its log line is missing.
        """
        if "eval" in due and not self.preemption.noticed:
            with self.goodput.track("eval"):
                self.results = self.evaluator.evaluate(state, end) or {}
        if "sample" in due and not self.preemption.noticed:
            with self.goodput.track("sample"):
                self.evaluator.sample(state, end)
        stop = stop or self.preemption.noticed
        if ("save" in due or stop) and end not in self.checkpointer.steps():
            with self.goodput.track("save"):
                for writer in self.writers:
                    writer.flush()
                extra = self.extra()
                self.checkpointer.save(end, state, extra, wait=last or stop is not None)
        if last and not stop and self.main:
            for lane in range(self.lanes):
                folder, config = self.lane_dirs[lane], self.configs[lane]
                take_lane(state, lane, folder, config, end, self.extra(lane))

    def extra(self, lane: int | None = None) -> dict[str, Any]:
        """What a checkpoint (of all, or of one lane) remembers beside the state."""
        data: Any = self.feed
        if lane is not None:
            data = self.feed.sources[lane if self.lane_batches else 0]
        return {"frozen": self.frozen.fingerprint, "data": data.fingerprint}

    def _digest(self, end: int, metrics: Any) -> None:
        """Reads the metrics of one call; writes them where a log line is due."""
        config = self.config
        due = _due(end, config.log.every) or end >= config.steps
        values = jax.device_get(metrics if due else {"bad": metrics["bad"]})
        self._check_finite(end, values["bad"])
        if not due:
            return
        now, (before, at) = time.perf_counter(), self.clock
        self.clock = (now, end)
        rate = (end - at) / max(now - before, 1e-9) if end > at else 0.0
        times = {
            "time/steps_per_second": rate,
            "time/examples_per_second": rate * config.data.batch_size,
            "time/goodput": self.goodput.share(),
        }
        peak = metrics_lib.peak_flops(jax.devices()[0])
        flops = self.task.flops(self.feed.batch_spec, {})
        if peak and flops and rate:
            times["time/mfu"] = metrics_lib.mfu(flops, 1 / rate, self.mesh.size)
        if not self.logged_once:
            self.logged_once = True
            times["time/compile_seconds"] = self.compiled.seconds
            times["time/peak_memory_bytes"] = float(metrics_lib.peak_memory_bytes())
        for lane, writer in enumerate(self.writers):
            row = {k: _number(v[-1][lane] if self.lanes else v[-1]) for k, v in values.items()}
            writer.write(end, "train", row | times)
            if lane == 0:
                self.progress.update(end, row)

    def _check_finite(self, end: int, bad: np.ndarray) -> None:
        limit = self.config.max_bad_steps
        failed = np.asarray(bad[-1]) > limit
        if self.lanes:
            for lane in np.flatnonzero(failed):
                marker = self.lane_dirs[lane] / "FAILED"
                if self.main and not marker.exists():
                    marker.write_text(f"loss or gradient not finite by step {end}\n")
            if not failed.all():
                return
        elif not failed:
            return
        calls = np.asarray(bad).reshape(len(bad), -1).min(axis=1)
        step = end - len(bad) + int(np.argmax(calls > limit))
        name = self.workdir / f"bad_batch_{step}.npz"
        if self.main:
            leaves = jax.tree_util.tree_leaves_with_path(self.feed.sources[0].batch(step))
            file = io.BytesIO()
            np.savez(file, **{path_name(p).replace("/", "."): x for p, x in leaves})  # pyright: ignore
            name.write_bytes(file.getvalue())
        self.checkpointer.wait()
        raise NonFiniteError(
            f"step {step}: loss or gradient is not finite ({int(np.max(bad[-1]))} bad steps, "
            f"max_bad_steps={limit}). Its batch, train batch({step}), is in {name}. The last good "
            f"checkpoint, step {max(self.checkpointer.steps(), default=0)}, stays in "
            f"{self.workdir}: lower optim.lr in a new workdir, or raise max_bad_steps to skip "
            "such steps."
        )

    def _describe(self, start: int) -> None:
        params = sum(x.size for x in jax.tree.leaves(self.abstract["params"])) // max(self.lanes, 1)
        shape = " x ".join(f"{k}={v}" for k, v in self.mesh.shape.items())
        lanes = f", {self.lanes} lanes" if self.lanes else ""
        self.progress.note(
            f"{type(self.task).__name__}: {params / 1e6:.2f} M trainable parameters{lanes}; mesh "
            f"{shape} on {jax.devices()[0].device_kind}; steps {start} -> {self.config.steps}; "
            f"workdir {self.workdir}"
        )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _number(x: Any) -> Any:
    return x.item() if hasattr(x, "item") else x
