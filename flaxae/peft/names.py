"""The modules of a model by Hugging Face's names.

A model's `params.py`, beside its `modeling.py`, has a `table(config)` of what lies where; this is
where the names come from. A module without one is called by its own path, a stack's layers by
number ("blocks.0.attention.q").
"""

import dataclasses
import importlib
from typing import Any

from flax import nnx

from flaxae.nn.linear import Linear

Path = tuple[Any, ...]
AXES = {"kernel": 2, "table": 2, "scale": 1}  # of one layer's parameters


@dataclasses.dataclass(frozen=True)
class Site:
    """A module that holds parameters itself.

    Attributes:
        path: from the model's root.
        names: its name elsewhere: one, or one a layer.
        stacked: its variables have a leading layer axis.
        linear: it is a Linear.
        biased: it has a bias.
        norm: it is a norm.
    """

    path: Path
    names: tuple[str, ...]
    stacked: bool
    linear: bool
    biased: bool
    norm: bool


def find(model: nnx.Module, path: Path) -> Any:
    """The module at a path."""
    for part in path:
        model = model[part] if isinstance(model, (nnx.Dict, nnx.List)) else getattr(model, part)
    return model


def params_module(model: nnx.Module) -> Any:
    """The `params.py` beside a model's `modeling.py`, or None."""
    package, _, file = type(model).__module__.rpartition(".")
    if file != "modeling" or not hasattr(model, "config"):
        return None
    try:
        module = importlib.import_module(f"{package}.params")
    except ModuleNotFoundError:
        return None
    # A family's modeling.py holds several modules; only the language model itself has a table.
    whole = hasattr(module, "table") and hasattr(module, "config_to_hf")
    return module if whole and _fits(module.table(model.config), model) else None  # pyright: ignore


def _fits(table: Any, model: nnx.Module) -> bool:
    return all(hasattr(model, path.partition("/")[0]) for path in table.weights)


def model_type(model: nnx.Module) -> str:
    """Hugging Face's model_type of a model, "" where it has none."""
    module = params_module(model)
    return module.config_to_hf(model.config)["model_type"] if module else ""  # pyright: ignore


def sites(model: nnx.Module) -> list[Site]:
    """All modules that hold parameters, in the order of their paths."""
    tables: dict[Path, dict[str, tuple[str, ...]]] = {}
    out = []
    modules = sorted(nnx.iter_modules(model), key=lambda item: tuple(map(str, item[0])))
    for path, module in modules:
        found = params_module(module)
        if found is not None:
            tables[path] = _module_names(found.table(module.config))  # pyright: ignore
    for path, module in modules:
        if "adapters" in path or not _own_params(module):
            continue
        stacked = _is_stacked(module)
        own = vars(module)
        out.append(
            Site(
                path=path,
                names=_names_of(model, path, tables, stacked),
                stacked=stacked,
                linear=isinstance(module, Linear),
                biased=isinstance(own.get("bias"), nnx.Param),
                norm=isinstance(own.get("scale"), nnx.Param),
            )
        )
    return out


def _own_params(module: nnx.Module) -> list[str]:
    return [name for name, x in vars(module).items() if isinstance(x, nnx.Param)]


def _is_stacked(module: nnx.Module) -> bool:
    """Whether its variables have one axis more than their kind has."""
    return any(vars(module)[x].ndim > n for x, n in AXES.items() if x in vars(module))


def _module_names(table: Any) -> dict[str, tuple[str, ...]]:
    """{our module's path: its names}, from the weights' names."""
    out = {}
    for path, weight in table.weights.items():
        module = path.rpartition("/")[0]
        out[module] = tuple(name.rpartition(".")[0] for name in weight.names)
    return out


def _names_of(
    model: nnx.Module, path: Path, tables: dict[Path, Any], stacked: bool
) -> tuple[str, ...]:
    for end in range(len(path), -1, -1):
        table = tables.get(path[:end])
        key = "/".join(map(str, path[end:]))
        if table is not None and key in table:
            prefix = ".".join(map(str, path[:end]))
            return tuple(f"{prefix}.{n}" if prefix else n for n in table[key])
    parts = [str(part) for part in path]
    if not stacked:
        return (".".join(parts),)
    layers = num_layers(model, path)
    at = parts.index("blocks") + 1 if "blocks" in parts else len(parts)
    return tuple(".".join([*parts[:at], str(i), *parts[at:]]) for i in range(layers))


def num_layers(model: nnx.Module, path: Path) -> int:
    module = find(model, path)
    return vars(module)[_own_params(module)[0]].shape[0]
