"""The state that a run starts with: from its workdir, resume_from, pretrained files or scratch."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.errors import ConfigError, require
from flaxae.machine import sharding
from flaxae.storage import checkpoint
from flaxae.task import Context, InitializesFromData, same_examples
from flaxae.training.setup import Setup
from flaxae.training.state import State, make_state
from flaxae.tree import path_name


def restore_or_init(setup: Setup) -> tuple[State, int]:
    """Return the state to start from, and its step.

    The sources in order: the workdir's own checkpoints; else the parameters of `resume_from`; else
    pretrained parameters; else newly initialised parameters.

    Args:
        setup: the run's parts; pretrained parameters are taken out of it.

    Raises:
        CheckpointError: if there are checkpoints and none is readable.
        ConfigError: if the frozen part or the data are not those of the checkpoint, or no parameter
            of `resume_from` fits.
    """
    config, task = setup.config, setup.task
    # Kept in the setup, they would take memory twice for the whole run.
    pretrained, setup.frozen.pretrained = setup.frozen.pretrained, {}
    restored = setup.checkpointer.restore(setup.shapes)
    if restored is not None:
        _check_unchanged(setup, restored.extra, int(restored.step))
        return restored.state, int(restored.step)
    if isinstance(task, InitializesFromData):
        require(
            len({source.fingerprint for source in setup.feed.sources}) == 1,
            f"lanes have different data: {type(task).__name__} starts from its first batches, "
            "which lanes must share. Give all lanes the same fields of data, or train them one by "
            "one",
        )
    make = jax.jit(
        lambda h: make_state(task, config, h, setup.lanes), out_shardings=setup.shardings
    )
    state = make(setup.hparams)
    if config.resume_from:
        found = checkpoint.read_arrays(config.resume_from)[0]["params"]
        state = _overlay(setup, state, found, f"resume_from={config.resume_from}")
    elif pretrained:
        state = _overlay(setup, state, pretrained, f"pretrained={config.pretrained}")
    if isinstance(task, InitializesFromData):
        key = jax.random.key(config.data.seed)
        rules = task.sharding_rules
        ctx = Context(key, jnp.int32(0), hparams=setup.hparams, sharding_rules=rules)
        state = task.init_from_data(state, _train_batches(setup), ctx)
    return state, 0


def _train_batches(setup: Setup) -> Iterator[Any]:
    step = 0
    while True:
        yield setup.feed.sources[0].batch(step)
        step += 1


def _check_unchanged(setup: Setup, extra: dict[str, Any], step: int) -> None:
    """Raise ConfigError if the frozen part or the data are not those of the checkpoint.

    The order of the data matters only if the run has steps left.
    """
    for name, now in (
        ("frozen", setup.frozen.fingerprint),
        ("data", setup.feed.fingerprint),
    ):
        old = extra.get(name, now)
        if old == now:
            continue
        if name == "data" and same_examples(old, now):
            if step >= setup.config.steps:
                continue
            raise ConfigError(
                f"{setup.workdir}: this version of flaxae trains on the same data in another order "
                f"(fingerprint {old}, now {now}), so the run cannot be continued: use the version "
                "in its versions.json, or start a new workdir with --config.resume_from. It can "
                "still be evaluated"
            )
        raise ConfigError(
            f"{setup.workdir}: its {name} part has changed since it was saved (fingerprint "
            f"{old}, now {now}); restore the files it was made from, or "
            "start a new workdir with --config.resume_from"
        )


def _overlay(setup: Setup, state: State, params: Any, source: str) -> State:
    """Replace parameters of the same path and shape; print the new and the dropped ones."""
    theirs = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
    used, new = set(), []

    def one(path: tuple, mine: Any, place: Any) -> Any:
        name = path_name(path)
        other = theirs.get(name)
        if other is not None and setup.lanes:
            other = np.broadcast_to(np.asarray(other), (setup.lanes, *other.shape))
        if other is None or other.shape != mine.shape:
            new.append(name)
            return mine
        used.add(name)
        if isinstance(other, jax.Array):  # placed while it was read: no process has all of it
            return jax.device_put(other.astype(mine.dtype), place)
        return sharding.put(np.asarray(other, mine.dtype), place)

    taken = jax.tree_util.tree_map_with_path(one, state["params"], setup.shardings["params"])
    if not used:
        raise ConfigError(f"{source}: no parameter has a name and shape of this model")
    if setup.main:
        dropped = sorted(set(theirs) - used)
        print(
            f"{source}: took {len(used)} parameters; new: {new or 'none'}; "
            f"dropped: {dropped or 'none'}"
        )
    ema = jax.tree.map(jnp.copy, taken) if state["ema"] else {}
    return {**state, "params": taken, "ema": ema}
