"""Stopping a run whose loss or gradient is not finite more often than `max_bad_steps` allows."""

import io
from typing import Any

import jax
import numpy as np

from flaxae.errors import NonFiniteError
from flaxae.training.setup import Setup
from flaxae.tree import path_name


def check_finite(setup: Setup, end: int, bad: np.ndarray) -> None:
    """Stop a run, or mark lanes as failed, after too many steps that were not finite.

    Args:
        setup: the run's parts.
        end: the step after the call.
        bad: (steps_per_call, [lanes]); the number of bad steps so far, after each step of the call.

    Raises:
        NonFiniteError: if the single run, or the last lane, is past `max_bad_steps`. The message
            names the step and the file with its batch.
    """
    limit = setup.config.max_bad_steps
    failed = np.asarray(bad[-1]) > limit
    if setup.lanes:
        for lane in np.flatnonzero(failed):
            marker = setup.lane_dirs[lane] / "FAILED"
            if setup.main and not marker.exists():
                marker.write_text(f"loss or gradient not finite by step {end}\n")
        if not failed.all():
            return
    elif not failed:
        return
    calls = np.asarray(bad).reshape(len(bad), -1).min(axis=1)  # (steps_per_call,)
    step = end - len(bad) + int(np.argmax(calls > limit))
    name = setup.workdir / f"bad_batch_{step}.npz"
    if setup.main:
        leaves = jax.tree_util.tree_leaves_with_path(setup.feed.sources[0].batch(step))
        file = io.BytesIO()
        arrays: dict[str, Any] = {path_name(p).replace("/", "."): x for p, x in leaves}
        np.savez(file, **arrays)
        name.write_bytes(file.getvalue())
    setup.checkpointer.wait()
    raise NonFiniteError(
        f"step {step}: loss or gradient is not finite ({int(np.max(bad[-1]))} bad steps, "
        f"max_bad_steps={limit}). Its batch, train batch({step}), is in {name}. The last good "
        f"checkpoint, step {max(setup.checkpointer.steps(), default=0)}, stays in "
        f"{setup.workdir}: lower optim.lr in a new workdir, or raise max_bad_steps to skip "
        "such steps."
    )
