"""Forward passes of sparse autoencoders and transcoders; losses are in `models/sae`.

z = (x - b_dec) W_enc + b_enc, f = activation(z), y = f W_dec + b_dec (+ x W_skip).
"""

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.config.ranges import Count, NonNegative, Positive, Whole
from flaxae.errors import require
from flaxae.nn.linear import align, product
from flaxae.sparse_autoencoder.centred import centred_product
from flaxae.sparse_autoencoder.jump import jump_relu
from flaxae.sparse_autoencoder.top_k import batch_top_k_mask, group_max_mask, top_k_mask
from flaxae.task import Carry, Context

LAYER_NORM_EPS = 1e-5


class Activation(enum.Enum):
    """A sparse activation function."""

    RELU = "relu"
    TOPK = "topk"  # the k largest of each row (Gao et al. 2024)
    BATCH_TOPK = "batch_topk"  # k per row on average (Bussmann et al. 2024)
    JUMPRELU = "jumprelu"  # z where z > threshold (Rajamanoharan et al. 2024b)
    GATED = "gated"  # a gate and a magnitude that share directions (Rajamanoharan et al. 2024a)
    GROUPMAX = "groupmax"  # the largest of each of k groups


class Normaliser(enum.Enum):
    """Normalisation by statistics of each input; a constant factor is folded into the weights."""

    NONE = "none"
    CONSTANT_NORM = "constant_norm_rescale"  # norm sqrt(d_in)
    LAYER_NORM = "layer_norm"  # mean 0, standard deviation 1, over features


WITH_K = (Activation.TOPK, Activation.BATCH_TOPK, Activation.GROUPMAX)


