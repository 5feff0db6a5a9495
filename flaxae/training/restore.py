"""Where a run's state comes from: own workdir, resume_from, pretrained weights, or scratch."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.errors import ConfigError
from flaxae.machine import sharding
from flaxae.storage import checkpoint
from flaxae.task import Context
from flaxae.training.state import make_state
from flaxae.tree import path_name

if TYPE_CHECKING:
    from flaxae.training.loop import Loop


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
    make = jax.jit(lambda h: make_state(task, config, h, loop.lanes), out_shardings=loop.shardings)
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
