"""Names of tensors that do not fit: both kinds in one message, and the prefix that they lack."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_SHOWN = 4  # problems of a kind that a message names
_COMPARED = 100  # names that are compared with those of the model
_WRAPPER = re.compile(r"(^|\.)_orig_mod(?=\.)")  # of torch.compile
_PARALLEL = "module."  # of DataParallel, on all names


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Return name -> name without the parts that torch.compile and DataParallel add.

    Names stay as they are where two would become one.
    """
    names = list(names)
    out = {name: _WRAPPER.sub("", name).removeprefix(".") for name in names}
    while out and all(new.startswith(_PARALLEL) for new in out.values()):
        out = {name: new.removeprefix(_PARALLEL) for name, new in out.items()}
    return out if len(set(out.values())) == len(names) else {name: name for name in names}


def problems(
    missing: Sequence[str], unexpected: Sequence[str], others: Sequence[str] = ()
) -> list[str]:
    """Return the first problems of each kind, so that no kind hides another.

    Args:
        missing: sentences about tensors that the files lack.
        unexpected: sentences about tensors that only the files have.
        others: sentences about shapes and the like.
    """
    out = []
    for kind, what in ((missing, "missing"), (unexpected, "unexpected"), (others, "wrong")):
        out += kind[:_SHOWN]
        out += [f"and {len(kind) - _SHOWN} more are {what}"] if len(kind) > _SHOWN else []
    return out


def hint(found: Iterable[str], wanted: Iterable[str]) -> str:
    """Return a sentence about a prefix or part by which most names differ, "" if there is none.

    Args:
        found: names that only the file has.
        wanted: names that it lacks.
    """
    found, wanted = sorted(found), set(wanted)
    ends: dict[str, list[str]] = {}
    for name in wanted:
        ends.setdefault(name.rpartition(".")[2], []).append(name)
    ways: Counter[str] = Counter()
    for name in found[:_COMPARED]:
        others = ends.get(name.rpartition(".")[2], ())
        ways.update({way for other in others if (way := _way(name, other))})
    if not ways:
        return ""
    way, count = max(ways.items(), key=lambda item: (item[1], item[0]))
    return way if 2 * count >= min(len(found), len(wanted), _COMPARED) else ""


def _way(name: str, other: str) -> str:
    """Return how a name of the file becomes another, if it differs by neighbouring parts only."""
    if other.endswith(f".{name}"):
        return f"names lack the prefix {other.removesuffix(name)!r}: save the tensors again with it"
    if name.endswith(f".{other}"):
        return (
            f"names have the prefix {name.removesuffix(other)!r}: save the tensors again without it"
        )
    parts, wanted = name.split("."), other.split(".")
    extra = len(parts) - len(wanted)
    for i in range(len(wanted)) if extra > 0 else ():
        if parts[:i] + parts[i + extra :] == wanted:
            more = ".".join(parts[i : i + extra])
            return f"names contain {more!r}: save the tensors again without it"
    first, second = parts[0], wanted[0]
    if len(parts) == len(wanted) and parts[1:] == wanted[1:]:
        return f"names begin with {first!r}, not {second!r}: save the tensors again with that"
    return ""
