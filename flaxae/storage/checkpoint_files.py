"""The folders of checkpoints: which are complete, which are left over, and which are kept."""

from pathlib import Path

from flaxae.config import SaveConfig
from flaxae.storage import paths


def steps_on_disk(folder: Path) -> list[int]:
    """Return the steps in a workdir's `latest` or `best`, oldest first; it need not exist."""
    found = (p for p in paths.children(folder) if p.name.isdigit())
    return sorted(int(p.name) for p in found if paths.committed(p))


def unfinished(folder: Path) -> list[Path]:
    """Return the remains of unfinished saves; in a bucket they already have their final names."""
    return [
        p
        for p in paths.children(folder)
        if ".orbax-checkpoint-tmp" in p.name or (p.name.isdigit() and not paths.committed(p))
    ]


def superseded(which: str, steps: list[int], save: SaveConfig) -> list[int]:
    """Return the steps that newer ones replace.

    Args:
        which: "latest" or "best".
        steps: the steps in that folder, oldest first.
        save: the number of checkpoints to keep.
    """
    if which == "best":
        return steps[:-1]
    return [s for s in steps[: -save.keep] if not save.keep_every or s % save.keep_every]
