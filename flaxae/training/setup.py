"""The parts of a run, made once, which the loop, the evaluator and restoring share."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from flaxae.config import Config, to_json
from flaxae.machine import distributed, sharding
from flaxae.storage import paths
from flaxae.storage import workdir as workdir_lib
from flaxae.storage.checkpoint import Checkpointer
from flaxae.storage.lease import Lease
from flaxae.storage.metrics_file import Writer
from flaxae.task import Task
from flaxae.training.feed import Feed
from flaxae.training.frozen import Frozen
from flaxae.training.hparams import make_hparams
from flaxae.training.lanes import lane_configs
from flaxae.training.layout import Layout, make_layout
from flaxae.training.metrics import CompileTime
from flaxae.training.state import Shapes, Shardings, abstract_state, shardings_of


@dataclasses.dataclass
class Setup:
    """The parts of a run.

    Attributes:
        config: the run's config, frozen; with lanes, their base.
        workdir: the run's folder.
        main: whether this process writes.
        lanes: the number of lanes; 0: a single run.
        configs: the config of each lane, or of the single run.
        task: the task of the step and of the evaluation.
        tasks: the tasks of the data: [task], or one per lane if their data sections differ.
        lane_dirs: the folder of each lane; [] for a single run.
        mesh: the devices.
        layout: the model's structure.
        shapes: the state as ShapeDtypeStructs.
        shardings: the state's shardings.
        hparams: the traced values, on the mesh.
        feed: the train batches.
        frozen: parameters that are neither trained nor saved.
        checkpointer: the checkpoints of the workdir.
        lease: the lease of the workdir; None in all processes but 0, or without one.
        writers: the logs, one per lane or one.
        compile_time: seconds of compilation since the setup began.
    """

    config: Config
    workdir: Path
    main: bool
    lanes: int
    configs: list[Config]
    task: Task
    tasks: list[Task]
    lane_dirs: list[Path]
    mesh: Mesh
    layout: Layout
    shapes: Shapes
    shardings: Shardings
    hparams: dict[str, Array]
    feed: Feed
    frozen: Frozen
    checkpointer: Checkpointer
    lease: Lease | None
    writers: list[Writer]
    compile_time: CompileTime

    @property
    def lane_batches(self) -> bool:
        """True if each lane has its own batches."""
        return len(self.tasks) > 1

    def extra(self, lane: int | None = None) -> dict[str, Any]:
        """Return the JSON that a checkpoint of all lanes, or of one, saves with the state."""
        data = self.feed if lane is None else self.feed.sources[lane if self.lane_batches else 0]
        return {"frozen": self.frozen.fingerprint, "data": data.fingerprint}

    def check_lease(self) -> None:
        """Raise TakenOverError if another process trains in the workdir now."""
        _guard(self.lease)()

    def describe(self, start: int) -> str:
        """Return a line that names the task, its size, the mesh, the steps and the workdir.

        Args:
            start: the step that the run starts from.
        """
        params = sum(x.size for x in jax.tree.leaves(self.shapes["params"])) // max(self.lanes, 1)
        mesh = " x ".join(f"{k}={v}" for k, v in self.mesh.shape.items())
        lanes = f", {self.lanes} lanes" if self.lanes else ""
        return (
            f"{type(self.task).__name__}: {params / 1e6:.2f} M trainable parameters{lanes}; mesh "
            f"{mesh} on {jax.devices()[0].device_kind}; steps {start} -> {self.config.steps}; "
            f"workdir {self.workdir}"
        )

    def close(self) -> None:
        """Close the logs, and the checkpoints when all saves are on disk."""
        self.compile_time.close()
        for writer in self.writers:
            writer.close()
        self.checkpointer.close()


def make_setup(
    config: Config,
    workdir: Path,
    lanes: list[dict[str, Any]] | None = None,
    lease: Lease | None = None,
) -> Setup:
    """Make the parts of a run; nothing is restored or trained yet.

    Args:
        config: the run's frozen config (see `workdir.prepare`).
        workdir: the run's folder.
        lanes: overrides of each lane; None: a single run.
        lease: the lease of the workdir, which is checked before each save.

    Raises:
        ConfigError: if the mesh does not fit the devices, the batch does not fit the mesh, or the
            data, lanes or pretrained files are wrong.
    """
    compile_time = CompileTime()
    main, count = distributed.is_main(), 0 if lanes is None else len(lanes)
    task: Task = config.task.make(config)
    configs = lane_configs(config, lanes, task)
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        layout = make_layout(task, config)
        shapes = abstract_state(task, config, mesh, count)
        hparams = make_hparams(task, configs, bool(count))
        hparams = sharding.put(jax.device_get(hparams), sharding.replicated(mesh))
    # Lanes share a batch unless their data sections differ.
    tasks = [task]
    if any(to_json(c.data) != to_json(config.data) for c in configs):
        tasks = [c.task.make(c) for c in configs]
    checkpointer = Checkpointer(workdir, config.save, guard=_guard(lease))
    lane_dirs = [workdir / "lanes" / f"{i:02d}" for i in range(count)]
    folders = lane_dirs or [workdir]
    of_folders = tasks if len(tasks) > 1 else tasks * len(folders)
    if checkpointer.steps():
        _load_assets(of_folders, folders)
    elif main:
        _save_assets(of_folders, folders)
        for folder, lane_config in zip(lane_dirs, configs, strict=bool(count)):
            workdir_lib.write_json(folder / "config.json", to_json(lane_config))
    feed = Feed([task.data("train") for task in tasks], config.steps_per_call)
    sharding.check_batch(feed.batch_spec, mesh, config.accumulate)
    return Setup(
        config=config,
        workdir=workdir,
        main=main,
        lanes=count,
        configs=configs,
        task=task,
        tasks=tasks,
        lane_dirs=lane_dirs,
        mesh=mesh,
        layout=layout,
        shapes=shapes,
        shardings=shardings_of(shapes),
        hparams=hparams,
        feed=feed,
        frozen=Frozen(task, config, mesh, saved=bool(checkpointer.steps())),
        checkpointer=checkpointer,
        lease=lease,
        writers=[Writer(folder, config.log, jax.process_index()) for folder in folders],
        compile_time=compile_time,
    )


def _guard(lease: Lease | None) -> Callable[[], None]:
    return lease.check_now if lease is not None else lambda: None


def _load_assets(tasks: list[Task], folders: list[Path]) -> None:
    """Let a saved run continue with the files that it began with."""
    for task, folder in zip(tasks, folders, strict=True):
        with paths.local_for_reading(folder, paths.NO_ASSETS) as local:
            task.load_assets(str(local))


def _save_assets(tasks: list[Task], folders: list[Path]) -> None:
    """Keep the files that a new run's tasks need."""
    for task, folder in zip(tasks, folders, strict=True):
        with paths.local_for_writing(folder) as local:
            task.save_assets(str(local))
