"""The config of a dictionary's training: architecture, hidden states, loss, and their text."""

import dataclasses
import enum
from typing import ClassVar

from flaxae.config import DataConfig, TaskConfig
from flaxae.config.ranges import Count, Counts, NonNegative, Positive, Whole, Wholes
from flaxae.data.config import TextDataConfig
from flaxae.errors import require
from flaxae.lm.config import DTYPES
from flaxae.models.sae.options import (
    ACTIVATIONS,
    QUANTISED,
    TRANSCODERS,
    Architecture,
    Auxiliary,
    Gate,
    LossOptions,
)
from flaxae.sparse_autoencoder.modules import WITH_K, Activation, Normaliser, SAEConfig

SELECTED = (Activation.TOPK, Activation.BATCH_TOPK)


class Scaling(enum.Enum):
    """Normalisation of the states."""

    NONE = "none"
    EXPECTED_NORM = "expected_norm"  # times sqrt(d) / mean norm of the first batches
    UNIT_MEAN_SQUARE = "unit_mean_square"  # mean square 1 over the first batches
    CONSTANT_NORM = "constant_norm_rescale"  # each state has norm sqrt(d)
    LAYER_NORM = "layer_norm"  # each state has mean 0 and standard deviation 1


# Hidden states of a layer, in the order in which it computes them.
ORDER = ("resid_in", "attn_out", "mlp_in", "mlp_pre", "mlp_post", "mlp_out", "resid_out")
PER_STATE = (Scaling.CONSTANT_NORM, Scaling.LAYER_NORM)


@dataclasses.dataclass
class StateDataConfig(TextDataConfig):
    """Text whose tokens a language model reads; `batch_size` counts states (tokens).

    `name` and `path` are as for all texts, `max_length` is the number of tokens per row.
    """

    name: str = "docstrings"
    max_length: Count = 256
    batch_size: Count = 2048
    prefetch: Whole = 0  # batches are made by programs on the devices, one after another
    block_rows: Count = 128  # rows of tokens that are shuffled together
    model_rows: Count = 8  # rows of tokens per pass of the language model
    skip_first: Whole = 1  # first tokens of each row, whose states are not used (attention sinks)
    max_rows: Whole = 0  # rows of each split that are used; 0: all
    state_cache: str = ""  # folder for states on disk, float16; "": they are computed again

    def validate(self) -> None:
        """Check the rows per block."""
        super().validate()
        require(
            self.block_rows % self.model_rows == 0,
            f"data.block_rows={self.block_rows} is not a multiple of data.model_rows="
            f"{self.model_rows}",
        )
        require(
            self.prefetch == 0,
            f"data.prefetch={self.prefetch} must be 0: states are computed on the main thread",
        )


