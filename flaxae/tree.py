"""Names of a tree's leaves."""


def path_name(path: tuple) -> str:
    """A key path of jax.tree_util as "a/b/c"."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)
