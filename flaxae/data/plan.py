"""What a batch of texts will look like, before the texts are there."""

import jax
import numpy as np

from flaxae.data.config import TextDataConfig


def planned_spec(config: TextDataConfig) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """The shapes of a train batch, where the config alone fixes them.

    With `bucket_edges` the texts decide how many parts of a batch each length has; here each has
    one, and the longest the rest: no batch needs more memory.

    Returns:
        As `TextSource.batch_spec`; {} where the lengths come from the texts.
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
