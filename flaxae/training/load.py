"""Opening a finished (or running) run from its workdir."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from flaxae.config.serialize import ConfigClass
from flaxae.errors import ConfigError, require
from flaxae.machine import sharding
from flaxae.storage import checkpoint, paths
from flaxae.storage import workdir as workdir_lib
from flaxae.storage.quiet import quiet_backends
from flaxae.task import Loaded as Loaded
from flaxae.task import Task
from flaxae.training.frozen import Frozen
from flaxae.training.layout import make_layout
from flaxae.tree import path_name

WHICH = ("auto", "latest", "best")


def load(
    workdir: str | Path, config_class: ConfigClass | None = None, which: str = "auto"
) -> Loaded:
    """Open the trained model of a workdir.

    Args:
        workdir: a run's folder.
        config_class: the task's config class, or the path of the run's config file, if the class
            is not one of flaxae's own.
        which: "latest", "best", or "auto": the best checkpoint if the run keeps one.

    Returns:
        The model (EMA parameters if the run keeps them), its config, task and step.

    Raises:
        ConfigError: if the folder is not a run's workdir, `which` is wrong, or the frozen part has
            changed.
        CheckpointError: if no checkpoint in it is readable.
    """
    require(which in WHICH, f"which={which!r} is not one of {', '.join(WHICH)}")
    quiet_backends()
    workdir = paths.as_path(workdir)
    config = workdir_lib.stored_config(workdir, config_class)
    config.freeze(check=False)
    if which != "latest":
        has_best = bool(checkpoint.steps_on_disk(workdir / "best"))
        if which == "best" and not has_best:
            metric = config.save.best_metric
            raise ConfigError(
                f"{workdir}: the run keeps no best checkpoint: save.best_metric is empty"
                if not metric
                else f"{workdir} has no best checkpoint yet: the run saves it when it evaluates "
                f"{metric}"
            )
        which = "best" if has_best else "latest"
    arrays, extra, step = checkpoint.read_arrays(workdir, which)
    task: Task = config.task.make(config)
    with paths.local_for_reading(workdir, paths.NO_ASSETS) as folder:
        task.load_assets(str(folder))
    mesh = sharding.make_mesh(dataclasses.replace(config.mesh, replica=1, fsdp=1, model=1))
    layout = make_layout(task, config)
    frozen = Frozen(task, config, mesh, saved=True)
    if extra.get("frozen", frozen.fingerprint) != frozen.fingerprint:
        raise ConfigError(
            f"{workdir}: the frozen part of the model is not the one that it was trained with; "
            "restore the files that it is made from"
        )
    params = jax.tree.map(jax.numpy.asarray, arrays.get("ema") or arrays["params"])
    carry = {"once": {}, "stream": {}} | jax.tree.map(jax.numpy.asarray, arrays.get("carry") or {})
    _check_fit(workdir, layout.shapes("params"), params)
    model = layout.merge(params, carry, frozen.values)
    return Loaded(model, config, task, int(step), workdir, extra)


def _check_fit(workdir: Any, shapes: dict[str, Any], params: dict[str, Any]) -> None:
    """Raise ConfigError unless a checkpoint has the parameters that its config describes."""
    wanted, found = (
        {path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (shapes, params)
    )
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is not a parameter of it" for name in found if name not in wanted]
    wrong += [
        f"{name} is {found[name]}, the config says {shape}"
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    require(
        not wrong,
        f"{workdir}: the checkpoint is not that of the model in config.json, whose sizes were "
        f"changed: {'; '.join(wrong[:4])}{more}; restore config.json, or train a new run with "
        "resume_from",
    )
