"""The task of training a Funnel AE: data, loss, evaluation sums, samples."""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from flaxae.config import Config, DataConfig, TaskConfig
from flaxae.config.ranges import NonNegative, Rate
from flaxae.data.config import TextDataConfig
from flaxae.data.tokenizer import PAD
from flaxae.errors import require
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.models.funnel_ae import flops, terms
from flaxae.models.funnel_ae.latents import Bottleneck, Encoding, LatentConfig
from flaxae.models.funnel_ae.modeling import FunnelAEModel
from flaxae.models.funnel_ae.places import Chunks, PlacesTask, accuracy_sums, head_loss
from flaxae.models.funnel_ae.skips import Skip, SkipConfig
from flaxae.models.funnel_ae.upsampling import Upsampling
from flaxae.task import Context, Loss, Rows, Sums
from flaxae.text_autoencoder import kl, split_terms
from flaxae.text_autoencoder.batches import one_device
from flaxae.text_autoencoder.kl import WeightSchedule


@dataclasses.dataclass
class FunnelAEConfig(TaskConfig):
    """The model and its loss: cross entropy of all real tokens, and the options below."""

    data_class: ClassVar[type[DataConfig]] = TextDataConfig

    funnel: FunnelConfig = dataclasses.field(
        default_factory=lambda: FunnelConfig(separate_cls=False, embedding_std=0.02)
    )
    latent: LatentConfig = dataclasses.field(default_factory=LatentConfig)
    skip: SkipConfig = dataclasses.field(default_factory=SkipConfig)
    upsampling: Upsampling = Upsampling.HAAR
    share: bool = False  # the decoder uses the encoder's blocks
    detail_weight: NonNegative = 0.0  # HAAR: weight of the squared error of predicted details
    mask_prob: Rate = 0.0  # probability that an input token is masked in training
    # Above 0: training computes the head and its loss in this number of parts of the places, so
    # that the logits of one part stay in the CPU's cache, and not at all for parts that are
    # padding. It is ignored on several devices.
    loss_chunks: Chunks = 0

    def make(self, config: Config) -> "FunnelAETask":
        """Return the task of a config."""
        return FunnelAETask(config)

    @classmethod
    def open_autoencoder(cls, source: str | Path) -> Any:
        """Open a trained run or a saved model as `flaxae.FunnelAE`."""
        from flaxae.models.funnel_ae.api import FunnelAE

        return FunnelAE.from_pretrained(source, cls)

    def validate(self) -> None:
        """Check the fields, and that they fit each other."""
        blocks = len(self.funnel.block_sizes)
        self.latent.check(blocks)
        self.skip.check(blocks)
        require(
            not self.detail_weight or self.upsampling is Upsampling.HAAR,
            f"task.detail_weight={self.detail_weight} needs task.upsampling=haar, not "
            f"{self.upsampling.value}",
        )
        require(
            not (self.share and self.latent.encoding is Encoding.FROZEN),
            "task.share=True trains the encoder's blocks in the decoder: task.latent.encoding "
            "cannot be frozen",
        )


