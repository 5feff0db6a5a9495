"""The loop's own evaluation: exact sums over whole splits, samples, and the best checkpoint."""

import json
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.errors import ConfigError
from flaxae.machine import sharding
from flaxae.storage.checkpoint import Checkpointer
from flaxae.task import Context
from flaxae.training import step as train_step
from flaxae.training.feed import Feed
from flaxae.training.lanes import slice_lane
from flaxae.training.state import make_state

if TYPE_CHECKING:
    from flaxae.training.loop import Loop


class Evaluator:
    """Evaluates and samples a run's states; its programs are compiled once."""

    def __init__(self, loop: "Loop"):
        self.loop = loop
        config, task = loop.config, loop.task
        self.step_fn, self.zeros = train_step.make_eval_step(
            task, loop.layout, loop.mesh, loop.lanes, loop.lane_batches
        )
        self.sources: dict[str, Feed] = {}

        def fresh(hparams: Any) -> Any:
            return make_state(task, config, hparams, loop.lanes)["carry"]["stream"]

        self.fresh = jax.jit(fresh, out_shardings=loop.shardings["carry"]["stream"])
        for split in config.eval.splits:
            source = Feed([task.data(split) for task in loop.tasks])
            if source.num_batches is None and not config.eval.num_batches:
                raise ConfigError(
                    f"eval: split {split!r} is endless; set eval.num_batches to evaluate a part"
                )
            self.sources[split] = source
        self.best = [
            Checkpointer(folder, config.save)
            for folder in (loop.workdir / "lanes" / f"{i:02d}" for i in range(loop.lanes))
            if config.save.best_metric
        ]

    def close(self) -> None:
        for checkpointer in self.best:
            checkpointer.close()

    def _carry(self, state: Any, source: Feed) -> Any:
        """The carry that an evaluation starts with; training never sees what becomes of it.

        Streams start anew. What has no batch axis is the training's own: a loss weight that waits
        for the reconstruction is then the one that was trained with.
        """
        loop = self.loop
        if hasattr(loop.task, "init_carry"):
            carry = loop.task.init_carry(source.batch_spec)  # pyright: ignore
            if loop.lanes:
                carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (loop.lanes, *x.shape)), carry)
            return carry
        return {"once": state["carry"]["once"], "stream": self.fresh(loop.hparams)}

    def evaluate(self, state: Any, step: int) -> dict[str, Any] | None:
        """Evaluates all splits, logs, keeps the best.

        Returns:
            "split/name" -> value, or a list of values with lanes; None where the run was told to
            stop meanwhile: then nothing is logged.
        """
        loop, config = self.loop, self.loop.config
        params = state["ema"] or state["params"]
        at = sharding.put(np.int32(step), sharding.replicated(loop.mesh))
        rows_of: dict[str, list[dict[str, float]]] = {}
        for split, source in self.sources.items():
            limits = [n for n in (source.num_batches, config.eval.num_batches) if n]
            carry, sums = self._carry(state, source), None
            rows = sharding.batch_sharding(loop.mesh, source.leading)
            for i in range(min(limits)):
                if loop.preemption.noticed:
                    return None
                batch = sharding.put(source.batch(i), rows)
                index = sharding.put(np.int32(i), sharding.replicated(loop.mesh))
                args = (params, carry, loop.frozen.values, batch, loop.hparams, at, index)
                sums = self.zeros(*args) if sums is None else sums
                sums, carry = self.step_fn(sums, *args)
            host = jax.device_get(sums)
            rows_of[split] = [
                loop.task.finalize(jax.tree.map(lambda x, i=i: x[i], host) if loop.lanes else host)
                for i in range(len(loop.writers))
            ]
        results: list[dict[str, float]] = [{} for _ in loop.writers]
        for split, found in rows_of.items():
            for writer, row, result in zip(loop.writers, found, results, strict=True):
                writer.write(step, split, row)
                result |= {f"{split}/{k}": v for k, v in row.items()}
        self._keep_best(state, step, results)
        line = ", ".join(f"{k} {v:.4f}" for k, v in results[0].items() if isinstance(v, float))
        loop.progress.note(f"step {step}: {line}")
        if not loop.lanes:
            return results[0]
        return {k: [r[k] for r in results] for k in results[0]}

    def _keep_best(self, state: Any, step: int, results: list[dict[str, float]]) -> None:
        loop, name = self.loop, self.loop.config.save.best_metric
        if not name:
            return
        if name not in results[0]:
            raise ConfigError(f"save.best_metric={name!r} is not one of: {', '.join(results[0])}")
        for writer in loop.writers:
            writer.flush()  # a step that may be gone back to has all its log lines
        if not loop.lanes:
            loop.checkpointer.save_best(step, state, loop.extra(), results[0][name])
            return
        for lane, checkpointer in enumerate(self.best):
            value = results[lane][name]
            checkpointer.save_best(step, slice_lane(state, lane), loop.extra(lane), value)

    def sample(self, state: Any, step: int) -> None:
        """Lets the task sample from the model; logs texts and images."""
        loop, config = self.loop, self.loop.config
        params = state["ema"] or state["params"]
        carry = self._carry(state, next(iter(self.sources.values()), loop.feed))
        model = loop.layout.merge(params, carry, loop.frozen.values)
        key = jax.random.fold_in(jax.random.key(config.data.seed), step)
        rules = loop.task.sharding_rules
        ctx = Context(key, jnp.int32(step), hparams=loop.hparams, sharding_rules=rules)
        made = loop.task.sample(model, ctx, config.eval.num_samples)
        texts = {k: v for k, v in made.items() if isinstance(v, list)}
        images = {k: v for k, v in made.items() if isinstance(v, np.ndarray) and v.ndim == 3}
        loop.writers[0].write(step, "sample", {"made": len(made)}, texts=texts, images=images)
        for name, lines in texts.items():
            loop.progress.note("\n".join([f"{name}:", *(f"  {line}" for line in lines)]))

    def logged(self, step: int) -> set[str]:
        """Of "eval" and "sample", what the log has of a step."""
        path, found = self.loop.writers[0].path, set()
        for line in path.read_text().splitlines() if path.exists() else []:
            entry = json.loads(line)
            if entry.get("step") == step and entry.get("split") != "train":
                found.add("sample" if entry["split"] == "sample" else "eval")
        # A run of several processes finishes what is due before it stops.
        return {"eval", "sample"} if jax.process_count() > 1 else found

    def last_logged(self) -> dict[str, Any]:
        """The metrics of the last evaluation, from the logs."""
        results = []
        for writer in self.loop.writers:
            row: dict[str, float] = {}
            path = writer.path
            for line in path.read_text().splitlines() if path.exists() else []:
                entry = json.loads(line)
                split = entry.get("split")
                if split in self.sources:
                    skip = ("step", "split")
                    row |= {f"{split}/{k}": v for k, v in entry.items() if k not in skip}
            results.append(row)
        if not self.loop.lanes:
            return results[0]
        return {k: [r.get(k) for r in results] for k in results[0]}
