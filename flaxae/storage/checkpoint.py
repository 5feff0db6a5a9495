"""Saving and restoring states; the only file that knows Orbax.

A workdir has two Orbax managers: `latest` (the newest steps) and `best` (one step, by a metric).
One manager with both policies deletes the newest step when the metric worsens. Neither deletes
anything on its own: an older step is removed here, once the newer one has been read back: its
metadata, that is the arrays' names, shapes and types.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from flaxae.config import Mode, SaveConfig
from flaxae.errors import CheckpointError
from flaxae.machine import distributed
from flaxae.storage import checkpoint_errors as errors
from flaxae.storage import paths
from flaxae.storage.checkpoint_files import steps_on_disk as steps_on_disk
from flaxae.storage.checkpoint_files import superseded, unfinished

__all__ = ["CheckpointError", "Checkpointer", "Restored", "read_arrays"]

BEST_VALUE = "best_value"  # the key in `extra` that remembers the metric of a best checkpoint
HANDLERS = {"state": ocp.StandardCheckpointHandler, "extra": ocp.JsonCheckpointHandler}


class Restored(NamedTuple):
    """The content of a checkpoint: the state, the JSON saved with it, and its step."""

    state: Any
    extra: dict[str, Any]
    step: int


class Checkpointer:
    """Saves and restores the states of one workdir, asynchronously.

    In a run of several processes, all of them must call all methods.

    Args:
        workdir: the run's folder; checkpoints are in its `latest` and `best`.
        save: the number of checkpoints to keep, and which metric is better (`best_mode`).
        create: False opens the workdir for reading only and writes nothing to it.
        guard: called before anything is written or removed; raises an error if that must not be.
    """

    def __init__(
        self,
        workdir: str | Path,
        save: SaveConfig,
        create: bool = True,
        guard: Callable[[], None] = lambda: None,
    ):
        self.workdir = paths.for_checkpoints(workdir)
        self._save, self._create = save, create
        self._may_write = guard
        self._managers: dict[str, ocp.CheckpointManager] = {}
        self._best: tuple[float | None] | None = None  # (value,) once it has been read
        self._unread: dict[str, tuple[int, Any]] = {}  # saved, not read back: step and shapes
        self._failed = False

    def save(self, step: int, state: Any, extra: dict[str, Any], *, wait: bool = False) -> None:
        """Start saving a state; its arrays may be donated as soon as this returns.

        Args:
            step: the state's step, newer than every saved one.
            state: pytree of nested dicts of arrays; empty dicts are kept.
            extra: JSON to save with the state.
            wait: whether to return only when the state is on disk.

        Raises:
            CheckpointError: if this or the previous save failed; earlier checkpoints stay.
        """
        self._write("latest", step, state, extra)
        if wait:
            self.wait()

    def save_best(self, step: int, state: Any, extra: dict[str, Any], value: float) -> bool:
        """Save a state as the best one if `value` is better than the value of the current best.

        Returns:
            True if the state was saved. A value that is not finite is never better.
        """
        old = self._best_value()
        sign = 1 if self._save.best_mode is Mode.MAX else -1
        if not (np.isfinite(value) and (old is None or sign * value > sign * old)):
            return False
        self._write("best", step, state, {**extra, BEST_VALUE: float(value)})
        self._best = (float(value),)
        return True

    def restore(self, abstract_state: Any) -> Restored | None:
        """Restore the newest readable state, or else the best one.

        Checkpoints that are newer than the restored one are renamed `torn_<step>`.

        Args:
            abstract_state: pytree of jax.ShapeDtypeStruct with shardings, on any mesh.

        Returns:
            The checkpoint; None if no step has been saved.

        Raises:
            CheckpointError: if there are checkpoints and none is readable, or none fits the state.
        """
        self.wait()
        if not self.steps() and not steps_on_disk(self.workdir / "best"):
            self._set_aside(after=0)
            return None
        reasons: list[str] = []
        found = self._newest("latest", abstract_state, reasons)
        found = found or self._newest("best", abstract_state, reasons)
        if found is None:
            raise CheckpointError(errors.none_readable(self.workdir, reasons))
        if reasons:
            errors.warn(f"went back to step {found.step}; newer steps are kept as torn_<step>")
        elif not self.steps():
            errors.warn(f"no latest checkpoint: continuing from the best one, step {found.step}")
        self._set_aside(after=found.step)
        return found

    def steps(self) -> list[int]:
        """Return the steps in `latest`, oldest first."""
        return _steps(self._manager("latest"))

    def wait(self) -> None:
        """Wait until all saves are on disk and have been read back.

        Raises:
            CheckpointError: if a save failed, or cannot be read.
        """
        for which in self._managers:
            self._settle(which)

    def close(self) -> None:
        """Wait for saves and free the managers. A failure is raised only once."""
        try:
            if not self._failed:
                self.wait()
        finally:
            managers, self._managers = self._managers, {}
            for which, manager in managers.items():
                with contextlib.suppress(Exception) if self._failed else self._surface(which):
                    manager.close()

    def _manager(self, which: str) -> ocp.CheckpointManager:
        # Made when first needed: a lane's folder is opened twice, once for each manager.
        if which not in self._managers:
            folder = self.workdir / which
            if self._create and jax.process_index() == 0:
                for left in unfinished(folder):
                    paths.rmtree(left)
            distributed.sync("flaxae_open_checkpoints")
            options = ocp.CheckpointManagerOptions(
                create=self._create,
                # If the folder cannot be made, all processes otherwise wait 20 minutes for it.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
                read_only=not self._create,
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    # Two managers that save at the same time otherwise share their barriers.
                    barrier_sync_key_prefix=f"{self.workdir.name}-{which}"
                ),
            )
            handlers = {name: handler() for name, handler in HANDLERS.items()}
            self._managers[which] = ocp.CheckpointManager(
                folder, options=options, item_handlers=handlers
            )
        return self._managers[which]

    def _write(self, which: str, step: int, state: Any, extra: dict[str, Any]) -> None:
        manager = self._manager(which)
        self._settle(which, step)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), extra=ocp.args.JsonSave(extra)
        )
        self._check_guard()
        saved, newest = False, manager.latest_step()
        if newest is None or newest < step:
            with self._surface(which, step):
                # Without force, Orbax asks JAX's preemption sync point with its own numbers.
                saved = manager.save(step, args=args, force=True)
        if not saved:
            raise CheckpointError(
                f"{self.workdir / which}: step {step} was not saved, because it is not newer than "
                f"{newest}; restore before saving, or use a new workdir"
            )
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        self._unread[which] = (step, shapes)

    def _settle(self, which: str, noticed: int | None = None) -> None:
        """Wait for the last save, read it back, and remove the steps that it replaces.

        Args:
            which: "latest" or "best".
            noticed: the step at which a failure is noticed, for its message.

        Raises:
            CheckpointError: if the save failed, or cannot be read back: then no step is removed.
        """
        manager = self._managers[which]
        with self._surface(which, noticed):
            manager.wait_until_finished()
        if which not in self._unread:
            return
        step, shapes = self._unread.pop(which)
        # Process 0 commits a checkpoint after the others have written their parts of it.
        distributed.everywhere(True)
        wrong = errors.unreadable(lambda: _written(self.workdir / which / str(step)), shapes)
        if not distributed.everywhere(not wrong):
            self._failed = True
            others = [s for s in steps_on_disk(self.workdir / which) if s != step]
            raise CheckpointError(
                f"{self.workdir / which}: step {step} was saved, but cannot be read back: "
                f"{wrong or 'another process could not read it'}. Steps {others} stay; fix the "
                "disk or use another workdir, then run the same command"
            )
        old = superseded(which, _steps(manager), self._save)
        if old:
            self._check_guard()
        with self._surface(which, noticed):
            for one in old:
                manager.delete(one)

    def _check_guard(self) -> None:
        try:
            self._may_write()
        except Exception:
            self._failed = True  # what is closed afterwards has no error of its own
            raise

    @contextlib.contextmanager
    def _surface(self, which: str, step: int | None = None) -> Iterator[None]:
        """Turn a failed (asynchronous) save into one CheckpointError."""
        try:
            yield
        except Exception as e:
            self._failed = True
            noticed = f" (noticed at step {step})" if step is not None else ""
            there = steps_on_disk(self.workdir / which)
            raise CheckpointError(
                f"{self.workdir / which}: a checkpoint could not be saved{noticed}: "
                f"{errors.reason(e)}. Steps {there} stay. Free disk space or fix the folder, then "
                "run the same command to continue from there"
            ) from e

    def _best_value(self) -> float | None:
        if self._best is None:
            value = None
            manager = self._manager("best")
            for step in reversed(_steps(manager)):
                args = ocp.args.Composite(extra=ocp.args.JsonRestore())
                with contextlib.suppress(Exception):
                    value = float(manager.restore(step, args=args)["extra"][BEST_VALUE])
                    break
            self._best = (value,)
        return self._best[0]

    def _newest(self, which: str, abstract: Any, reasons: list[str]) -> Restored | None:
        if which not in self._managers and not (self.workdir / which).is_dir():
            return None
        manager = self._manager(which)

        def read(step: int) -> Restored:
            wrong = errors.misfits(_tree(manager.item_metadata(step).get("state")), abstract)
            if not distributed.everywhere(not wrong):
                raise CheckpointError("it does not fit this config's state: " + "; ".join(wrong))
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), extra=ocp.args.JsonRestore()
            )
            found = manager.restore(step, args=args)
            return Restored(found["state"], dict(found["extra"]), step)

        return _first_readable(self.workdir / which, _steps(manager), read, reasons)

    def _set_aside(self, after: int) -> None:
        """Rename checkpoints newer than a step in both managers, which then forget them.

        Orbax otherwise refuses every save up to the newest step that it has seen.
        """
        if self._create and jax.process_index() == 0:
            for which in ("latest", "best"):
                for step in steps_on_disk(self.workdir / which):
                    if step > after:
                        folder = self.workdir / which
                        paths.rename_folder(folder / str(step), folder / f"torn_{step}")
        distributed.sync("flaxae_set_aside")
        for manager in self._managers.values():
            manager.reload()
        self._best = None


def read_arrays(
    workdir: str | Path, which: str = "latest"
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Read the newest readable checkpoint of a workdir without any template; write nothing.

    Args:
        workdir: a run's folder.
        which: "latest" or "best".

    Returns:
        The state as nested dicts of numpy arrays, its extra, and its step.

    Raises:
        CheckpointError: if there is no checkpoint, or none is readable.
    """
    folder = paths.for_checkpoints(workdir) / which
    steps = steps_on_disk(folder)
    if not steps:
        raise CheckpointError(
            f"{folder} has no checkpoint: train the run first, or check the workdir's name"
        )

    def read(step: int) -> Restored:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = _tree(reader.metadata(folder / str(step) / "state"))
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            args = ocp.args.PyTreeRestore(restore_args=as_numpy)
            state = reader.restore(folder / str(step) / "state", args=args)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            extra = reader.restore(folder / str(step) / "extra")
        return Restored(state, dict(extra), step)

    reasons: list[str] = []
    found = _first_readable(folder, steps, read, reasons)
    if found is None:
        raise CheckpointError(errors.none_readable(folder, reasons))
    return found.state, found.extra, found.step


def _first_readable(
    folder: Path, steps: list[int], read: Callable[[int], Restored], reasons: list[str]
) -> Restored | None:
    """Read the newest step that all processes can read; warn of, and note, each that fails."""
    for step in reversed(steps):
        found, reason = None, "another process could not read it"
        try:
            found = read(step)
        except Exception as e:
            reason = errors.reason(e)
        if distributed.everywhere(found is not None):
            return found
        reasons.append(f"{folder.name}/{step}: {reason}")
        errors.warn(f"checkpoint {folder / str(step)} is not readable: {reason}")
    return None


def _written(folder: Path) -> Any:
    """Return the metadata of a checkpoint's arrays.

    A manager does not return that of a checkpoint in a bucket which it helped to write as another
    process than the first: it takes it for unfinished.
    """
    if not paths.committed(folder):
        raise FileNotFoundError(f"{folder} is missing or not complete")
    return _tree(ocp.StandardCheckpointHandler().metadata(epath.Path(folder) / "state"))


def _tree(metadata: Any) -> Any:
    metadata = getattr(metadata, "item_metadata", metadata)
    return getattr(metadata, "tree", metadata)


def _steps(manager: ocp.CheckpointManager) -> list[int]:
    return sorted(manager.all_steps())