@dataclasses.dataclass(frozen=True)
class SAEConfig:
    """Sizes and forward pass of a sparse autoencoder or transcoder.

    Attributes:
        d_in: features of the input.
        d_sae: number of latents.
        d_out: features of the output; 0: d_in.
        activation: the activation function.
        k: number of active latents per row, of activations that choose it.
        subtract_b_dec: the decoder's bias is subtracted from the input.
        rescale_by_decoder_norm: activations are multiplied by the norms of the decoder's rows
            before the selection, and divided by them before the decoder.
        transcoder: the output is another state than the input.
        skip: the output has a linear part x W_skip (transcoders only).
        normaliser: normalisation of each input, undone on the output.
        bandwidth: width of the window in which a threshold of JumpReLU has a gradient.
        dtype: type of the matmuls.
    """

    d_in: Count
    d_sae: Count
    d_out: Whole = 0
    activation: Activation = Activation.RELU
    k: NonNegative = 0
    subtract_b_dec: bool = True
    rescale_by_decoder_norm: bool = False
    transcoder: bool = False
    skip: bool = False
    normaliser: Normaliser = Normaliser.NONE
    bandwidth: Positive = 0.05
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raise ConfigError for values that do not fit together."""
        if not self.d_out:
            object.__setattr__(self, "d_out", self.d_in)
        name = self.activation.value
        require(
            min(self.d_in, self.d_sae) > 0,
            f"d_in={self.d_in} and d_sae={self.d_sae} must be positive",
        )
        if self.activation in WITH_K:
            require(0 < self.k <= self.d_sae, f"k={self.k} is not between 1 and {self.d_sae}")
            whole = self.k == int(self.k) or self.activation is Activation.BATCH_TOPK
            require(whole, f"k={self.k} of {name} is not an integer")
        if self.activation is Activation.GROUPMAX:
            require(self.d_sae % int(self.k) == 0, f"d_sae={self.d_sae} has no {self.k} groups")
        if self.transcoder:
            require(not self.subtract_b_dec, "a transcoder subtracts no decoder bias")
        else:
            require(self.d_out == self.d_in, "only a transcoder has another d_out than d_in")
            require(not self.skip, "only a transcoder has a skip connection")


class SparseAutoencoder(nnx.Module):
    """A dictionary: d_sae latents, each with a direction that is read and one that is written.

    Args:
        config: sizes and activation.
        rngs: source of the decoder's directions, its stream `params`.
        decoder_norm: initial norm of the decoder's rows. The encoder starts as the decoder's
            transpose; that of a transcoder has directions of its own.
        threshold: initial threshold of JumpReLU.

    Attributes:
        w_enc: (d_in, d_sae).
        w_dec: (d_sae, d_out).
        b_enc: (d_sae,); of a gated one, the bias of the gate.
        b_dec: (d_out,).
        threshold: of JumpReLU (d_sae,); of batch top-k a scalar, used outside training.
        r_mag: logarithm of the magnitudes' scale (gated), (d_sae,).
        b_mag: bias of the magnitudes (gated), (d_sae,).
        w_skip: (d_in, d_out), or None.
    """

    def __init__(
        self,
        config: SAEConfig,
        *,
        rngs: nnx.Rngs,
        decoder_norm: float = 0.1,
        threshold: float = 0.01,
    ):
        self.config = config
        d_in, d_sae, d_out = config.d_in, config.d_sae, config.d_out
        w_dec = _directions(rngs, (d_sae, d_out), decoder_norm)
        w_enc = _directions(rngs, (d_sae, d_in), decoder_norm) if config.transcoder else w_dec
        self.w_dec, self.w_enc = nnx.Param(w_dec), nnx.Param(w_enc.T)
        self.b_dec = nnx.Param(jnp.zeros(d_out, jnp.float32))
        self.b_enc = nnx.Param(jnp.zeros(d_sae, jnp.float32))
        if config.activation is Activation.JUMPRELU:
            self.threshold = nnx.Param(jnp.full(d_sae, threshold, jnp.float32))
        if config.activation is Activation.BATCH_TOPK:
            self.threshold = Carry(jnp.float32(0))
        if config.activation is Activation.GATED:
            self.r_mag = nnx.Param(jnp.zeros(d_sae, jnp.float32))
            self.b_mag = nnx.Param(jnp.zeros(d_sae, jnp.float32))
        self.w_skip = nnx.Param(jnp.zeros((d_in, d_out), jnp.float32)) if config.skip else None

    def __call__(self, x: Float[Array, "... I"], ctx: Context) -> Float[Array, "... O"]:
        """Return the reconstruction of the input, or a transcoder's output."""
        return self.decode(self.encode(x, ctx), ctx, x)

    def encode(
        self,
        x: Float[Array, "... I"],
        ctx: Context,
        weights: Float[Array, "..."] | None = None,
    ) -> Float[Array, "... F"]:
        """Return the latents of the input.

        Args:
            x: states.
            ctx: context; in training, batch top-k selects over the batch, and otherwise it
                compares with its threshold. The latents may be replaced at the tap "latents".
            weights: 0 for rows that only pad the batch.
        """
        return self.activate(self.pre_activations(x, ctx), ctx, weights)

    def normalised(self, x: Float[Array, "... I"]) -> Float[Array, "... I"]:
        """Return the states in the units of the dictionary, float32."""
        return normalised(x.astype(jnp.float32), self.config.normaliser)

    def pre_activations(self, x: Float[Array, "... I"], ctx: Context) -> Float[Array, "... F"]:
        """Return z, by which latents are selected (of a gated one, the input of the gate)."""
        x = self.normalised(x)
        if self.config.subtract_b_dec:
            dtype = jnp.dtype(self.config.dtype)
            z: Any = centred_product(x, self.b_dec[...], self.w_enc[...], dtype)
        else:
            z = self._product(x, self.w_enc)
        z = z + align(self.b_enc[...], z)
        if self.config.rescale_by_decoder_norm:
            z = z * align(self.decoder_norms(), z)
        return ctx.tap("pre", z)

    def activate(
        self,
        z: Float[Array, "... F"],
        ctx: Context,
        weights: Float[Array, "..."] | None = None,
    ) -> Float[Array, "... F"]:
        """Return the latents of pre-activations; see `encode`."""
        kind, k = self.config.activation, self.config.k
        f: Any
        if kind is Activation.TOPK:
            # A sweep's k is traced, and at most the config's.
            own: Any = ctx.hparams.get("k")
            count = None if own is None else own.astype(jnp.int32)
            f = jnp.where(top_k_mask(z, int(k), count), jax.nn.relu(z), 0)
        elif kind is Activation.GROUPMAX:
            f = jnp.where(group_max_mask(z, int(k)), jax.nn.relu(z), 0)
        elif kind is Activation.BATCH_TOPK and ctx.train:
            mask = batch_top_k_mask(z, ctx.hparams.get("k", k), weights)
            f = jnp.where(mask, jax.nn.relu(z), 0)
        elif kind is Activation.BATCH_TOPK:
            f = jnp.where(z > self.threshold[...], jax.nn.relu(z), 0)
        elif kind is Activation.JUMPRELU:
            f = jump_relu(z, self.threshold[...], self.config.bandwidth)
        elif kind is Activation.GATED:
            shared = z - align(self.b_enc[...], z)
            scale, bias = align(jnp.exp(self.r_mag[...]), z), align(self.b_mag[...], z)
            f = jnp.where(z > 0, jax.nn.relu(shared * scale + bias), 0)
        else:
            f = jax.nn.relu(z)
        return ctx.tap("latents", f)

    def decode(
        self,
        f: Float[Array, "... F"],
        ctx: Context,
        x: Float[Array, "... I"] | None = None,
    ) -> Float[Array, "... O"]:
        """Return the output of latents.

        Args:
            f: latents.
            ctx: context.
            x: the states that the latents are of. A normaliser with statistics of each input and
                a skip connection need them.

        Raises:
            ConfigError: if `x` is needed and missing.
        """
        undo = self.config.normaliser is not Normaliser.NONE and not self.config.transcoder
        require(
            x is not None or not (undo or self.config.skip),
            "decode needs the input x: this dictionary has a skip connection or normalises inputs",
        )
        y = self.linear_decode(f) + align(self.b_dec[...], f)
        if self.w_skip is not None and x is not None:
            y = y + self._product(x.astype(jnp.float32), self.w_skip)
        if undo and x is not None:
            y = restored(y, x.astype(jnp.float32), self.config.normaliser)
        return ctx.tap("out", y)

    def linear_decode(self, f: Float[Array, "... F"]) -> Float[Array, "... O"]:
        """Return f W_dec in the units of the dictionary, without bias."""
        if self.config.rescale_by_decoder_norm:
            f = f / align(self.decoder_norms(), f)
        return self._product(f, self.w_dec)

    def decoder_norms(self) -> Float[Array, "F"]:
        """Return the norms of the decoder's rows."""
        return jnp.sqrt(jnp.square(self.w_dec[...]).sum(-1))

    def _product(self, x: Array, kernel: Any) -> Array:
        dtype = jnp.dtype(self.config.dtype)
        return product(x.astype(dtype), kernel[...].astype(dtype), jnp.float32)


