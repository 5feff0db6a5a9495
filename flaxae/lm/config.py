"""The config of decoder-only language models."""

import dataclasses
from typing import ClassVar

from flaxae.config import Section
from flaxae.config.ranges import Count, Positive, Rate, Whole, Wholes
from flaxae.errors import require
from flaxae.nn.rope import Rope
from flaxae.nn.stack import check_kept

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(unsafe_hash=True)
class CausalConfig(Section):
    """Sizes that all decoder-only models have."""

    section: ClassVar[str] = "lm"

    d_model: Count = 64
    d_ff: Count = 128
    num_heads: Count = 4
    num_kv_heads: Count = 4  # fewer than num_heads: query heads share keys and values
    head_dim: Count = 16
    num_layers: Count = 2
    vocab_size: Count = 256
    max_length: Count = 2048  # positions that the model was trained on
    norm_eps: Positive = 1e-5
    rope_theta: Positive = 10000.0
    tie_embeddings: bool = False
    attention_dropout: Rate = 0.0
    bos_id: Whole = 1
    eos_ids: Wholes = (2,)
    dtype: str = "float32"  # type of the computation; norms, softmax and logits are float32
    remat: bool = False  # recompute blocks in the backward pass
    remat_keep: str = "nothing"  # with remat, kept values: "products" of matmuls with weights
    scan_unroll: Count = 1  # layers per iteration of the scan

    def validate(self) -> None:
        """Raise ConfigError for sizes or options that do not go together."""
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"lm.num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}",
        )
        check_kept(self.remat_keep, "lm.remat_keep", self.remat)
        require(self.dtype in DTYPES, f"lm.dtype={self.dtype!r} is not one of: {', '.join(DTYPES)}")
        require(bool(self.eos_ids), "lm.eos_ids=() must be ids, at least one")

    @property
    def mlp_kernels(self) -> int:
        """Number of (d_model, d_ff) kernels in a block's feed-forward."""
        return 2

    def rope(self) -> Rope:
        """Return the rotary embedding of positions."""
        raise NotImplementedError
