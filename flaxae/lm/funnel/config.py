"""Sizes and options of a Funnel Transformer."""

import dataclasses
import enum
from typing import ClassVar

from flaxae.config import Section
from flaxae.config.ranges import Count, Counts, NonNegative, Positive, Rate, Whole
from flaxae.errors import require


class PoolingType(enum.Enum):
    """The reduction of a pair of states to one."""

    MEAN = "mean"
    MAX = "max"


class AttentionType(enum.Enum):
    """The computation of the scores of relative positions; both have the same weights and result.

    FACTORIZED multiplies sines and cosines of queries' and keys' positions (appendix A.2.2 of the
    paper); RELATIVE_SHIFT scores all differences and shifts the rows (appendix A.2.1).
    """

    FACTORIZED = "factorized"
    RELATIVE_SHIFT = "relative_shift"


class Head(enum.Enum):
    """The head over the model's last states, named by Hugging Face's class."""

    NONE = "none"
    MASKED_LM = "masked-lm"  # scores of the vocabulary: the tied embedding and a bias
    DISCRIMINATOR = "discriminator"  # whether a token was replaced (ELECTRA), its pretraining


# Hashable: it is a static part of the model's graph, and does not change during a run.
@dataclasses.dataclass(unsafe_hash=True)
class FunnelConfig(Section):
    """Sizes of a Funnel Transformer."""

    section: ClassVar[str] = "task.funnel"

    vocab_size: Whole = 0  # rows of the embedding table; 0: data.vocab_size
    d_model: Count = 192
    d_ff: Count = 768
    num_heads: Count = 4
    d_head: Count = 48
    block_sizes: Counts = (2, 2, 2)  # layers of each block
    block_repeats: Counts = ()  # times that a block's layers are applied; (): once
    num_decoder_layers: Whole = 0  # layers of Hugging Face's decoder; 0: an encoder alone
    head: Head = Head.NONE  # needs a decoder
    tie_embeddings: bool = True  # the masked-lm head's matrix is the embedding
    pooling_type: PoolingType = PoolingType.MEAN
    attention_type: AttentionType = AttentionType.FACTORIZED
    pool_q_only: bool = True  # the layer that pools reads keys and values at full length
    separate_cls: bool = True  # the first token is not pooled with others
    truncate_seq: bool = True  # with separate_cls: drop the last token, so that lengths halve
    hf_compat_mask: bool = False  # pool masks and padded states as transformers does
    hidden_dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    activation_dropout: Rate = 0.0
    norm_eps: Positive = 1e-9
    embedding_std: NonNegative = 1.0  # standard deviation of the embeddings' initial values
    initializer_range: NonNegative = 0.1  # initial r_* biases and kernels are uniform in [0, range)
    dtype: str = "float32"  # type of the computation; parameters, softmax and norms are float32
    remat: bool = False  # recompute layers in the backward pass
    scan_unroll: Count = 1  # layers per iteration of the scan over a block

    @property
    def repeats(self) -> tuple[int, ...]:
        """The number of times that each layer of a block is applied, one per block."""
        return self.block_repeats or (1,) * len(self.block_sizes)

    def validate(self) -> None:
        """Raise ConfigError for sizes or options that do not go together."""
        require(
            bool(self.block_sizes),
            "task.funnel.block_sizes is empty: name the layers of each block",
        )
        require(
            len(self.repeats) == len(self.block_sizes),
            f"task.funnel.block_repeats={self.block_repeats} must have one number per block of "
            f"task.funnel.block_sizes={self.block_sizes}, or be empty",
        )
        require(
            self.d_model % 2 == 0,
            f"task.funnel.d_model={self.d_model} must be even: sines, cosines",
        )
        require(
            self.head is Head.NONE or self.num_decoder_layers > 0,
            f"task.funnel.head={self.head.value} needs states of all tokens: set "
            "task.funnel.num_decoder_layers",
        )
        kinds = ("float32", "bfloat16")
        require(
            self.dtype in kinds,
            f"task.funnel.dtype={self.dtype!r} is not one of: {', '.join(kinds)}",
        )
