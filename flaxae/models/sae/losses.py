"""Losses of sparse autoencoders and transcoders: sums over rows, to be divided by their weights."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from flaxae.models.sae import few_latents
from flaxae.models.sae.custom_rules import by_platform, grad_in_forward
from flaxae.models.sae.dead import Activity, activity
from flaxae.models.sae.options import Architecture, Auxiliary, Gate, LossOptions, Sparsity
from flaxae.models.sae.reconstruction import squared_error, variance
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
        activity: how often latents are active.
        output: (B, O).
    """

    total: Float[Array, ""]
    parts: dict[str, Float[Array, ""]]
    activity: Activity
    output: Float[Array, "B O"]


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

    Returns:
        The terms. With few active latents, only the total has a gradient.
    """
    few = few_latents.supported(sae, ctx) and architecture is not Architecture.MATRYOSHKA
    if not few:
        at = (x, target, weights, dead, importance)
        return _dense_terms(sae, architecture, options, at, ctx)
    graphdef, params, rest = nnx.split(sae, nnx.Param, ...)

    def call(terms: Any, params: Any, args: Any) -> Any:
        (rest, step, hparams, own), selection = args
        at = dataclasses.replace(ctx, key=jax.random.key(0), step=step, hparams=hparams)
        found = terms(nnx.merge(graphdef, params, rest), own, at, selection)
        return found.total, found

    def chosen(params: Any, args: Any) -> few_latents.Selection:
        rest, step, hparams, (x, _, weights, *_) = args
        at = dataclasses.replace(ctx, key=jax.random.key(0), step=step, hparams=hparams)
        return few_latents.select(nnx.merge(graphdef, params, rest), x, weights, at)

    def pick(functions: Any, params: Any, args: Any) -> Any:
        by_few, by_all = functions

        def cpu(params: Any, args: Any) -> Any:
            selection = chosen(params, args)
            if sae.config.activation is Activation.TOPK:
                return by_few(params, (args, selection))
            return jax.lax.cond(selection.fits, by_few, by_all, params, (args, selection))

        return by_platform(cpu, lambda params, args: by_all(params, (args, None)), params, args)

    terms = (
        partial(call, partial(_few_terms, options)),
        partial(call, lambda sae, at, ctx, _: _dense_terms(sae, architecture, options, at, ctx)),
    )
    args = (rest, ctx.step, ctx.hparams, (x, target, weights, dead, importance))
    made: Any = grad_in_forward(pick, terms, params, args)
    total, found = made
    return found._replace(total=total)


def _few_terms(
    options: LossOptions,
    sae: SparseAutoencoder,
    batch: tuple,
    ctx: Context,
    selection: few_latents.Selection,
) -> Terms:
    """Return the terms of a dictionary with top-k or batch top-k, from the chosen latents."""
    x, target, weights, dead, importance = batch
    f, output = few_latents.encode(sae, x, selection)
    parts = {"recon": squared_error(output, target, weights, importance)}
    total = parts["recon"]
    if dead is not None and options.has_auxiliary:
        graphdef, params, rest = nnx.split(sae, nnx.Param, ...)

        def loss(params: Any, args: Any) -> Any:
            rest, (x, *own) = args
            model = nnx.merge(graphdef, params, rest)
            return _dead_loss(model, options, model.pre_activations(x, ctx), *own), None

        def none(params: Any, args: Any) -> Any:
            return jnp.float32(0), None

        def pick(functions: Any, params: Any, args: Any) -> Any:
            return jax.lax.cond(jnp.any(args[1][-1]), *functions, params, args)

        args = (rest, (x, output, target, weights, dead))
        made: Any = grad_in_forward(pick, (loss, none), params, jax.lax.stop_gradient(args))
        parts["auxk"] = made[0]
        total += parts["auxk"]
    return Terms(
        total, parts, activity(f.values, weights, f.chosen.indices, sae.config.d_sae), output
    )


def _dense_terms(
    sae: SparseAutoencoder,
    architecture: Architecture,
    options: LossOptions,
    batch: tuple,
    ctx: Context,
) -> Terms:
    """Return the terms of a batch, from all latents."""
    x, target, weights, dead, importance = batch
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
        parts["gate_recon"] = _gate_error(sae, options, z, target, weights, importance)
        total += parts["gate_recon"]
    if activation is Activation.JUMPRELU and options.pre_activation and dead is not None:
        below = jax.nn.relu(align(sae.threshold[...], z) - z) * align(sae.decoder_norms(), z)
        parts["pre_activation"] = jnp.sum(jnp.where(dead[None], below, 0).sum(-1) * weights)
        total += options.pre_activation * parts["pre_activation"]
    chosen = activation in (Activation.TOPK, Activation.BATCH_TOPK)
    if chosen and dead is not None and options.has_auxiliary:
        parts["auxk"] = auxiliary_loss(sae, options, z, output, target, weights, dead)
        total += parts["auxk"]
    return Terms(total, parts, activity(f, weights), output)


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
        gate = jax.nn.relu(z)
        weighted = options.gate is Gate.SAELENS
        gate = gate * align(sae.decoder_norms(), gate) if weighted else gate
        return jnp.sum(gate.sum(-1) * weights)
    if kind is Activation.RELU:
        plain = architecture is Architecture.TIED_BIAS
        scaled = f if plain else f * align(sae.decoder_norms(), f)
        return jnp.sum(scaled.sum(-1) * weights)
    if options.jump is Sparsity.TANH:
        scaled = jnp.tanh(options.tanh_scale * f * align(sae.decoder_norms(), f))
        return jnp.sum(scaled.sum(-1) * weights)
    active: Any = step(z, sae.threshold[...], sae.config.bandwidth)
    l0 = active.sum(-1)
    if options.jump is Sparsity.QUADRATIC:
        l0 = (2 / options.target_l0) * jnp.square(l0 - options.target_l0)
    return jnp.sum(l0 * weights)


def _gate_error(
    sae: SparseAutoencoder,
    options: LossOptions,
    z: Float[Array, "B F"],
    target: Float[Array, "B O"],
    weights: Float[Array, "B"],
    importance: Float[Array, " O"] | None,
) -> Float[Array, ""]:
    """Return the error of what the gate alone reconstructs."""
    decoder: Any = (sae.w_dec[...], sae.b_dec[...])
    w_dec, bias = jax.lax.stop_gradient(decoder) if options.gate is Gate.PAPER else decoder
    guess = jax.nn.relu(z) @ w_dec
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
    args = (output, target, weights, dead)
    return jax.lax.cond(
        jnp.any(dead), lambda z: _dead_loss(sae, options, z, *args), lambda z: jnp.float32(0), z
    )


def _dead_loss(
    sae: SparseAutoencoder,
    options: LossOptions,
    z: Float[Array, "B F"],
    output: Float[Array, "B O"],
    target: Float[Array, "B O"],
    weights: Float[Array, "B"],
    dead: Bool[Array, "F"],
) -> Float[Array, ""]:
    """Return the `auxiliary_loss` of at least one dead latent."""
    k_aux = min(options.k_aux or max(target.shape[-1] // 2, 1), sae.config.d_sae)
    openai = options.auxiliary is Auxiliary.OPENAI

    chosen = top_k_mask(jnp.where(dead[None], z, -jnp.inf), k_aux) & dead[None]
    f = jnp.where(chosen, jax.nn.relu(z) if openai else z, 0)
    error = jax.lax.stop_gradient(target - output)
    missed = squared_error(sae.linear_decode(f), error, weights)
    if openai:
        weight = options.auxiliary_weight * OPENAI_WEIGHT
        spread, spread_error = (variance(x, weights) for x in (target, error))
        return weight * missed * spread / jnp.maximum(spread_error, 1e-30)
    few = jnp.minimum(dead.sum(dtype=jnp.float32) / k_aux, 1)
    return options.auxiliary_weight * few * missed
