"""Where a run's state comes from: own workdir, resume_from, pretrained weights, or scratch."""

import hashlib
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxae import checkpoint, sharding, train_step
from flaxae.config import Config, ConfigError
from flaxae.task import Context, Task
from flaxae.tree import path_name

if TYPE_CHECKING:
    from flaxae.train_loop import Loop


class Frozen:
    """The frozen part of a model: rebuilt on every start, never saved, its fingerprint is.

    Attributes:
        values: nested dict of arrays on the mesh.
        fingerprint: of the values, "" where there are none.
        pretrained: parameters that came with the pretrained files, {} without.
    """

    def __init__(self, task: Task, config: Config, mesh: Mesh, saved: bool):
        """Builds it.

        Args:
            task, config, mesh: of the run.
            saved: the rest comes from a checkpoint: without a frozen part no file is read.
        """
        self.pretrained: dict[str, Any] = {}

        def make() -> Any:
            return train_step.init_model(task, jnp.uint32(0), config.frozen_seed)["frozen"]

        with jax.set_mesh(mesh):
            shapes = jax.eval_shape(make)
            shardings = sharding.infer_sharding(shapes, mesh, task.sharding_rules)
            self.values = jax.jit(make, out_shardings=shardings)()
            if config.pretrained and (jax.tree.leaves(shapes) or not saved):
                if not hasattr(task, "load_pretrained"):
                    raise ConfigError(
                        f"pretrained={config.pretrained!r}: {type(task).__name__} reads no "
                        "pretrained weights; leave the field empty"
                    )
                params = jax.eval_shape(
                    lambda: train_step.init_model(task, jnp.uint32(0), 0)["params"]
                )
                abstract = {"params": params, "frozen": shapes}
                places = sharding.infer_sharding(abstract, mesh, task.sharding_rules)
                loaded = task.load_pretrained(abstract, places)  # pyright: ignore
                self.pretrained, self.values = loaded["params"], loaded["frozen"] or self.values
            self.fingerprint = fingerprint(self.values)


@jax.jit
def _checksums(leaves: list) -> list:
    def one(x: Any) -> Any:
        bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).ravel()
        return jnp.sum(bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)

    return [one(x) for x in leaves]


def fingerprint(tree: Any) -> str:
    """A short hash of a tree's names, shapes and values; computed where the values are."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        return ""
    sums = jax.device_get(_checksums([x for _, x in leaves]))
    text = [f"{path_name(p)}{x.shape}{int(s)}" for (p, x), s in zip(leaves, sums, strict=True)]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def restore_or_init(loop: "Loop") -> tuple[Any, int]:
    """The state to start from, and its step.

    Raises:
        CheckpointError: checkpoints are there and none is readable.
        ConfigError: the frozen part or the data are not those of the checkpoint.
    """
    config, task = loop.config, loop.task
    # Taken away from the loop, or they would be held twice for the whole run.
    pretrained, loop.frozen.pretrained = loop.frozen.pretrained, {}
    restored = loop.checkpointer.restore(loop.abstract)
    if restored is not None:
        for name, now in (
            ("frozen", loop.frozen.fingerprint),
            ("data", loop.feed.fingerprint),
        ):
            if restored.extra.get(name, now) != now:
                raise ConfigError(
                    f"{loop.workdir}: its {name} part has changed since it was saved (fingerprint "
                    f"{restored.extra[name]}, now {now}); restore the files it was made from, or "
                    "start a new workdir with --config.resume_from"
                )
        return restored.state, int(restored.step)
    make = jax.jit(
        lambda h: train_step.make_state(task, config, h, loop.lanes), out_shardings=loop.shardings
    )
    state = make(loop.hparams)
    if config.resume_from:
        state = _overlay(loop, state, checkpoint.read_arrays(config.resume_from)[0]["params"],
                         f"resume_from={config.resume_from}")  # fmt: skip
    elif pretrained:
        state = _overlay(loop, state, pretrained, f"pretrained={config.pretrained}")
    if hasattr(task, "init_from_data"):
        key = jax.random.key(config.data.seed)
        rules = task.sharding_rules
        ctx = Context(key, jnp.int32(0), hparams=loop.hparams, sharding_rules=rules)
        batches = (loop.feed.sources[0].batch(i) for i in range(10**9))
        state = task.init_from_data(state, batches, ctx)  # pyright: ignore
    return state, 0


def _overlay(loop: "Loop", state: Any, params: Any, source: str) -> Any:
    """Replaces parameters of the same path and shape; says what is new and what was dropped."""
    theirs = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
    used, new = set(), []

    def one(path: tuple, mine: Any, place: Any) -> Any:
        name = path_name(path)
        other = theirs.get(name)
        if other is not None and loop.lanes:
            other = np.broadcast_to(np.asarray(other), (loop.lanes, *other.shape))
        if other is None or other.shape != mine.shape:
            new.append(name)
            return mine
        used.add(name)
        if isinstance(other, jax.Array):  # placed while it was read: no process holds it whole
            return jax.device_put(other.astype(mine.dtype), place)
        return sharding.put(np.asarray(other, mine.dtype), place)

    taken = jax.tree_util.tree_map_with_path(one, state["params"], loop.shardings["params"])
    if not used:
        raise ConfigError(f"{source}: no parameter has the name and shape of one of this model's")
    if loop.main:
        dropped = sorted(set(theirs) - used)
        print(
            f"{source}: took {len(used)} parameters; new: {new or 'none'}; "
            f"dropped: {dropped or 'none'}"
        )
    ema = jax.tree.map(jnp.copy, taken) if state["ema"] else {}
    return {**state, "params": taken, "ema": ema}
