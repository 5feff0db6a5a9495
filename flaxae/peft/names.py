"""The modules of a model by Hugging Face's names.

The names come from the `table(config)` in `params.py`, in the same package as the model's
`modeling.py`. A module without a table has its own path as its name, with the numbers of a stack's
layers ("blocks.0.attention.q").
"""

import dataclasses
import importlib
from typing import Any

from flax import nnx

from flaxae.nn.linear import Linear
from flaxae.weights.hf import Table

Path = tuple[Any, ...]
HEAD = "lm_head"
AXES = {"kernel": 2, "table": 2, "scale": 1}  # number of axes of one layer's parameters


@dataclasses.dataclass(frozen=True)
class Site:
    """A module that has parameters itself, not only in its children.

    Attributes:
        path: path from the model's root.
        names: Hugging Face's names of the module: one, or one per layer.
        stacked: its variables have a leading layer axis.
        linear: it is a Linear.
        biased: it has a bias.
        norm: it is a norm.
        tied: it is the head that is tied to the embedding at this path.
    """

    path: Path
    names: tuple[str, ...]
    stacked: bool
    linear: bool
    biased: bool
    norm: bool
    tied: bool = False


def find(model: nnx.Module, path: Path) -> Any:
    """Return the module at a path."""
    for part in path:
        model = model[part] if isinstance(model, (nnx.Dict, nnx.List)) else getattr(model, part)
    return model


def params_module(model: nnx.Module) -> Any:
    """Return the `params.py` in the package of a model's `modeling.py`, or None."""
    package, _, file = type(model).__module__.rpartition(".")
    config: Any = getattr(model, "config", None)
    if file != "modeling" or config is None:
        return None
    try:
        module = importlib.import_module(f"{package}.params")
    except ModuleNotFoundError:
        return None
    # A modeling.py defines several modules; only the language model itself has a table.
    whole = hasattr(module, "table") and hasattr(module, "config_to_hf")
    return module if whole and _fits(module.table(config), model) else None


def _fits(table: Table, model: nnx.Module) -> bool:
    """Check that the model has the modules of a table."""
    return all(hasattr(model, path.partition("/")[0]) for path in table.weights)


def model_type(model: nnx.Module) -> str:
    """Return Hugging Face's model_type of a model, "" if it has none."""
    module, config = params_module(model), getattr(model, "config", None)
    return module.config_to_hf(config)["model_type"] if module else ""


def sites(model: nnx.Module) -> list[Site]:
    """Return all modules that have parameters themselves, sorted by path."""
    tables: dict[Path, dict[str, tuple[str, ...]]] = {}
    heads: dict[Path, Path] = {}  # of an embedding with a tied head -> of the model that owns both
    out = []
    modules = sorted(nnx.iter_modules(model), key=lambda item: tuple(map(str, item[0])))
    for path, module in modules:
        found = params_module(module)
        if found is not None:
            table = found.table(getattr(module, "config", None))
            tables[path] = _module_names(table)
            heads |= {(*path, *inner): path for inner in _tied_embeddings(table)}
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
        if path in heads:
            name = ".".join([*map(str, heads[path]), HEAD])
            out.append(Site(path, (name,), False, linear=True, biased=False, norm=False, tied=True))
    return out


def _tied_embeddings(table: Table) -> list[Path]:
    """Return the paths of embeddings whose table is also the head's kernel."""
    tied = [p for p, weight in table.weights.items() if f"{HEAD}.weight" in weight.aliases]
    return [tuple(path.split("/")[:-1]) for path in tied]


def _own_params(module: nnx.Module) -> list[str]:
    return [name for name, x in vars(module).items() if isinstance(x, nnx.Param)]


def _is_stacked(module: nnx.Module) -> bool:
    """Check for variables with one axis more than their kind has."""
    return any(vars(module)[x].ndim > n for x, n in AXES.items() if x in vars(module))


def _module_names(table: Table) -> dict[str, tuple[str, ...]]:
    """Return {our module's path: its names}, from the names of tensors."""
    out = {}
    for path, weight in table.weights.items():
        module = path.rpartition("/")[0]
        out[module] = tuple(name.rpartition(".")[0] for name in weight.names)
    return out


def _names_of(
    model: nnx.Module, path: Path, tables: dict[Path, dict[str, tuple[str, ...]]], stacked: bool
) -> tuple[str, ...]:
    """Return the names of a module, from the innermost table that contains it."""
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
    """Return the number of layers of a stacked module."""
    module = find(model, path)
    return vars(module)[_own_params(module)[0]].shape[0]
