"""Directories in Hugging Face's layout, local or on the Hub, and their JSON files."""

import difflib
import re
from pathlib import Path
from typing import Any

from flaxae.config.locate import user_path
from flaxae.errors import HUB_ACCESS, ConfigError, causes, is_network, is_refused, require
from flaxae.foreign_json import read_json as read_json
from flaxae.weights.hf import quantised

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_HUB_ID = re.compile(r"^[\w][\w.-]*(/[\w][\w.-]*)?$")


def resolve(source: str | Path) -> Path:
    """Return the directory of a local path or of a Hub id, which is downloaded.

    Args:
        source: a directory, or a Hub id (owner/name).

    Raises:
        ConfigError: if there is no such directory, or the download fails.
    """
    path, name = user_path(source), str(source)  # "./t5" is a path, "t5" may be a Hub id
    if path.is_dir():
        return path
    missing = f"{name}: no such directory{_similar(path)}"
    require(
        bool(_HUB_ID.match(name)) and not path.exists(),
        f"{missing}, and not a Hub id (owner/name)",
    )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS)))
    except Exception as error:  # exceptions of the Hub client and of the network
        reason = causes(error, whole=not is_network(error))
        way_out = f"on a machine with a network run `hf download {name} --local-dir DIR`, then "
        way_out = HUB_ACCESS if is_refused(error) else f"{way_out}name DIR"
        raise ConfigError(
            f"{missing}, and downloading it from the Hub failed ({reason}); {way_out}"
        ) from None


def _similar(path: Path) -> str:
    """Return a hint that names folders beside a missing one with similar names; "" for none."""
    if not path.parent.is_dir():
        return ""
    names = sorted(p.name for p in path.parent.iterdir() if p.is_dir())
    near = [n for n in names if path.name and n.startswith(path.name)]
    near += [n for n in difflib.get_close_matches(path.name, names) if n not in near]
    return f" (there is {' and '.join(str(path.parent / n) for n in near[:3])})" if near else ""


def read_model_config(directory: Path) -> dict[str, Any]:
    """Return the contents of a pretrained model's config.json.

    Raises:
        ConfigError: if `read_config` raises one, or it is the config of a run.
    """
    raw = read_config(directory)
    require(
        not isinstance(raw.get("task"), dict),
        f"{directory}: a run, or a model that flaxae saved, and not a pretrained model; parameters "
        "of a run are taken by --config.resume_from, its adapter by --adapter",
    )
    return raw


def read_config(directory: Path) -> dict[str, Any]:
    """Return the contents of a directory's config.json.

    Raises:
        ConfigError: if there is no config.json, it is not a JSON object, or it is the config of a
            quantised model.
    """
    path = directory / CONFIG
    adapter = (directory / "adapter_config.json").is_file()
    hint = ": it is an adapter, which is loaded onto its base model" if adapter else ""
    require(path.is_file(), f"{directory}: no {CONFIG}{hint}")
    raw = read_json(path)
    quantised.check_config(directory, raw)
    return raw