class FunnelAETask(PlacesTask):
    """The task of a FunnelAEConfig."""

    hparams = {"latent_weight": "task.latent.weight"}
    sharding_rules = (
        (r"/(q|k|v|wi)/kernel$", P(None, None, "model")),
        (r"/(o|wo)/kernel$", P(None, "model", None)),
        (r"embeddings/tokens/table$", P("model", None)),
    )

    def __init__(self, config: Config):
        require(isinstance(config.task, FunnelAEConfig), "task: not a FunnelAEConfig")
        super().__init__(config)
        self._check_lengths()
        if self.options.latent.encoding is Encoding.FROZEN:
            self.trainable = _without_encoder

    def _check_lengths(self) -> None:
        """Raise ConfigError unless each block halves the length of all rows."""
        funnel, length = self.options.funnel, self.max_length
        require(
            not funnel.separate_cls,
            "task.funnel.separate_cls must be False: an autoencoder has no separate first token, "
            "and its upsamplers double each length",
        )
        self.check_buckets()
        least = 2 ** (len(funnel.block_sizes) - 1)
        require(
            length % least == 0,
            f"data.max_length={length} is not a multiple of {least}: all blocks but the first "
            f"halve the length (task.funnel.block_sizes={funnel.block_sizes}). Set another length, "
            "or fewer blocks",
        )

    @property
    def funnel(self) -> FunnelConfig:
        """The Funnel's sizes, the vocabulary's included."""
        funnel = self.options.funnel
        return dataclasses.replace(
            funnel, vocab_size=funnel.vocab_size or self.data_config.vocab_size
        )

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        return self.funnel.vocab_size

    def init(self, rngs: nnx.Rngs) -> FunnelAEModel:
        """Return an untrained model."""
        options = self.options
        return FunnelAEModel(
            self.funnel,
            options.latent,
            self.max_length,
            upsampling=options.upsampling,
            skip=options.skip,
            share=options.share,
            rngs=rngs,
        )

    def loss(self, model: FunnelAEModel, batch: Any, ctx: Context) -> Loss:
        """Return the cross entropy of all real tokens, with the terms of the options.

        Raises:
            ConfigError: in training, if a micro-batch is too small for an MMD (when traced).
        """
        return self._loss(model, batch, ctx)[0]

    def _loss(
        self, model: FunnelAEModel, batch: Any, ctx: Context
    ) -> tuple[Loss, tuple[Array, Array, Array]]:
        """Return the loss, the mean codes, and the codes and last states of the decoder.

        An evaluation leaves out the MMD, which `finalize` computes over the split.
        """
        options, latent = self.options, self.options.latent
        ids, rows = self.rows(batch)
        encoded = model.encoded(terms.masked(ids, options.mask_prob, ctx), ctx)
        z, log_variance = model.posterior(encoded, ctx)
        code = self._code(model, z, log_variance, rows, ctx)
        states, _ = model.decode(code, ctx, encoded)
        weights = jnp.where(ids != PAD, rows[:, None], 0.0)
        chunks = options.loss_chunks if ctx.train and one_device() else 0
        head = ctx.at("embeddings").at("tokens")
        recon, correct = head_loss(model.embeddings.tokens, states, ids, weights, head, chunks)
        tokens, texts = weights.sum(), rows.sum()
        total, metrics = recon, {"recon": (recon, tokens), "token_accuracy": (correct, tokens)}
        flat = rearrange(z, "B L Z -> B (L Z)")
        weight = self.latent_weight(ctx)
        if latent.kind is Bottleneck.MMD and ctx.train:
            value = terms.batch_mmd(rearrange(code, "B L Z -> B (L Z)"), latent.kernel, ctx)
            total += tokens * weight * value
            metrics["mmd"] = (value * tokens, tokens)
        elif log_variance is not None:
            raw, floored = kl.kl_terms(flat, rearrange(log_variance, "B L Z -> B (L Z)"), rows)
            total += weight * floored
            metrics["kl"] = (raw, texts)  # nats per text
        if options.upsampling is Upsampling.HAAR and len(model.lengths) > 1:
            found = terms.details(model, encoded, rows, ctx)
            unexplained = jnp.stack([x.unexplained() for x in found]).sum()
            total += options.detail_weight * tokens * unexplained
            for k, sums in enumerate(found):
                metrics |= self._details(k, sums, tokens, ctx)
        if options.skip.kind in (Skip.LINEAR, Skip.SIGMOID) and ctx.train:
            for k in range(len(model.lengths) - 1):
                metrics[f"skip_{k}"] = (options.skip.weight(k, ctx.step) * tokens, tokens)
        metrics["z_norm"] = (jnp.sum(jnp.linalg.norm(flat, axis=-1) * rows), texts)
        return Loss(total, tokens, metrics), (z, code, states)

    def latent_weight(self, ctx: Context) -> Float[Array, ""]:
        """Return the weight of the MMD or KL at a step."""
        latent = self.options.latent
        weight: Any = ctx.hparams.get("latent_weight", jnp.float32(latent.weight))
        return weight * kl.weight_factor(
            WeightSchedule.LINEAR, ctx.step, start=0.0, ramp=latent.ramp
        )

    def _code(
        self,
        model: FunnelAEModel,
        z: Float[Array, "B L Z"],
        log_variance: Float[Array, "B L Z"] | None,
        rows: Float[Array, "B"],
        ctx: Context,
    ) -> Float[Array, "B L Z"]:
        """Return the code that the decoder reads: with noise in training, or random."""
        if model.moments is not None:
            if ctx.train:
                model.moments.update(z, rows)
            return model.moments.draw(len(z), ctx.at("random_code"))
        if not ctx.train:
            return z
        sigma = self.options.latent.noise
        if log_variance is None and not sigma:
            return z
        if log_variance is not None:
            sigma = jnp.sqrt(jnp.exp(log_variance) + sigma**2)
        return z + sigma * jax.random.normal(ctx.at("noise").key, z.shape, jnp.float32)

    def _details(
        self, level: int, sums: terms.Details, tokens: Array, ctx: Context
    ) -> dict[str, tuple[Array, Array]]:
        """Return 1 - R^2 of a batch's details, or in an evaluation what `finalize` needs for it."""
        if ctx.train:
            return {f"detail_unexplained_{level}": (sums.unexplained() * tokens, tokens)}
        pairs = zip(("error", "square", "total"), sums, strict=False)
        return {f"detail_{name}s_{level}": (x, sums.count) for name, x in pairs}

    def eval_step(self, model: FunnelAEModel, batch: Any, ctx: Context) -> Sums:
        """Return sums of the loss and of the reconstruction, always without skips."""
        loss, (z, code, states) = self._loss(model, batch, ctx)
        ids, rows = self.rows(batch)
        made = model.choose(model.logits(states, ctx), ctx, self.num_tokens)
        sums = {
            "loss": (loss.total, loss.weight),
            **{k: v for k, v in loss.metrics.items() if k != "token_accuracy"},
            "forced_accuracy": loss.metrics["token_accuracy"],
            **accuracy_sums(made, ids, rows),
        }
        if self.options.latent.kind is Bottleneck.MMD:
            sums["mmd_weight"] = (self.latent_weight(ctx) * loss.weight, loss.weight)
            sums["codes"] = Rows(code, rows)
        return sums

    def finalize(self, sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
        """Return the metrics of a split, with the perplexity of the reconstruction.

        The MMD of fewer than two texts is nan, and does not count in the loss.
        """
        out, latent = super().finalize(sums), self.options.latent
        if latent.kind is Bottleneck.MMD:
            seed = self.config.data.seed
            codes = split_terms.noisy_codes(Rows(*sums["codes"]), None, latent.noise, seed)
            out["mmd"] = split_terms.split_mmd(codes, latent.kernel, seed)
            if math.isfinite(out["mmd"]):
                out["loss"] += out["mmd_weight"] * out["mmd"]
        for k in range(len(self.options.funnel.block_sizes) - 1):
            if f"detail_totals_{k}" in sums:
                found = [sums[f"detail_{name}_{k}"] for name in ("errors", "squares", "totals")]
                error, square, whole = (np.asarray(x) for x, _ in found)
                found = terms.Details(error, square, whole, np.asarray(found[0][1]))
                out[f"detail_unexplained_{k}"] = float(found.unexplained())
                del out[f"detail_errors_{k}"], out[f"detail_squares_{k}"]
        return out | {"perplexity": math.exp(min(out["recon"], 700.0))}

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """Evaluate a trained run (see `evaluation`)."""
        from flaxae.models.funnel_ae import evaluation

        loaded.check_data()
        return evaluation.report(loaded, outdir)

    def load_pretrained(self, abstract: Any, shardings: Any) -> dict[str, Any]:
        """Read encoder and embeddings of a Hugging Face Funnel (see `params`)."""
        from flaxae.models.funnel_ae import params

        return params.load_pretrained(self.config.pretrained, self.funnel, abstract, shardings)

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the matmul FLOPs of a train step."""
        rows = self.num_rows(batch_spec)
        return flops.train_step(self.funnel, self.options.latent, self.max_length, rows)


def _without_encoder(path: tuple, value: Any) -> bool:
    """Return True for trained parameters if the encoder is frozen: all others than its own."""
    return isinstance(value, nnx.Param) and path[0] != "encoder"
