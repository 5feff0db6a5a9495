"""The cache of compiled programs on disk."""

from pathlib import Path
from typing import Any


def keep_programs(folder: str | Path = ".cache/jax") -> None:
    """Keep programs that compile for more than 0.5 s, for other processes and later starts.

    Args:
        folder: the cache, unless JAX_COMPILATION_CACHE_DIR or jax's configuration names one.
    """
    import jax

    config: Any = jax.config
    if not config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
