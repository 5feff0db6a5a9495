"""The terms of a T5-VAE's loss, computed from batches of several lengths (see `objectives`)."""

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from flaxae.config import Config
from flaxae.config.horizon import horizon
from flaxae.lm.t5.modeling import PAD
from flaxae.losses import mmd
from flaxae.models.t5_vae import objectives
from flaxae.models.t5_vae.modeling import T5VAEModel
from flaxae.models.t5_vae.reading import flat
from flaxae.task import Context
from flaxae.text_autoencoder import kl
from flaxae.text_autoencoder.batches import one_device


class Terms:
    """The terms of the loss and their weights.

    Args:
        config: the run's config, of a T5-VAE.
    """

    def __init__(self, config: Config):
        self._config = config
        self._options: Any = config.task

    def weight(self, name: str, model: T5VAEModel, ctx: Context) -> Float[Array, ""]:
        """Return the weight of "mmd" or "kl" at this step."""
        options = self._options
        weight: Any = ctx.hparams.get(
            f"{name}_weight", jnp.float32(getattr(options, f"{name}_weight"))
        )
        weight = weight * kl.weight_factor(
            getattr(options, f"{name}_schedule"),
            ctx.step,
            start=getattr(options, f"{name}_start"),
            ramp=getattr(options, f"{name}_ramp"),
            passed=model.progress.passed if options.has_bar else None,
        )
        if name == "kl":
            end = horizon(self._config)
            weight = weight * kl.cyclical_factor(ctx.step, end, options.kl_cycles)
        return weight

    def posterior(
        self, model: T5VAEModel, ids: list[Array], ctx: Context
    ) -> tuple[Float[Array, "B L Z"], Float[Array, "B L Z"] | None]:
        """Return mean and log-variance of the codes; the latter is None for plain codes."""
        parts = [model.posterior(group, ctx) for group in self._groups(ids)]
        return jax.tree.map(lambda *x: jnp.concatenate(x), parts[0], *parts[1:])

    def _groups(self, ids: list[Array]) -> list[list[Array]]:
        """Group the buckets that run together: all on one device, each alone on several devices."""
        return [ids] if self._options.pack_buckets and one_device() else [[part] for part in ids]

    def mmd(
        self, model: T5VAEModel, noisy: Float[Array, "B Z"], rows: Float[Array, "B"], ctx: Context
    ) -> Float[Array, ""]:
        """Return the MMD^2 of noisy codes and the prior; in training, also update the queue.

        Under gradient accumulation each micro-batch reads the queue that the previous one left, and
        the gradient is the mean over micro-batches, weighted by their tokens.
        """
        queue: Any = model.queue[...] if ctx.train and self._options.latent.queue else None
        count = noisy.shape[0] + (0 if queue is None else queue.shape[0])
        if count < 2:
            # A lane may have a weight if the config has none: it fails, as its loss is not finite.
            weight: Any = ctx.hparams.get("mmd_weight", jnp.float32(0))
            return jnp.where(ctx.train & (weight > 0), jnp.nan, 0)
        prior = jax.random.normal(ctx.at("prior").key, (count, noisy.shape[1]), jnp.float32)
        value = mmd(
            noisy,
            prior,
            self._options.mmd_kernel,
            weights=None if ctx.train else rows,
            reference=queue,
        )
        if queue is not None:
            new = jnp.concatenate([jax.lax.stop_gradient(noisy), queue])
            model.queue[...] = new[: queue.shape[0]]
        return value

    def reconstruction(
        self,
        model: T5VAEModel,
        code: Array,
        ids: list[Array],
        inputs: list[Array] | None,
        rows: Array,
        ctx: Context,
        sigma: Array | None = None,
    ) -> tuple[list[Array], tuple[Array, Array, Array]]:
        """Return the decoder's states per group, and sums over the real tokens of real rows.

        The sums are the cross entropy, the number of correct tokens and the number of tokens.
        `sigma` is the noise that a decoder with `reads_noise` reads, one per text.
        """
        states = self._decode(model, code, ids, inputs, ctx, sigma)
        chunks = self._options.loss_chunks if one_device() else 0
        sums, start = [], 0
        for group, x in zip(self._groups(ids), states, strict=True):
            weights = []
            for part in group:
                row = rows[start : start + part.shape[0], None]
                weights.append(rearrange((part != PAD).astype(row.dtype) * row, "b t -> (b t)"))
                start += part.shape[0]
            targets = jnp.concatenate([rearrange(part, "b t -> (b t)") for part in group])
            weight = jnp.concatenate(weights)
            sums.append((*model.t5.loss(x, targets, weight, ctx, chunks), weight.sum()))
        return states, jax.tree.map(lambda *x: sum(x[1:], x[0]), *sums)

    def _decode(
        self,
        model: T5VAEModel,
        code: Array,
        ids: list[Array],
        inputs: Any,
        ctx: Context,
        sigma: Array | None,
    ) -> list[Array]:
        out, start = [], 0
        groups = self._groups(ids)
        reads = [None] * len(groups) if inputs is None else self._groups(inputs)
        for group, read in zip(groups, reads, strict=True):
            count = sum(part.shape[0] for part in group)
            part = slice(start, start + count)
            given = None if sigma is None else sigma[part]
            out.append(model.decode(code[part], group, ctx, read, given))
            start += count
        return out

    def smoothness(
        self,
        model: T5VAEModel,
        code: Array,
        states: list[Array],
        ids: list[Array],
        inputs: Any,
        rows: Array,
        ctx: Context,
        sigma: Array | None = None,
    ) -> dict[str, tuple[Array, float]]:
        """Return cycle and critic losses with their weights. `loss_chunks` does not apply to them.

        The cycle loss costs one more pass of the encoder; the critic costs one of the decoder and
        two of the encoder.
        """
        cycle, critic = self._options.cycle_weight, self._options.critic_weight
        if not cycle and not critic:
            return {}

        def again(states: list[Array]) -> Array:
            groups = zip(states, self._groups(ids), strict=True)
            return flat(jnp.concatenate([model.reencode(x, group, ctx) for x, group in groups]))

        out, plain = {}, again(states)
        if cycle:
            out["cycle"] = (objectives.cycle_loss(plain, flat(code), rows), cycle)
        if critic:
            alpha = jax.random.uniform(ctx.at("alpha").key, rows.shape, maxval=0.5)
            part = alpha[:, None, None]
            mixed = (1 - part) * code + part * objectives.rolled(code, [x.shape[0] for x in ids])
            coded = again(self._decode(model, mixed, ids, inputs, ctx, sigma))
            own, its = objectives.critic_losses(model.critic, coded, plain, alpha, rows)
            out |= {"critic_fooled": (own, critic), "critic": (its, critic)}
        return out
