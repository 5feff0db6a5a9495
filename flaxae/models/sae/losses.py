"""Losses of sparse autoencoders and transcoders: sums over rows, to be divided by their weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flaxae.models.sae.options import Architecture, Auxiliary, LossOptions, Sparsity
from flaxae.nn.linear import align
from flaxae.sparse_autoencoder.jump import step
from flaxae.sparse_autoencoder.modules import Activation, SparseAutoencoder
from flaxae.sparse_autoencoder.top_k import top_k_mask
from flaxae.task import Context

OPENAI_WEIGHT = 1 / 32


class Terms(NamedTuple):
    """A loss with its parts.

    Attributes:
        total: sum over rows.
        parts: name -> sum over rows; all but "auxk" without their weight in the total.
        latents: (B, F).
        output: (B, O).
    """

    total: Float[Array, ""]
    parts: dict[str, Float[Array, ""]]
    latents: Float[Array, "B F"]
    output: Float[Array, "B O"]


def squared_error(
    output: Float[Array, "B O"],
    target: Float[Array, "B O"],
    weights: Float[Array, "B"],
    importance: Float[Array, " O"] | None = None,
) -> Float[Array, ""]:
    """Return the sum over rows of squared errors.

    Args:
        output: reconstructions.
        target: what they should be.
        weights: weight of each row; 0 for padding.
        importance: factor of each feature's error; None: 1.
    """
    error = output - target
    error = error if importance is None else error * align(importance, error)
    return jnp.sum(jnp.square(error).sum(-1) * weights)


def dictionary_loss(
    sae: SparseAutoencoder,
    architecture: Architecture,
    options: LossOptions,
    x: Float[Array, "B I"],
    target: Float[Array, "B O"],
    weights: Float[Array, "B"],
    ctx: Context,
    *,
    dead: Bool[Array, "F"] | None = None,
    importance: Float[Array, " O"] | None = None,
) -> Terms:
    """Return the loss of a batch of states.

    Args:
        sae: the dictionary; inputs and targets are in its units.
        architecture: name of the loss; that of a transcoder follows its activation.
        options: weights of the terms.
        x: inputs.
        target: x, or a transcoder's target.
        weights: weight of each row; 0 for padding.
        ctx: the step's context.
        dead: latents that have not been active for long; None: none.
        importance: factor of each feature's error in the reconstruction; None: 1.
    """
    z = sae.pre_activations(x, ctx)
    f = sae.activate(z, ctx, weights)
    output = sae.decode(f, ctx, x)
    parts = {"recon": squared_error(output, target, weights, importance)}
    total, activation = parts["recon"], sae.config.activation
    if architecture is Architecture.MATRYOSHKA:
        parts["prefixes"] = _prefixes(sae, options.widths, f, target, weights, importance)
        total += parts["prefixes"]
    if activation in (Activation.RELU, Activation.JUMPRELU, Activation.GATED):
        parts["sparsity"] = _sparsity(sae, architecture, options, z, f, weights)
        total += sparsity_weight(options, ctx) * parts["sparsity"]
    if activation is Activation.GATED:
        parts["gate_recon"] = _gate_error(sae, z, target, weights, importance)
        total += parts["gate_recon"]
    if activation is Activation.JUMPRELU and options.pre_activation and dead is not None:
        below = jax.nn.relu(align(sae.threshold[...], z) - z) * align(sae.decoder_norms(), z)
        parts["pre_activation"] = jnp.sum(jnp.where(dead[None], below, 0).sum(-1) * weights)
        total += options.pre_activation * parts["pre_activation"]
    chosen = activation in (Activation.TOPK, Activation.BATCH_TOPK)
    if chosen and dead is not None and options.auxiliary is not Auxiliary.NONE:
        parts["auxk"] = auxiliary_loss(sae, options, z, output, target, weights, dead)
        total += parts["auxk"]
    return Terms(total, parts, f, output)


def sparsity_weight(options: LossOptions, ctx: Context) -> Float[Array, ""]:
    """Return the weight of the sparsity loss at a step, after its warm-up."""
    weight: Any = ctx.hparams.get("sparsity", jnp.float32(options.sparsity))
    if not options.sparsity_warmup:
        return weight
    return weight * jnp.minimum(ctx.step.astype(jnp.float32) / options.sparsity_warmup, 1)


def _sparsity(
    sae: SparseAutoencoder,
    architecture: Architecture,
    options: LossOptions,
    z: Float[Array, "B F"],
    f: Float[Array, "B F"],
    weights: Float[Array, "B"],
) -> Float[Array, ""]:
    """Return the sparsity loss, without its weight."""
    kind = sae.config.activation
    if kind is Activation.GATED:
        return jnp.sum(jax.nn.relu(z).sum(-1) * weights)
    if kind is Activation.RELU:
        plain = architecture is Architecture.TIED_BIAS
        scaled = f if plain else f * align(sae.decoder_norms(), f)
        return jnp.sum(scaled.sum(-1) * weights)
    if options.jump is Sparsity.TANH:
        scaled = jnp.tanh(options.tanh_scale * f * align(sae.decoder_norms(), f))
        return jnp.sum(scaled.sum(-1) * weights)
    active: Any = step(z, sae.threshold[...], sae.config.bandwidth)
    l0 = jnp.sum(active.sum(-1) * weights)
    if options.jump is Sparsity.STEP:
        return l0
    rows, target = jnp.maximum(weights.sum(), 1e-30), options.target_l0
    return rows * (2 / target) * jnp.square(l0 / rows - target)


def _gate_error(
    sae: SparseAutoencoder,
    z: Float[Array, "B F"],
    target: Float[Array, "B O"],
    weights: Float[Array, "B"],
    importance: Float[Array, " O"] | None,
) -> Float[Array, ""]:
    """Return the error of what the gate alone reconstructs; the decoder has no gradient here."""
    frozen, bias = jax.lax.stop_gradient((sae.w_dec[...], sae.b_dec[...]))
    guess = jax.nn.relu(z) @ frozen
    return squared_error(guess + align(bias, guess), target, weights, importance)


def _prefixes(
    sae: SparseAutoencoder,
    widths: tuple[int, ...],
    f: Float[Array, "B F"],
    target: Float[Array, "B O"],
    weights: Float[Array, "B"],
    importance: Float[Array, " O"] | None,
) -> Float[Array, ""]:
    """Return the errors of reconstructions by prefixes of the latents, all but the whole.

    All prefixes have the latents that one selection over the whole batch has chosen. The output of
    a prefix is that of the shorter one and its own part, so that no latent is decoded twice.
    """
    if sae.config.rescale_by_decoder_norm:
        f = f / align(sae.decoder_norms(), f)
    output, start, errors = align(sae.b_dec[...], target), 0, jnp.float32(0)
    for width in widths:
        if width < sae.config.d_sae:
            output = output + f[:, start:width] @ sae.w_dec[...][start:width]
            errors += squared_error(output, target, weights, importance)
            start = width
    return errors


def auxiliary_loss(
    sae: SparseAutoencoder,
    options: LossOptions,
    z: Float[Array, "B F"],
    output: Float[Array, "B O"],
    target: Float[Array, "B O"],
    weights: Float[Array, "B"],
    dead: Bool[Array, "F"],
) -> Float[Array, ""]:
    """Return the weighted loss of dead latents that explain the error (AuxK).

    The bias is in neither the error nor its explanation. OpenAI's loss is 1/32 of the unexplained
    share of the error's variance, beside a reconstruction that is divided by the variance of the
    targets. Here both are multiplied by this variance.

    Args:
        sae: the dictionary.
        options: the variant, its weight and k_aux.
        z: pre-activations, by which latents are selected.
        output: reconstructions.
        target: targets.
        weights: weight of each row.
        dead: the dead latents. Any number of them: with fewer than k_aux, all are used.
    """
    k_aux = min(options.k_aux or max(target.shape[-1] // 2, 1), sae.config.d_sae)
    openai = options.auxiliary is Auxiliary.OPENAI

    def loss(z: Array) -> Array:
        chosen = top_k_mask(jnp.where(dead[None], z, -jnp.inf), k_aux) & dead[None]
        f = jnp.where(chosen, jax.nn.relu(z) if openai else z, 0)
        error = jax.lax.stop_gradient(target - output)
        missed = squared_error(sae.linear_decode(f), error, weights)
        if openai:
            weight = options.auxiliary_weight or OPENAI_WEIGHT
            spread, spread_error = (variance(x, weights) for x in (target, error))
            return weight * missed * spread / jnp.maximum(spread_error, 1e-30)
        few = jnp.minimum(dead.sum(dtype=jnp.float32) / k_aux, 1)
        return (options.auxiliary_weight or 1.0) * few * missed

    return jax.lax.cond(jnp.any(dead), loss, lambda z: jnp.float32(0), z)


def variance(x: Float[Array, "B O"], weights: Float[Array, "B"]) -> Float[Array, ""]:
    """Return the summed squared distance of rows to their mean, without gradient."""
    x = jax.lax.stop_gradient(x)
    mean = jnp.sum(x * weights[:, None], axis=0) / jnp.maximum(weights.sum(), 1e-30)
    return jnp.sum(jnp.square(x - mean[None]).sum(-1) * weights)


def reconstruction_sums(
    output: Float[Array, "B O"],
    target: Float[Array, "B O"],
    weights: Float[Array, "B"],
    shift: Float[Array, " O"],
) -> dict[str, tuple[Array, Array]]:
    """Return the sums from which `fvu` computes the fraction of unexplained variance of a data set.

    Args:
        output: reconstructions.
        target: targets.
        weights: weight of each row.
        shift: a constant near the targets' mean, which keeps sums of squares small.
    """
    rows, target_0 = weights.sum(), target - align(shift, target)
    norms = jnp.linalg.norm(output, axis=-1), jnp.linalg.norm(target, axis=-1)
    cosine = jnp.sum(output * target, axis=-1) / jnp.maximum(norms[0] * norms[1], 1e-30)
    ratio = norms[0] / jnp.maximum(norms[1], 1e-30)
    return {
        "error": (squared_error(output, target, weights), rows),
        "square": (jnp.sum(jnp.square(target_0).sum(-1) * weights), rows),
        "first": (jnp.sum(target_0 * weights[:, None], axis=0), rows),
        "cosine": (jnp.sum(cosine * weights), rows),
        "norm_ratio": (jnp.sum(ratio * weights), rows),
    }


def fvu(sums: dict[str, tuple[Any, Any]]) -> float:
    """Return sum |x - y|^2 / sum |x - mean|^2 over a data set; nan without a spread.

    Args:
        sums: added `reconstruction_sums`.
    """
    error, square, rows = float(sums["error"][0]), float(sums["square"][0]), float(sums["error"][1])
    first = sums["first"][0]
    spread = square - float((first * first).sum()) / max(rows, 1e-30)
    return error / spread if spread > 0 else float("nan")
