"""Opening a finished (or running) run from its workdir."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from flaxae.config import Config, TaskConfig
from flaxae.errors import ConfigError
from flaxae.machine import sharding
from flaxae.storage import checkpoint, paths
from flaxae.storage import workdir as workdir_lib
from flaxae.task import Task
from flaxae.training.frozen import Frozen
from flaxae.training.state import make_layout


@dataclasses.dataclass
class Loaded:
    """A trained model and what it was trained with."""

    model: Any
    config: Config
    task: Task
    step: int
    workdir: Path
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # what its checkpoint remembers

    def check_data(self) -> None:
        """Raises ConfigError where the data, and so what is held out, are not the run's own."""
        now = self.task.data("train").fingerprint
        if self.extra.get("data", now) != now:
            raise ConfigError(
                f"{self.workdir}: its data have changed since it was trained (fingerprint "
                f"{self.extra['data']}, now {now}): what was held out cannot be told any more. "
                "Restore the files, or the Python, that it was trained with"
            )


def load(
    workdir: str | Path, config_class: type[TaskConfig] | None = None, which: str = "auto"
) -> Loaded:
    """Opens the trained model of a workdir.

    Args:
        workdir: a run's folder.
        config_class: the task's config class, where it is not one of flaxae's own.
        which: "latest", "best", or "auto": the best checkpoint where the run keeps one.

    Returns:
        The model (EMA parameters where the run keeps them), its config, task and step.

    Raises:
        ConfigError, CheckpointError: the workdir is not a run's, or nothing in it is readable.
    """
    workdir = paths.as_path(workdir)
    config = workdir_lib.stored_config(workdir, config_class)
    config.freeze()
    if which == "auto":
        which = "best" if checkpoint.steps_on_disk(workdir / "best") else "latest"
    arrays, extra, step = checkpoint.read_arrays(workdir, which)
    task = config.task.make(config)
    with paths.local_for_reading(workdir, paths.NO_ASSETS) as folder:
        task.load_assets(str(folder))
    mesh = sharding.make_mesh(dataclasses.replace(config.mesh, replica=1, fsdp=1, model=1))
    layout = make_layout(task, config)
    frozen = Frozen(task, config, mesh, saved=True)
    if extra.get("frozen", frozen.fingerprint) != frozen.fingerprint:
        raise ConfigError(f"{workdir}: the frozen part is not the one it was trained with")
    params = jax.tree.map(jax.numpy.asarray, arrays.get("ema") or arrays["params"])
    carry = {"once": {}, "stream": {}} | jax.tree.map(jax.numpy.asarray, arrays.get("carry") or {})
    model = layout.merge(params, carry, frozen.values)
    return Loaded(model, config, task, int(step), workdir, extra)
