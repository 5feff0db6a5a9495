"""The loop's own evaluation: exact sums over whole splits, samples, and the best checkpoint."""

import contextlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.errors import ConfigError
from flaxae.machine import sharding
from flaxae.machine.preemption import Preemption
from flaxae.storage.checkpoint import Checkpointer
from flaxae.task import Context, InitializesCarry, Rows
from flaxae.training.feed import Feed
from flaxae.training.lanes import slice_lane
from flaxae.training.metrics import Progress
from flaxae.training.setup import Setup
from flaxae.training.state import State, make_state
from flaxae.training.step import make_eval_step

Metrics = dict[str, Any]  # "split/name" -> value, or a list of one value per lane


class UnknownMetricError(ConfigError):
    """`save.best_metric` names no metric of the evaluations.

    Args:
        name: the field's value.
        known: the metrics.
    """

    def __init__(self, name: str, known: Iterable[str]):
        super().__init__(f"save.best_metric={name!r} is not one of: {', '.join(known)}")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating))


class Evaluator:
    """Evaluates and samples a run's states; its programs are compiled once.

    Args:
        setup: the run's parts.

    Attributes:
        sources: split -> its batches.

    Raises:
        ConfigError: if a split is endless and `eval.num_batches` is 0.
    """

    def __init__(self, setup: Setup):
        self._setup = setup
        config, task = setup.config, setup.task
        self._step_fn, self._zeros = make_eval_step(
            task, setup.layout, setup.mesh, setup.lanes, setup.lane_batches
        )
        self.sources: dict[str, Feed] = {}

        def new_streams(hparams: Any) -> Any:
            return make_state(task, config, hparams, setup.lanes)["carry"]["stream"]

        self._new_streams = jax.jit(new_streams, out_shardings=setup.shardings["carry"]["stream"])
        for split in config.eval.splits:
            source = Feed([task.data(split) for task in setup.tasks])
            if source.num_batches is None and not config.eval.num_batches:
                raise ConfigError(
                    f"eval: split {split!r} is endless; set eval.num_batches to evaluate a part"
                )
            self.sources[split] = source
        self._lane_checkpointers = [
            Checkpointer(folder, config.save, guard=setup.check_lease)
            for folder in setup.lane_dirs
            if config.save.best_metric
        ]

    def check_best_metric(self, state: State) -> None:
        """Check before the first step that evaluations have the metric of `save.best_metric`.

        The task makes the metrics from sums of ones, without a computation on the device; if it
        cannot, from the sums of a first batch.

        Args:
            state: a state of the run.

        Raises:
            ConfigError: if no metric has this name, or it is not a number, or there are no
                evaluations.
        """
        name = self._setup.config.save.best_metric
        if not name:
            return
        if not self.sources:
            raise ConfigError(
                f"save.best_metric={name!r} needs evaluations: set eval.splits, such as ('dev',)"
            )
        names: list[str] = []
        for split, source in self.sources.items():
            metrics = self._metrics_of_a_batch(state, source)
            if metrics is None:  # the first evaluation checks the name; the state is saved then
                return
            names += [f"{split}/{metric}" for metric, value in metrics.items() if _number(value)]
        if name not in names:
            raise UnknownMetricError(name, names)

    def _metrics_of_a_batch(self, state: State, source: Feed) -> dict[str, Any] | None:
        """Return metrics as those of an evaluation, with other values; None if that fails."""
        lanes, finalize = self._setup.lanes, self._setup.task.finalize
        shapes = self._sum_shapes(state, source)
        with contextlib.suppress(Exception):
            return finalize(
                jax.tree.map(lambda x: np.ones(x.shape[bool(lanes) :], x.dtype), shapes)
            )
        with contextlib.suppress(Exception):
            sums = self._sums(state, 0, source, Preemption(), most=1)
            return finalize(jax.tree.map(lambda x: x[0], sums) if lanes else sums)
        return None

    def _sum_shapes(self, state: State, source: Feed) -> Any:
        """Return the shapes of a split's sums, with an axis of lanes if there are lanes."""
        lanes = (self._setup.lanes,) if source.leading else ()  # lanes with data of their own
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*lanes, *x.shape), x.dtype), source.batch_spec
        )
        carry = jax.eval_shape(lambda s: self.carry_for(s, source), state)
        params, zero = state["ema"] or state["params"], np.int32(0)
        frozen, hparams = self._setup.frozen.values, self._setup.hparams
        return jax.eval_shape(self._zeros, params, carry, frozen, batch, hparams, zero, zero)

    def close(self) -> None:
        """Close the lanes' best checkpoints when all saves are on disk."""
        for checkpointer in self._lane_checkpointers:
            checkpointer.close()

    def carry_for(self, state: State, source: Feed) -> dict[str, Any]:
        """Return the carry that an evaluation starts with; training never sees its changes.

        Streams start from scratch. Variables without a batch axis are those of the training, so
        that a loss weight that waits for the reconstruction has the same value in both.
        """
        setup = self._setup
        if isinstance(setup.task, InitializesCarry):
            carry = setup.task.init_carry(source.batch_spec)
            if setup.lanes:
                carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (setup.lanes, *x.shape)), carry)
            return carry
        return {"once": state["carry"]["once"], "stream": self._new_streams(setup.hparams)}

    def evaluate(
        self,
        state: State,
        step: int,
        preemption: Preemption,
        progress: Progress,
        last: bool = False,
    ) -> Metrics | None:
        """Evaluate all splits, log the metrics and keep the best checkpoint.

        Args:
            state: the run's state.
            step: its step.
            preemption: stops the evaluation between batches.
            progress: shows the metrics of the first lane.
            last: whether the state has been saved: a start continues with what is not logged, so
                the best checkpoint is complete before anything is logged.

        Returns:
            "split/name" -> value, or a list of one value per lane; None if a signal stopped the
            evaluation: then nothing is logged.
        """
        setup = self._setup
        rows_of: dict[str, list[dict[str, float]]] = {}
        for split, source in self.sources.items():
            sums = self._sums(state, step, source, preemption)
            if sums is None:
                return None
            of_lanes = (
                [jax.tree.map(lambda x, i=i: x[i], sums) for i in range(setup.lanes)]
                if setup.lanes
                else [sums]
            )
            rows_of[split] = [setup.task.finalize(one) for one in of_lanes]
        results = [
            {f"{split}/{k}": v for split, rows in rows_of.items() for k, v in rows[i].items()}
            for i in range(len(setup.writers))
        ]
        self._keep_best(state, step, results, wait=last)
        for split, rows in rows_of.items():
            for writer, row in zip(setup.writers, rows, strict=True):
                writer.write(step, split, row)
        line = ", ".join(f"{k} {v:.4f}" for k, v in results[0].items() if isinstance(v, float))
        progress.note(f"step {step}: {line}")
        return self._joined(results)

    def _sums(
        self, state: State, step: int, source: Feed, preemption: Preemption, most: int = 0
    ) -> Any:
        """Return the sums of a split, or of its first `most` batches, on the host.

        They are None if a signal came.
        """
        setup = self._setup
        everywhere = sharding.replicated(setup.mesh)
        params = state["ema"] or state["params"]
        at = sharding.put(np.int32(step), everywhere)
        limits = [n for n in (source.num_batches, setup.config.eval.num_batches, most) if n]
        carry, sums = self.carry_for(state, source), None
        collected = []
        rows = sharding.batch_sharding(setup.mesh, source.leading)
        for i in range(min(limits)):
            if preemption.noticed:
                return None
            batch = sharding.put(source.batch(i), rows)
            index = sharding.put(np.int32(i), everywhere)
            args = (params, carry, setup.frozen.values, batch, setup.hparams, at, index)
            sums = self._zeros(*args) if sums is None else sums
            sums, carry = self._step_fn(sums, *args)
            collected.append({k: v for k, v in sums.items() if isinstance(v, Rows)})
        sums, collected = jax.device_get((sums, collected))
        return (sums or {}) | _joined_rows(collected, axis=int(setup.lanes > 0))

    def _keep_best(
        self, state: State, step: int, results: list[dict[str, float]], wait: bool
    ) -> None:
        """Save the state if it is the best so far, and wait for that if `wait`."""
        setup, name = self._setup, self._setup.config.save.best_metric
        if not name:
            return
        if name not in results[0]:
            raise UnknownMetricError(name, results[0])
        for writer in setup.writers:
            writer.flush()  # before the checkpoint that a run may return to
        if not setup.lanes:
            setup.checkpointer.save_best(step, state, setup.extra(), results[0][name])
        for lane, checkpointer in enumerate(self._lane_checkpointers):
            value = results[lane][name]
            checkpointer.save_best(step, slice_lane(state, lane), setup.extra(lane), value)
        if wait:
            for checkpointer in (setup.checkpointer, *self._lane_checkpointers):
                checkpointer.wait()

    def sample(self, state: State, step: int, progress: Progress) -> None:
        """Let the task sample from the model; log and show texts, log images."""
        setup, config = self._setup, self._setup.config
        params = state["ema"] or state["params"]
        carry = self.carry_for(state, next(iter(self.sources.values()), setup.feed))
        model = setup.layout.merge(params, carry, setup.frozen.values)
        key = jax.random.fold_in(jax.random.key(config.data.seed), step)
        rules = setup.task.sharding_rules
        ctx = Context(key, jnp.int32(step), hparams=setup.hparams, sharding_rules=rules)
        made = setup.task.sample(model, ctx, config.eval.num_samples)
        texts = {k: v for k, v in made.items() if isinstance(v, list)}
        images = {k: v for k, v in made.items() if isinstance(v, np.ndarray) and v.ndim == 3}
        setup.writers[0].write(step, "sample", {"made": len(made)}, texts=texts, images=images)
        for name, lines in texts.items():
            progress.note("\n".join([f"{name}:", *(f"  {line}" for line in lines)]))

    def logged(self, step: int) -> set[str]:
        """Return the subset of {"eval", "sample"} that the log contains for a step.

        An evaluation that was logged in part, by a run that was killed, is removed from the log.
        """
        if jax.process_count() > 1:  # they finish due evaluations and samples before they stop
            return {"eval", "sample"}
        writers = self._setup.writers
        splits = [{r["split"] for r in w.evaluations() if r["step"] == step} for w in writers]
        found = {"sample"} & splits[0]
        if all(set(self.sources) <= logged for logged in splits):
            return found | {"eval"}
        for writer in writers:
            writer.remove_evaluation(step)
        return found

    def last_logged(self, step: int) -> Metrics:
        """Return the metrics of the last evaluation up to a step, from the logs."""
        results = []
        for writer in self._setup.writers:
            last: dict[str, float] = {}
            for row in writer.evaluations():
                split = row.pop("split", None)
                if row.pop("step") <= step and split in self.sources:
                    last |= {f"{split}/{k}": v for k, v in row.items()}
            results.append(last)
        return self._joined(results)

    def _joined(self, results: list[dict[str, float]]) -> Metrics:
        """Return the only result, or name -> one value per lane."""
        if not self._setup.lanes:
            return results[0]
        return {k: [r.get(k) for r in results] for k in results[0]}


def _joined_rows(parts: list[dict[str, Rows]], axis: int) -> dict[str, Rows]:
    """Join the rows of all batches along the axis of examples, (B, ...) or (lanes, B, ...)."""
    if not parts:
        return {}
    return jax.tree.map(lambda *x: np.concatenate(x, axis), *parts)
