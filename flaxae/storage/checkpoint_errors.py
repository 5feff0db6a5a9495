"""Messages about checkpoints that cannot be read or written."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxae.errors import CheckpointError


def misfits(there: Any, wanted: Any) -> list[str]:
    """Return the differences of two trees in names, shapes and dtypes, up to six lines."""

    def flat(tree: Any) -> dict[str, str]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        name = jax.tree_util.keystr
        return {
            name(p, simple=True, separator="/"): f"{tuple(x.shape)} {np.dtype(x.dtype)}"
            for p, x in leaves
        }

    if there is None:
        return ["it has no state"]
    there, wanted = flat(there), flat(wanted)
    lines = [f"{name} is missing" for name in wanted if name not in there]
    lines += [f"{name} is unknown here" for name in there if name not in wanted]
    for name in there.keys() & wanted.keys():
        if there[name] != wanted[name]:
            lines.append(f"{name} is {there[name]} there and {wanted[name]} here")
    lines.sort()
    return lines if len(lines) <= 6 else [*lines[:5], f"and {len(lines) - 5} more"]


def unreadable(read: Callable[[], Any], wanted: Any) -> str:
    """Return why a tree of metadata cannot be read, or differs from the wanted one; "" if it fits.

    Args:
        read: returns the tree of a checkpoint's metadata.
        wanted: pytree of arrays' shapes and dtypes.
    """
    try:
        return "; ".join(misfits(read(), wanted))
    except Exception as e:
        return reason(e)


def reason(e: Exception) -> str:
    """Return the reason of an error in up to 300 characters."""
    text = " ".join(str(e).split("[tensorstore_spec")[0].split())
    text = text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"
    return text if isinstance(e, CheckpointError) else f"{type(e).__name__}: {text}"


def none_readable(folder: Path, reasons: list[str]) -> str:
    """Return the message for a folder whose checkpoints are all unreadable."""
    return (
        f"{folder} has checkpoints, but none is readable: {'; '.join(reasons)}. Put back a good "
        "copy, use the config that they were made with, or start a new workdir"
    )


def warn(message: str) -> None:
    """Print a warning from process 0."""
    if jax.process_index() == 0:
        print(f"warning: {message}", file=sys.stderr, flush=True)
