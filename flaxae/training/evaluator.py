"""The loop's own evaluation: exact sums over whole splits, samples, and the best checkpoint."""

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

        Nothing is computed on the device: the task makes the metrics from sums of ones.

        Args:
            state: a state of the run, for its shapes.

        Raises:
            ConfigError: if no metric has this name.
        """
        setup, name = self._setup, self._setup.config.save.best_metric
        if not name or not self.sources:
            return
        names: list[str] = []
        for split, source in self.sources.items():
            shapes = self._sum_shapes(state, source)
            ones = jax.tree.map(lambda x: np.ones(x.shape[bool(setup.lanes) :], x.dtype), shapes)
            try:
                names += [f"{split}/{metric}" for metric in setup.task.finalize(ones)]
            except Exception:  # a task may need real sums: the first evaluation checks the name
                return
        if name not in names:
            raise UnknownMetricError(name, names)

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
        self, state: State, step: int, preemption: Preemption, progress: Progress
    ) -> Metrics | None:
        """Evaluate all splits, log the metrics and keep the best checkpoint.

        Args:
            state: the run's state.
            step: its step.
            preemption: stops the evaluation between batches.
            progress: shows the metrics of the first lane.

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
        results: list[dict[str, float]] = [{} for _ in setup.writers]
        for split, found in rows_of.items():
            for writer, row, result in zip(setup.writers, found, results, strict=True):
                writer.write(step, split, row)
                result |= {f"{split}/{k}": v for k, v in row.items()}
        self._keep_best(state, step, results)
        line = ", ".join(f"{k} {v:.4f}" for k, v in results[0].items() if isinstance(v, float))
        progress.note(f"step {step}: {line}")
        return self._joined(results)

    def _sums(self, state: State, step: int, source: Feed, preemption: Preemption) -> Any:
        """Return the sums of a whole split on the host; None if a signal came."""
        setup = self._setup
        everywhere = sharding.replicated(setup.mesh)
        params = state["ema"] or state["params"]
        at = sharding.put(np.int32(step), everywhere)
        limits = [n for n in (source.num_batches, setup.config.eval.num_batches) if n]
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

    def _keep_best(self, state: State, step: int, results: list[dict[str, float]]) -> None:
        setup, name = self._setup, self._setup.config.save.best_metric
        if not name:
            return
        if name not in results[0]:
            raise UnknownMetricError(name, results[0])
        for writer in setup.writers:
            writer.flush()  # before the checkpoint that a run may return to
        if not setup.lanes:
            setup.checkpointer.save_best(step, state, setup.extra(), results[0][name])
            return
        for lane, checkpointer in enumerate(self._lane_checkpointers):
            value = results[lane][name]
            checkpointer.save_best(step, slice_lane(state, lane), setup.extra(lane), value)

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
        """Return the subset of {"eval", "sample"} that the log contains for a step."""
        found = set()
        for row in self._setup.writers[0].rows():
            if row.get("step") == step and row.get("split") != "train":
                found.add("sample" if row["split"] == "sample" else "eval")
        # Several processes finish due evaluations and samples before they stop.
        return {"eval", "sample"} if jax.process_count() > 1 else found

    def last_logged(self) -> Metrics:
        """Return the metrics of the last evaluation, from the logs."""
        results = []
        for writer in self._setup.writers:
            last: dict[str, float] = {}
            for row in writer.rows():
                split = row.pop("split", None)
                row.pop("step", None)
                if split in self.sources:
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