def normalised(x: Float[Array, "... I"], normaliser: Normaliser) -> Float[Array, "... I"]:
    """Return normalised states."""
    if normaliser is Normaliser.NONE:
        return x
    mean, scale = _statistics(x, normaliser)
    return (x - mean) / (scale + (LAYER_NORM_EPS if normaliser is Normaliser.LAYER_NORM else 0.0))


def restored(
    y: Float[Array, "... I"], x: Float[Array, "... I"], normaliser: Normaliser
) -> Float[Array, "... I"]:
    """Return y in the units of x, by whose statistics it was normalised."""
    if normaliser is Normaliser.NONE:
        return y
    mean, scale = _statistics(x, normaliser)
    return y * scale + mean


def _statistics(x: Array, normaliser: Normaliser) -> tuple[Array, Array]:
    """Return what each state is shifted and divided by."""
    if normaliser is Normaliser.CONSTANT_NORM:
        norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
        return jnp.zeros_like(norm), jnp.maximum(norm, 1e-12) * x.shape[-1] ** -0.5
    # PyTorch's std, by which the files were trained, divides by d_in - 1.
    return x.mean(-1, keepdims=True), x.std(-1, keepdims=True, ddof=1)


def _directions(rngs: nnx.Rngs, shape: tuple[int, int], norm: float) -> Float[Array, "F D"]:
    """Return random rows of the given norm."""
    rows = jax.random.normal(rngs.params(), shape, jnp.float32)
    return rows * (norm / jnp.linalg.norm(rows, axis=-1, keepdims=True))
