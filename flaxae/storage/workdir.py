"""A run's folder: its config, and the versions and the commit that it was made with."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flaxae.config import Config, copy_config, differences, from_json, to_json, without_moved_fields
from flaxae.config.fields import with_home
from flaxae.config.files import MODULE
from flaxae.config.horizon import check_horizon, horizon, stored_horizon
from flaxae.config.serialize import check_sections
from flaxae.errors import ConfigError, UserError, require
from flaxae.foreign_json import check_fields, parse_object
from flaxae.storage import paths
from flaxae.storage.lease import Lease

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "transformers")
# Files that no run writes into its workdir.
MODEL_FILES = (
    "adapter_model.bin",
    "adapter_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def write_json(path: Path, data: Any) -> None:
    """Write JSON whole or not at all."""
    paths.write_text(path, json.dumps(data, indent=2) + "\n")


def read_config(workdir: str | Path) -> dict[str, Any]:
    """Return the JSON of a workdir's config.

    Raises:
        ConfigError: if it is missing, not JSON, or not that of a run.
    """
    path = paths.as_path(workdir) / "config.json"
    try:
        raw = parse_object(path.read_text(encoding="utf-8"), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{workdir} is not a run's workdir: it has no config.json") from None
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {paths.reason(e)}") from None
    except (ValueError, ConfigError) as e:
        raise ConfigError(
            f"{path} cannot be read ({e}); restore it, or use a new workdir"
        ) from None
    kind = raw.get("model_type")
    require(
        isinstance(raw.get("task"), dict),
        f"{workdir} is not a run's workdir: its config.json "
        + (f"is that of a pretrained model ({kind})" if kind else "names no task"),
    )
    return raw


def is_workdir(folder: str | Path) -> bool:
    """Return True if a folder's config.json is a run's, and not that of a pretrained model."""
    try:
        return bool(read_config(folder))
    except ConfigError:
        return False


def versions() -> dict[str, str]:
    """Return the versions of Python and packages, and the commit, that this process runs."""
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
            capture_output=True,
            text=True,
            timeout=10,
        )
        out["commit"] = commit.stdout.strip() if commit.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        out["commit"] = ""
    # Code that was sent without its history, as to a TPU, gets the commit from its sender.
    out["commit"] = out["commit"] or os.environ.get("FLAXAE_COMMIT", "")
    return out


def resolve(config: Config, stored: dict[str, Any] | None) -> Config:
    """Return a copy whose schedule horizon is fixed, so that extending a run never moves it."""
    config = copy_config(config)
    if not config.optim.decay_steps:
        config.optim.decay_steps = stored_horizon(stored) or config.steps
    return config


def claim(config: Config, workdir: Path, lanes: list[dict[str, Any]] | None, lease: Lease) -> None:
    """Take the lease of a run's folder, which is created.

    Args:
        config: the run's config; it is not changed.
        workdir: the run's folder.
        lanes: overrides of each lane; None: a single run.
        lease: its lease.

    Raises:
        ConfigError: if the config is wrong, another process trains there, or the folder cannot be
            written.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"workdir {workdir} is a file; name a folder")
    _resolved(config, workdir, lanes)

    def same() -> bool | None:
        if not (workdir / "config.json").exists():
            return None
        stored = read_config(workdir)
        return not _changes(config, stored, _resolved(config, workdir, lanes)[1])

    with _writing(workdir):
        lease.take(same)


