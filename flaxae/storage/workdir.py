"""A run's folder: its config, the versions and the commit it was made with."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from flaxae.config import Config, copy_config, differences, from_json, to_json
from flaxae.errors import ConfigError
from flaxae.storage import paths

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "transformers")


def write_json(path: Path, data: Any) -> None:
    """Writes JSON whole or not at all."""
    paths.write_text(path, json.dumps(data, indent=2) + "\n")


def read_config(workdir: str | Path) -> dict[str, Any]:
    """The JSON of a workdir's config. Raises ConfigError where there is none, or it is not JSON."""
    path = paths.as_path(workdir) / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{workdir} is no run's workdir: it has no config.json") from None
    except ValueError as e:
        raise ConfigError(f"{path} is not JSON ({e}); restore it, or use a new workdir") from None


def versions() -> dict[str, str]:
    """Python, packages and the commit that this process runs."""
    out = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = ""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip
        out["commit"] = commit.stdout.strip() if commit.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        out["commit"] = ""
    # Where the code was sent without its history, as to a TPU, its sender says what it is.
    out["commit"] = out["commit"] or os.environ.get("FLAXAE_COMMIT", "")
    return out


def resolve(config: Config, stored: dict[str, Any] | None) -> Config:
    """A copy whose schedule horizon is fixed: extending a run never moves its schedule."""
    config = copy_config(config)
    if not config.optim.decay_steps:
        config.optim.decay_steps = stored["optim"]["decay_steps"] if stored else config.steps
    return config


def prepare(
    config: Config, workdir: Path, lanes: list[dict[str, Any]] | None, main: bool
) -> Config:
    """Makes the workdir, or checks that it is this config's.

    Args:
        config: the run's config; it is not changed.
        workdir: the run's folder.
        lanes: overrides of each lane, None for a single run.
        main: whether this process writes.

    Returns:
        The frozen config to run with.

    Raises:
        ConfigError: the workdir belongs to another config (names the fields that differ).
    """
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"workdir {workdir} is a file; name a folder")
    stored = read_config(workdir) if (workdir / "config.json").exists() else None
    if stored is None and paths.children(workdir / "latest"):
        raise ConfigError(f"{workdir} has checkpoints but no config.json; use a new workdir")
    if stored is not None and not _begun(workdir):
        stored = None  # a start that failed, on its data say, claims nothing
    config = resolve(config, stored)
    config.freeze()
    new = to_json(config) | ({"lanes": lanes} if lanes is not None else {})
    if stored is not None:
        # A field that the run's flaxae did not have yet is at its default, which changes nothing.
        defaults = to_json(Config(task=type(config.task)()))
        changed = differences(_merged(defaults, stored), new)
        if changed:
            lines = "\n  ".join(changed)
            raise ConfigError(
                f"{workdir} holds a run of another config:\n  {lines}\n"
                "Give the same values to go on, or another --workdir "
                "(with --config.resume_from to start from its parameters)."
            )
    if main:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(workdir / "config.json", new)
            if stored is None:
                write_json(workdir / "versions.json", versions())
        except Exception as e:
            if not (paths.is_remote(workdir) or isinstance(e, OSError)):
                raise
            raise ConfigError(f"cannot write into workdir {workdir}: {paths.why(e)}") from None
    return config


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over`, and from `under` what it lacks, at every depth."""
    out = {**under, **over}
    for name in under.keys() & over.keys():
        if isinstance(under[name], dict) and isinstance(over[name], dict):
            out[name] = _merged(under[name], over[name])
    return out


def _begun(workdir: Path) -> bool:
    """Whether anything was saved or logged there."""
    folders = (workdir, *paths.children(workdir / "lanes"))
    logs = [folder / "metrics.jsonl" for folder in folders]
    return bool(paths.children(workdir / "latest")) or any(
        p.exists() and p.stat().st_size for p in logs
    )


def stored_config(workdir: str | Path, config_class: Any = None) -> Config:
    """The config of a workdir (see `config.from_json`)."""
    data = read_config(workdir)
    data.pop("lanes", None)
    return from_json(data, config_class)
