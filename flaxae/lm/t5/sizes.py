"""The sizes of the published T5s.

Raffel et al. 2020 (T5), Xue et al. 2021 (mT5) and 2022 (byT5), Tay et al. 2022 (UL2).
"""

from typing import Any

from flaxae.errors import ConfigError
from flaxae.lm.t5.blocks import T5Config
from flaxae.nn.mlp import FeedForward

# d_model, d_ff, d_kv, heads, encoder layers, decoder layers
V1_0 = {
    "small": (512, 2048, 64, 8, 6, 6),
    "base": (768, 3072, 64, 12, 12, 12),
    "large": (1024, 4096, 64, 16, 24, 24),
    "3b": (1024, 16384, 128, 32, 24, 24),
    "11b": (1024, 65536, 128, 128, 24, 24),
}
V1_1 = {
    "small": (512, 1024, 64, 6, 8, 8),
    "base": (768, 2048, 64, 12, 12, 12),
    "large": (1024, 2816, 64, 16, 24, 24),
    "xl": (2048, 5120, 64, 32, 24, 24),
    "xxl": (4096, 10240, 64, 64, 24, 24),
}
BYT5 = {
    "small": (1472, 3584, 64, 6, 12, 4),
    "base": (1536, 3968, 64, 12, 18, 6),
    "large": (1536, 3840, 64, 16, 36, 12),
    "xl": (2560, 6720, 64, 32, 36, 12),
    "xxl": (4672, 12352, 64, 64, 36, 12),
}
UL2 = (4096, 16384, 256, 16, 32, 32)
_FIELDS = ("d_model", "d_ff", "d_kv", "num_heads", "num_layers", "num_decoder_layers")
_RELU, _GELU, _SILU = FeedForward.RELU, FeedForward.GATED_GELU, FeedForward.GATED_SILU

# name -> (sizes, rows of the embedding, feed-forward, tied)
SIZES: dict[str, tuple[tuple[int, ...], int, FeedForward, bool]] = {
    **{f"t5-{k}": (v, 32128, _RELU, True) for k, v in V1_0.items()},
    **{f"t5-v1_1-{k}": (v, 32128, _GELU, False) for k, v in V1_1.items()},
    **{f"flan-t5-{k}": (v, 32128, _GELU, False) for k, v in V1_1.items()},
    **{f"mt5-{k}": (v, 250112, _GELU, False) for k, v in V1_1.items()},
    **{f"byt5-{k}": (v, 384, _GELU, False) for k, v in BYT5.items()},
    "ul2": (UL2, 32128, _SILU, False),
    "flan-ul2": (UL2, 32128, _SILU, False),
}


def t5_size(name: str, **fields: Any) -> T5Config:
    """Return the config of a published T5.

    Args:
        name: name on the Hub, with or without its owner: "t5-base", "google/flan-t5-xl".
        **fields: further fields of T5Config (dropout, dtype, remat), or other values.

    Raises:
        ConfigError: if the name is unknown.
    """
    short = name.rpartition("/")[2]
    if short not in SIZES:
        raise ConfigError(f"{name!r} is not a T5 whose sizes are known: {', '.join(SIZES)}")
    sizes, rows, kind, tied = SIZES[short]
    known: dict[str, Any] = dict(zip(_FIELDS, sizes, strict=True))
    known |= {"vocab_size": rows, "feed_forward": kind, "tie_embeddings": tied}
    return T5Config(**(known | fields))