def prepare(
    config: Config, workdir: Path, lanes: list[dict[str, Any]] | None, main: bool
) -> Config:
    """Make the workdir, or check that it belongs to this config.

    Args:
        config: the run's config; it is not changed.
        workdir: the run's folder.
        lanes: overrides of each lane; None: a single run.
        main: whether this process writes.

    Returns:
        The frozen config to run with.

    Raises:
        ConfigError: if the workdir belongs to another config (names the fields that differ), or
            cannot be written.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"workdir {workdir} is a file; name a folder")
    config, new, stored = _resolved(config, workdir, lanes)
    if stored is not None:
        changed = _changes(config, stored, new)
        if changed:
            lines = "\n  ".join(changed)
            raise ConfigError(
                f"{workdir} contains a run of another config:\n  {lines}\n"
                "Give the same values to continue it, or another --workdir "
                "(with --config.resume_from to start from its parameters)."
                f"{_class_hint(stored, new)}"
            )
    check_horizon(config, stored, workdir)
    if main:
        if stored is not None and (old := stored_horizon(stored)) != horizon(config):
            print(
                f"the learning-rate schedule of {workdir} now ends at step {horizon(config)}, not "
                f"{old}: the learning rate changes from here on"
            )
        with _writing(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(workdir / "config.json", new)
            if stored is None:
                write_json(workdir / "versions.json", versions())
    return config


def _check_no_model(workdir: Path) -> None:
    """Raise ConfigError for a folder of a model or an adapter, whose files a run would replace."""
    found = [name for name in MODEL_FILES if (workdir / name).exists()]
    require(
        not found,
        f"workdir {workdir} contains {' and '.join(found)}: it is the folder of a model or an "
        "adapter, whose config a run would replace; use a new workdir",
    )


def _resolved(
    config: Config, workdir: Path, lanes: list[dict[str, Any]] | None
) -> tuple[Config, dict[str, Any], dict[str, Any] | None]:
    """Return the frozen config, its JSON, and the JSON of the run that the folder contains."""
    stored = read_config(workdir) if (workdir / "config.json").exists() else None
    if stored is None and paths.children(workdir / "latest"):
        raise ConfigError(
            f"{workdir} has checkpoints but no config.json; restore it, or use a new workdir"
        )
    if stored is not None and not _begun(workdir):
        stored = None  # a start that failed, for example on its data, claims no workdir
    if stored is None:
        _check_no_model(workdir)
    else:
        check_sections(stored, workdir / "config.json")
        check_fields(stored, {"steps": int}, f"{workdir / 'config.json'}: ")
    config = resolve(config, stored)
    config.freeze()
    return config, to_json(config) | ({"lanes": lanes} if lanes is not None else {}), stored


def _changes(config: Config, stored: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the fields that differ between a run's config and the present one."""
    # A field that flaxae did not have yet when the run began is at its default.
    defaults = to_json(Config(task=type(config.task)()))
    stored = without_moved_fields(stored, config.task.data_class)
    return differences(with_home(_merged(defaults, stored)), new)


@contextlib.contextmanager
def _writing(workdir: Path) -> Iterator[None]:
    """Report a folder that cannot be written as a mistake."""
    try:
        yield
    except Exception as e:
        if isinstance(e, UserError) or not (paths.is_remote(workdir) or isinstance(e, OSError)):
            raise
        raise ConfigError(f"cannot write into workdir {workdir}: {paths.reason(e)}") from None


def _class_hint(stored: dict[str, Any], new: dict[str, Any]) -> str:
    """Return how to continue a run whose task class has only been imported in another way."""
    old, now = (str(data["task"].get("class", "")).partition(":") for data in (stored, new))
    if old[2] != now[2] or old[0] == now[0] or MODULE not in (old[0], now[0]):
        return ""
    if old[0] == MODULE:
        return (
            "\nIts class was defined by the config file of a command: continue the run with that "
            'command, or in Python with the config flaxae.config.flags.load_config("FILE").'
        )
    return (
        f"\nIts class was imported from {old[0]}: continue the run in Python as before, or with a "
        f"config file that imports {old[2]} from there."
    )


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `over`, completed by the keys of `under` that it lacks, at every depth."""
    out = {**under, **over}
    for name in under.keys() & over.keys():
        if isinstance(under[name], dict) and isinstance(over[name], dict):
            out[name] = _merged(under[name], over[name])
    return out


def _begun(workdir: Path) -> bool:
    """Return True if anything was saved or logged there."""
    folders = (workdir, *paths.children(workdir / "lanes"))
    logs = [folder / "metrics.jsonl" for folder in folders]
    return bool(paths.children(workdir / "latest")) or any(
        p.exists() and p.stat().st_size for p in logs
    )


def stored_config(workdir: str | Path, config_class: Any = None) -> Config:
    """Return the config of a workdir (see `config.from_json`)."""
    data = read_config(workdir)
    data.pop("lanes", None)
    return from_json(data, config_class, workdir)
