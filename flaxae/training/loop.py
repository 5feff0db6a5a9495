"""THE training loop: set up, restore, step, log, evaluate, sample, save.

It is independent of the families: it trains any `Task`.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from flaxae.config import Config
from flaxae.config.horizon import horizon, schedule_has_ended
from flaxae.machine import distributed, sharding
from flaxae.machine.preemption import Preemption
from flaxae.machine.watchdog import Watchdog
from flaxae.storage import paths
from flaxae.storage import workdir as workdir_lib
from flaxae.storage.checkpoint_errors import warn
from flaxae.storage.lease import Lease, TakenOverError, related
from flaxae.storage.quiet import quiet_backends
from flaxae.training import metrics as metrics_lib
from flaxae.training.evaluator import Evaluator, Metrics, UnknownMetricError
from flaxae.training.feed import Prefetcher
from flaxae.training.lanes import newest_step, write_lane
from flaxae.training.non_finite import check_finite
from flaxae.training.profiling import Trace
from flaxae.training.restore import restore_or_init
from flaxae.training.result import Result
from flaxae.training.setup import Setup, make_setup
from flaxae.training.state import State
from flaxae.training.step import make_train_step


def run(config: Config, workdir: str | Path, lanes: list[dict[str, Any]] | None = None) -> Result:
    """Train a run, resume it, or report that it is done.

    Args:
        config: the experiment; it is copied and frozen.
        workdir: the folder of everything that the run writes: local, or gs://BUCKET/FOLDER.
        lanes: overrides of each lane ({}: a lane without any): many runs of one shape as one
            vmapped program. None: a single run.

    Returns:
        The state, the metrics of the last evaluation, and how the run ended.

    Raises:
        ConfigError: if the config, the data or the workdir is wrong, or another process trains
            in the workdir.
        CheckpointError: if a checkpoint cannot be written, or none can be read.
        TakenOverError: if another process has taken over the workdir.
        NonFiniteError: if too many steps were not finite. In a run of several processes, any error
            ends this process and the others (see `watchdog`).
    """
    quiet_backends()
    workdir = paths.as_workdir(workdir)
    main = distributed.is_main()
    lease = Lease(workdir, related(workdir)) if main else None
    with Watchdog() as watchdog, lease or contextlib.nullcontext():
        if lease is not None:
            workdir_lib.claim(config, workdir, lanes, lease)
        distributed.wait_for_main("flaxae_lease")
        config = workdir_lib.prepare(config, workdir, lanes, main)
        distributed.sync("workdir")
        if config.log.progress and main:
            print("preparing the data and the model ...", flush=True)
        with Loop(make_setup(config, workdir, lanes, lease), watchdog) as loop:
            return loop.train()


class Loop:
    """Trains one run. Enter it, call `train` once; leaving it closes the run's files.

    Args:
        setup: the run's parts.
        watchdog: watches the run; None: a new one, which does not watch yet.

    Attributes:
        step_fn: the jitted step, (state, frozen, batch, hparams) -> (state, metrics).
    """

    def __init__(self, setup: Setup, watchdog: Watchdog | None = None):
        config = setup.config
        self.setup, self.config = setup, config
        self.watchdog = watchdog or Watchdog()
        self.trace = Trace(config.profile, setup.workdir)
        self.goodput = metrics_lib.Goodput()
        self.preemption = Preemption()
        self.evaluator = Evaluator(setup)
        self.results: Metrics = {}
        self.logged_once = False
        self.step_fn = make_train_step(
            setup.task, config, setup.layout, setup.shardings, setup.lanes, setup.lane_batches
        )

    def __enter__(self) -> "Loop":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lease = self.setup.lease
        if isinstance(error, TakenOverError):
            for writer in self.setup.writers:
                writer.abandon()
        if error is not None:
            if lease is not None and jax.process_count() > 1:
                lease.release()
            self.watchdog.failed(error)  # does not return in a run of several processes
        self.setup.close()
        self.evaluator.close()

    def train(self) -> Result:
        """Restore, train to the last step or a signal, and return the result."""
        setup, config = self.setup, self.config
        with jax.set_mesh(setup.mesh), self.preemption:
            # Of two starts at the same moment, on a file system without locks, one goes on.
            setup.check_lease()
            state, start = restore_or_init(setup)
            last = start >= config.steps
            for lane, writer in enumerate(setup.writers):
                # A lane that was trained further in its own folder keeps its log.
                further = newest_step(setup.lane_dirs[lane]) if last and setup.lanes else 0
                writer.cut(max(start, further))
            owed = self._due(start) - self.evaluator.logged(start) if start else set()
            self.results = self.evaluator.last_logged(start) if start else {}
            if last and not owed:
                self._write_lanes(state, start)  # a run that was killed may not have got there
                return self._result(state, self.results, "already_done")
            self.evaluator.check_best_metric(state)
            if start and not last and schedule_has_ended(config, start):
                warn(
                    f"the learning rate is 0 from step {horizon(config)} on, the end of its "
                    "schedule: more steps do not change the parameters. Start a new run from them "
                    f"with --config.resume_from={setup.workdir} and another --workdir"
                )
            self.progress = metrics_lib.Progress(
                config.steps,
                start,
                enabled=config.log.progress and setup.main,
                unit_per_step=config.data.batch_size,
                unit="examples",
                shown=setup.task.shown,
            )
            self.progress.note(setup.describe(start))
            for note in setup.task.data_notes():
                self.progress.note(f"data: {note}")
            if owed:
                # A signal stopped the run before it had evaluated or sampled at this step.
                self._between(state, start, owed, last, None)
                stop = self.preemption.noticed
                if stop or last:
                    self.progress.close()
                    return self._result(state, self.results, stop or "done")
            self.progress.note("compiling the training step ...")
            self.clock = (time.perf_counter(), start)
            rows = sharding.batch_sharding(setup.mesh, setup.feed.leading)
            feed = Prefetcher(
                setup.feed,
                start // config.steps_per_call,
                lambda b: sharding.put(b, rows),
                config.data.prefetch,
            )
            try:
                state, status = self._steps(state, start, feed)
            finally:
                feed.close()
                self.trace.stop()
                self.progress.close()
            return self._result(state, self.results, status)

    def _result(self, state: State, metrics: Metrics, status: str) -> Result:
        return Result(state, metrics, status, self.config, self.setup.task)

    def _steps(self, state: State, start: int, feed: Iterator[Any]) -> tuple[State, str]:
        """Step until the last step or a signal; return the state and the run's status."""
        config, n = self.config, self.config.steps_per_call
        frozen, hparams = self.setup.frozen.values, self.setup.hparams
        pending = None
        for call, batch in feed:
            end = (call + 1) * n
            self.watchdog.at(f"step {end}", slow=end - n == start)  # the first is compiled
            self.trace.before(end - n, end)
            state, metrics = self.step_fn(state, frozen, batch, hparams)
            del batch
            # The metrics of the step before: the device already works on this one.
            if pending is not None:
                self._log(*pending)
            pending = (end, metrics)
            self.trace.after(end, metrics)
            last = end >= config.steps
            if self.setup.lease is not None:
                self.setup.lease.check()
            stop = self.preemption.check()
            due = self._due(end)
            if last or stop or _due(end, config.save.every) or _due(end, config.save.keep_every):
                due.add("save")
            if due:
                self._log(*pending)
                pending = None
                self.watchdog.at(f"{' and '.join(sorted(due))} at step {end}", slow=True)
                self._between(state, end, due, last, stop)
                stop = stop or self.preemption.noticed
                self.clock = (time.perf_counter(), end)
            if last or stop:
                return state, stop or "done"
            self.watchdog.at(f"the batch of step {end + n}")
        raise AssertionError("the feed is endless")

    def _due(self, end: int) -> set[str]:
        """Return the subset of {"eval", "sample"} that is due after a step."""
        last, config = end >= self.config.steps, self.config.eval
        due = {"eval"} if config.splits and (last or _due(end, config.every)) else set()
        samples = config.num_samples > 0 and not self.setup.lanes
        if samples and (last or _due(end, config.sample_every)):
            due.add("sample")
        return due

    def _between(self, state: State, end: int, due: set[str], last: bool, stop: str | None) -> None:
        """Evaluate, sample, save: in this order, so that a saved step has all its log lines.

        The last state is saved before, so that nothing that fails loses it. A signal interrupts it.
        On resume, what is due and not logged yet is done first.
        """
        if last:
            self._save(state, end, wait=True)
        try:
            self._evaluate_and_sample(state, end, due, last)
        except Exception as e:
            # No step is lost. Of several processes one alone may have failed: it cannot save.
            if jax.process_count() == 1 or isinstance(e, UnknownMetricError):
                with contextlib.suppress(Exception):
                    self._save(state, end, wait=True)
            raise
        stop = stop or self.preemption.noticed
        if "save" in due or stop:
            self._save(state, end, wait=last or stop is not None)
        if last and not stop:
            self._write_lanes(state, end)

    def _evaluate_and_sample(self, state: State, end: int, due: set[str], last: bool) -> None:
        """Evaluate and sample as far as they are due, until a signal comes."""
        preemption = self.preemption
        if "eval" in due and not preemption.noticed:
            with self.goodput.track("eval"):
                found = self.evaluator.evaluate(state, end, preemption, self.progress, last)
                self.results = found or {}
        if "sample" in due and not preemption.noticed:
            with self.goodput.track("sample"):
                self.evaluator.sample(state, end, self.progress)

    def _write_lanes(self, state: State, end: int) -> None:
        """Make each lane's folder an ordinary workdir."""
        setup = self.setup
        if setup.main:
            for lane, folder in enumerate(setup.lane_dirs):
                write_lane(
                    state,
                    lane,
                    folder,
                    setup.configs[lane],
                    end,
                    setup.extra(lane),
                    setup.check_lease,
                )

    def _save(self, state: State, end: int, wait: bool) -> None:
        """Save the state unless its step is saved already."""
        setup = self.setup
        if end in setup.checkpointer.steps():
            return
        with self.goodput.track("save"):
            for writer in setup.writers:
                writer.flush()
            setup.checkpointer.save(end, state, setup.extra(), wait=wait)

    def _log(self, end: int, metrics: dict[str, Any]) -> None:
        """Read the metrics of one call; write them if a log line is due."""
        setup, config = self.setup, self.config
        due = _due(end, config.log.every) or end >= config.steps
        values = jax.device_get(metrics if due else {"bad": metrics["bad"]})
        check_finite(setup, end, values["bad"])
        if not due:
            return
        times = self._times(end)
        for lane, writer in enumerate(setup.writers):
            row = {k: _number(v[-1][lane] if setup.lanes else v[-1]) for k, v in values.items()}
            writer.write(end, "train", row | times)
            if lane == 0:
                self.progress.update(end, row)

    def _times(self, end: int) -> dict[str, float]:
        """Return the wall-clock values of a log line; the clock then starts from there."""
        now, (before, at) = time.perf_counter(), self.clock
        self.clock = (now, end)
        rate = (end - at) / max(now - before, 1e-9) if end > at else 0.0
        times = {
            "time/steps_per_second": rate,
            "time/examples_per_second": rate * self.config.data.batch_size,
            "time/goodput": self.goodput.share(),
        }
        peak = metrics_lib.peak_flops(jax.devices()[0])
        flops = self.setup.task.flops(self.setup.feed.batch_spec, {})
        if peak and flops and rate:
            times["time/mfu"] = metrics_lib.mfu(flops, 1 / rate, self.setup.mesh.size)
        if not self.logged_once:
            self.logged_once = True
            times["time/compile_seconds"] = self.setup.compile_time.seconds
            times["time/peak_memory_bytes"] = float(metrics_lib.peak_memory_bytes())
        return times


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _number(x: Any) -> Any:
    return x.item() if hasattr(x, "item") else x
