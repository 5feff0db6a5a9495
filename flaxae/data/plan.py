"""Shapes of batches of texts before the texts are read."""

import jax
import numpy as np

from flaxae.data.config import TextDataConfig


def planned_spec(config: TextDataConfig) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Return the shapes of a train batch if the config alone determines them.

    With `bucket_edges` the texts decide how many parts of a batch each length has. Here each length
    has one part and the longest has the rest, so that no batch needs more memory.

    Args:
        config: the data section.

    Returns:
        Shapes as in `TextSource.batch_spec`; {} if the lengths depend on the texts.
    """
    edges = config.bucket_edges or ((config.max_length,) if config.num_buckets == 1 else ())
    if not edges:
        return {}
    part = config.batch_size // config.num_buckets
    rows = dict.fromkeys(edges, part)
    rows[edges[-1]] += part * (config.num_buckets - len(edges))
    return {
        f"{edge:03d}": {
            "ids": jax.ShapeDtypeStruct((n, edge), np.int32),
            "weight": jax.ShapeDtypeStruct((n,), np.float32),
        }
        for edge, n in rows.items()
    }
