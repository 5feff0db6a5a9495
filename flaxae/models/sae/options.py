"""Architectures and losses of sparse autoencoders by name."""

import dataclasses
import enum
from typing import Annotated, ClassVar

from flaxae.config import Section
from flaxae.config.ranges import Checked, NonNegative, Positive, Whole
from flaxae.errors import require
from flaxae.sparse_autoencoder.modules import Activation


class Architecture(enum.Enum):
    """A dictionary with its loss."""

    STANDARD = "standard"  # L1 weighted by the decoder's norms (Anthropic, April 2024)
    TIED_BIAS = "tied_bias"  # unit-norm decoder, plain L1 (Towards Monosemanticity)
    TOPK = "topk"
    BATCH_TOPK = "batch_topk"
    JUMPRELU = "jumprelu"
    GATED = "gated"
    MATRYOSHKA = "matryoshka"  # batch top-k with a reconstruction from each prefix of latents
    TRANSCODER = "transcoder"
    SKIP_TRANSCODER = "skip_transcoder"
    VQ = "vq"  # codes of a learned codebook
    FSQ = "fsq"  # codes on a fixed grid (Mentzer et al. 2023)
    LAYERED = "layered"  # one encoder and decoder per layer


ACTIVATIONS = {
    Architecture.STANDARD: Activation.RELU,
    Architecture.TIED_BIAS: Activation.RELU,
    Architecture.TOPK: Activation.TOPK,
    Architecture.BATCH_TOPK: Activation.BATCH_TOPK,
    Architecture.JUMPRELU: Activation.JUMPRELU,
    Architecture.GATED: Activation.GATED,
    Architecture.MATRYOSHKA: Activation.BATCH_TOPK,
}
TRANSCODERS = (Architecture.TRANSCODER, Architecture.SKIP_TRANSCODER)
QUANTISED = (Architecture.VQ, Architecture.FSQ)


class Auxiliary(enum.Enum):
    """The loss by which dead latents learn to explain the error (AuxK), by project."""

    NONE = "none"
    # 1/32 of the error's unexplained share (Gao et al. 2024), ReLU; decoder rows of norm 1.
    OPENAI = "openai"
    # The squared error, scaled down if few latents are dead; decoder rows of any norm, and latents
    # selected by pre-activation times norm.
    SAELENS = "saelens"


class Sparsity(enum.Enum):
    """The sparsity loss of JumpReLU."""

    STEP = "step"  # L0 (Rajamanoharan et al. 2024b)
    QUADRATIC = "quadratic"  # 2 / target * (L0 - target)^2 of each state (SAELens)
    TANH = "tanh"  # tanh of latents times decoder norms (Anthropic, January 2025)


class Gate(enum.Enum):
    """The losses of a gated dictionary's gate, by project."""

    # Its reconstruction does not train the decoder, whose rows have norm 1.
    PAPER = "paper"  # Rajamanoharan et al. 2024a
    # It does; the L1 is weighted by the norms of the decoder's rows, which are free.
    SAELENS = "saelens"


@dataclasses.dataclass
class LossOptions(Section):
    """The terms of a dictionary's loss beside the reconstruction."""

    section: ClassVar[str] = "task.loss"

    sparsity: NonNegative = 1.0  # weight of the sparsity loss (all but top-k)
    sparsity_warmup: Whole = 0  # steps in which this weight increases from 0
    jump: Sparsity = Sparsity.STEP
    target_l0: NonNegative = 0.0  # of jump=quadratic
    tanh_scale: Positive = 4.0
    gate: Gate = Gate.PAPER
    pre_activation: NonNegative = 0.0  # weight of max(threshold - z, 0) of dead JumpReLU latents
    auxiliary: Auxiliary = Auxiliary.OPENAI
    auxiliary_weight: NonNegative = 1.0  # times the project's own, 1/32 or 1; 0: no AuxK
    k_aux: Whole = 0  # dead latents per row; 0: half of the output's features
    widths: Annotated[tuple, Checked()] = ()  # matryoshka: numbers of latents, smallest first

    @property
    def has_auxiliary(self) -> bool:
        """True if dead latents learn to explain the error."""
        return self.auxiliary is not Auxiliary.NONE and self.auxiliary_weight > 0

    def validate(self) -> None:
        """Check fields that belong together."""
        require(
            self.jump is not Sparsity.QUADRATIC or self.target_l0 > 0,
            "task.loss.jump=quadratic needs task.loss.target_l0",
        )
        ordered = all(isinstance(w, int) and w > 0 for w in self.widths)
        ordered = ordered and list(self.widths) == sorted(set(self.widths))
        require(ordered, f"task.loss.widths={self.widths} must be increasing numbers of latents")
