"""The config of decoder-only language models."""

import dataclasses

from flaxae.config import Section
from flaxae.errors import require
from flaxae.nn.rope import Rope
from flaxae.nn.stack import check_kept

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(unsafe_hash=True)
class CausalConfig(Section):
    """Sizes that all decoder-only models have."""

    d_model: int = 64
    d_ff: int = 128
    num_heads: int = 4
    num_kv_heads: int = 4  # fewer than num_heads: query heads share keys and values
    head_dim: int = 16
    num_layers: int = 2
    vocab_size: int = 256
    max_length: int = 2048  # positions that the model was trained on
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    attention_dropout: float = 0.0
    bos_id: int = 1
    eos_ids: tuple = (2,)
    dtype: str = "float32"  # type of the computation; norms, softmax and logits are float32
    remat: bool = False  # recompute blocks in the backward pass
    remat_keep: str = "nothing"  # with remat, kept values: "products" of matmuls with weights
    scan_unroll: int = 1  # layers per iteration of the scan

    def validate(self) -> None:
        """Raise ConfigError for sizes or options that do not go together."""
        sizes = ("d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim", "num_layers")
        for name in (*sizes, "vocab_size", "max_length", "scan_unroll", "norm_eps", "rope_theta"):
            require(getattr(self, name) > 0, f"lm.{name}={getattr(self, name)} must be positive")
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"lm.num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}",
        )
        rate = self.attention_dropout
        require(0 <= rate < 1, f"lm.attention_dropout={rate} must be in [0, 1)")
        check_kept(self.remat_keep, "lm.remat_keep", self.remat)
        require(self.dtype in DTYPES, f"lm.dtype={self.dtype!r} is not one of: {', '.join(DTYPES)}")
        ints = all(isinstance(i, int) for i in self.eos_ids)
        require(ints and bool(self.eos_ids), f"lm.eos_ids={self.eos_ids} must be ids, at least one")

    @property
    def mlp_kernels(self) -> int:
        """Number of (d_model, d_ff) kernels in a block's feed-forward."""
        return 2

    def rope(self) -> Rope:
        """Return the rotary embedding of positions."""
        raise NotImplementedError