@dataclasses.dataclass
class SAEOptions(TaskConfig):
    """A dictionary over the hidden states of the model that `pretrained` names."""

    data_class: ClassVar[type[DataConfig]] = StateDataConfig

    # A model of this size in place of `pretrained`: it has no states, and is for compiling only.
    sizes: str = ""
    architecture: Architecture = Architecture.TOPK
    hook: str = "resid_out"
    layer: Whole = 0
    layers: Wholes = ()  # vq, fsq, layered: the layers that are read together; (): `layer` alone
    hook_out: str = "mlp_out"  # transcoders: the target's hook, in the same layer
    activation: Activation = Activation.TOPK  # of transcoders
    expansion: Count = 8  # latents per feature
    d_sae: Whole = 0  # number of latents; 0: expansion times the input's width
    k: Positive = 32.0  # active latents per state (top-k; batch top-k: on average)
    # top-k: the largest k of lanes in one program, each of which has its own k; 0: k.
    k_max: Whole = 0
    loss: LossOptions = dataclasses.field(default_factory=LossOptions)
    scaling: Scaling = Scaling.EXPECTED_NORM
    scaling_batches: Count = 4  # batches that the factor is computed from
    threshold: Positive = 0.01  # JumpReLU's first threshold
    bandwidth: Positive = 0.05  # JumpReLU's window
    threshold_rate: Positive = 0.01  # batch top-k: share of each batch in the threshold's average
    dead_after: Count = 200_000  # tokens without activity after which a latent is dead
    resample_every: Whole = 0  # steps between resamplings of dead latents; 0: never
    tokens: Count = 4  # vq, fsq: codes per layer and position
    levels: Counts = (8, 5, 5, 5)  # fsq: levels of each feature of a code
    codes: Count = 1024  # vq: codes
    code_width: Count = 16  # vq: features per code
    hidden: Count = 512  # vq, fsq: hidden units per layer
    commitment: NonNegative = 0.25  # vq
    # A safetensors file with a tensor "importance": factors of the features' errors, such as
    # |factor - 1| of an IA3 adapter, (width,), or (layers, width) for layered; "": all 1.
    importance: str = ""
    normalised: bool = True  # layered: running mean and standard deviation per feature
    cross_entropy_rows: Whole = 32  # rows of dev whose cross entropy is evaluated; 0: all
    model_weights: str = "float32"  # dtype of the language model's weights
    model_dtype: str = "float32"  # dtype of its computation

    def validate(self) -> None:
        """Check fields that belong together."""
        super().validate()
        for name in ("model_weights", "model_dtype"):
            kind = getattr(self, name)
            require(kind in DTYPES, f"task.{name}={kind!r} is not one of: {', '.join(DTYPES)}")
        require(
            not self.layers or self.several,
            f"task.layers={self.layers} is for vq, fsq and layered; {self.architecture.value} "
            "reads task.layer",
        )
        require(
            self.kind is Activation.BATCH_TOPK or self.kind not in WITH_K or self.k == int(self.k),
            f"task.k={self.k} of {self.kind.value} must be an integer",
        )
        require(
            not self.k_max or self.kind is Activation.TOPK,
            f"task.k_max={self.k_max} is for top-k: batch top-k needs none",
        )
        require(
            not self.k_max or self.k <= self.k_max,
            f"task.k={self.k} is above task.k_max={self.k_max}",
        )
        require(
            not (self.several and self.scaling in PER_STATE),
            f"task.scaling={self.scaling.value} is not supported by {self.architecture.value}",
        )
        require(
            not (self.architecture in TRANSCODERS and self.scaling in PER_STATE),
            "task.scaling of a transcoder must be a constant factor: its output has other units",
        )
        require(
            not self.resample_every or not (self.several or self.architecture in TRANSCODERS),
            f"task.resample_every is for autoencoders of one layer, not for "
            f"{self.architecture.value}",
        )
        require(
            not self.importance or self.architecture not in QUANTISED,
            f"task.importance is not supported by {self.architecture.value}",
        )
        require(
            bool(self.loss.widths) == (self.architecture is Architecture.MATRYOSHKA),
            "task.loss.widths and task.architecture=matryoshka belong together: give the numbers "
            "of latents of the prefixes, smallest first, and no others have any",
        )
        self._check_widths(self.d_sae)
        if self.architecture in TRANSCODERS and {self.hook, self.hook_out} <= set(ORDER):
            require(
                ORDER.index(self.hook) < ORDER.index(self.hook_out),
                f"task.hook={self.hook} is not computed before task.hook_out={self.hook_out}: a "
                "transcoder reads an earlier state, such as mlp_in",
            )

    def _check_widths(self, d_sae: int) -> None:
        widths = self.loss.widths
        require(
            not d_sae or not widths or (widths[0] < d_sae and widths[-1] <= d_sae),
            f"task.loss.widths={widths}: the first must be below the number of latents, {d_sae}, "
            "and none above it",
        )

    @property
    def several(self) -> bool:
        """True if states of several layers are read together."""
        return self.architecture in (*QUANTISED, Architecture.LAYERED)

    @property
    def kind(self) -> Activation:
        """The activation of a dictionary."""
        return ACTIVATIONS.get(self.architecture, self.activation)

    @property
    def needs_whole_batch(self) -> bool:
        """True if the loss of a batch is not the sum of the losses of its parts."""
        auxiliary = self.kind in SELECTED and self.loss.has_auxiliary
        single = self.kind is Activation.BATCH_TOPK or auxiliary
        if self.several:
            return self.architecture is Architecture.VQ or (
                self.architecture is Architecture.LAYERED and self.normalised
            )
        return single or bool(self.resample_every)

    @property
    def normaliser(self) -> Normaliser:
        """The normaliser of each state, which is outside of a dictionary in training."""
        return Normaliser(self.scaling.value) if self.scaling in PER_STATE else Normaliser.NONE

    @property
    def unit_norm(self) -> bool:
        """True if the decoder's rows are kept at norm 1."""
        selected = self.kind in SELECTED and self.loss.auxiliary is Auxiliary.OPENAI
        gated = self.architecture is Architecture.GATED and self.loss.gate is Gate.PAPER
        return selected or gated or self.architecture is Architecture.TIED_BIAS

    def dictionary(self, d_in: int, d_out: int) -> SAEConfig:
        """Return the sizes and forward pass of a dictionary of scaled states.

        Args:
            d_in: width of the input.
            d_out: width of the output.
        """
        transcoder = self.architecture in TRANSCODERS
        d_sae = self.d_sae or self.expansion * d_in
        self._check_widths(d_sae)
        plain = (Architecture.STANDARD, Architecture.JUMPRELU)  # as published, b_dec stays
        selected = self.kind in SELECTED
        return SAEConfig(
            d_in=d_in,
            d_sae=d_sae,
            d_out=d_out if transcoder else 0,
            activation=self.kind,
            k=(self.k_max or self.k) if self.kind in WITH_K else 0,
            subtract_b_dec=not transcoder and self.architecture not in plain,
            rescale_by_decoder_norm=selected and not self.unit_norm,
            transcoder=transcoder,
            skip=self.architecture is Architecture.SKIP_TRANSCODER,
            bandwidth=self.bandwidth,
        )
