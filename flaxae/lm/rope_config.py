"""Rotary positions in config.json, as transformers 4 and 5 and others write them."""

from typing import Any

from flaxae.errors import ConfigError, require

DEFAULT = "default"
# Keys that each kind of scaling reads; those of other kinds contradict it.
_READ = {
    DEFAULT: (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned")
_OUTER = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")


def rope_parameters(raw: dict[str, Any]) -> dict[str, Any]:
    """Return rope_theta, rope_type and its parameters.

    Args:
        raw: contents of config.json.

    Raises:
        ConfigError: if values contradict each other, or a scaling has no type.
    """
    found: dict[str, Any] = {}
    for field in ("rope_scaling", "rope_parameters"):
        for name, value in (raw.get(field) or {}).items():
            if value is None:
                continue
            if isinstance(value, dict):
                raise ConfigError(f"{field}: {name} has parameters of its own: not supported")
            _set(found, "rope_type" if name == "type" else name, value, field)
    kind = found.get("rope_type")
    more = [name for name in found if name not in _COMMON]
    if kind is None and more and not _neutral(found, more):
        raise ConfigError(
            f"rope_scaling: {more[0]}={found[more[0]]!r}, but no rope_type: add it, such as "
            '"rope_type": "linear"'
        )
    found["rope_type"] = kind = DEFAULT if kind is None else kind
    extra = [name for name in more if name not in _READ.get(kind, more)]
    require(
        _neutral(found, extra),
        f"rope_scaling: {', '.join(f'{n}={found[n]!r}' for n in extra)} and rope_type={kind!r}, "
        "which does not use it: correct one of them",
    )
    for name in _OUTER if kind == "llama3" else _OUTER[:2]:
        if raw.get(name) is not None:
            _set(found, name, raw[name], "config.json")
    found.setdefault("rope_theta", 10000.0)
    return found


def _set(found: dict[str, Any], name: str, value: Any, field: str) -> None:
    old = found.setdefault(name, value)
    require(old == value, f"{field}: {name}={value!r}, but elsewhere in config.json {old!r}")


def _neutral(found: dict[str, Any], names: list[str]) -> bool:
    """Check for keys that change nothing: a factor of 1, the original length."""
    return all(
        name == "original_max_position_embeddings" or (name == "factor" and found[name] == 1)
        for name in names
    )
