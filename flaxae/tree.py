"""Names of a tree's leaves; nested dicts from flat paths."""

from typing import Any


def path_name(path: tuple) -> str:
    """Return a key path of jax.tree_util as "a/b/c"."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)


def nest(flat: dict[tuple, Any]) -> dict[str, Any]:
    """Turn flat paths into nested dicts: {("a", 0): x} -> {"a": {"0": x}}."""
    out: dict[str, Any] = {}
    for path, value in flat.items():
        node = out
        for part in path[:-1]:
            node = node.setdefault(str(part), {})
        node[str(path[-1])] = value
    return out


def lookup(tree: dict[str, Any], path: tuple) -> Any:
    """Return the value at a path in nested dicts."""
    for part in path:
        tree = tree[str(part)]
    return tree
