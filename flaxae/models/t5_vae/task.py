"""The task of training a T5-VAE: data, loss, evaluation sums, samples."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from flaxae.config import Config, DataConfig, TaskConfig
from flaxae.config.horizon import horizon
from flaxae.config.ranges import NonNegative, Range, Whole
from flaxae.data.config import TextDataConfig, text_data
from flaxae.data.hub import TextData, text_sources
from flaxae.data.plan import planned_spec
from flaxae.data.pretrained import check_vocabulary
from flaxae.data.tokenizer import Tokenizer
from flaxae.errors import require
from flaxae.lm.t5.modeling import T5Config
from flaxae.losses import Kernel
from flaxae.models.t5_vae import flops, objectives
from flaxae.models.t5_vae import noise as noise_lib
from flaxae.models.t5_vae.bottlenecks import LatentConfig, sampled
from flaxae.models.t5_vae.modeling import T5VAEModel
from flaxae.models.t5_vae.noise import NoiseConfig
from flaxae.models.t5_vae.reading import flat
from flaxae.models.t5_vae.terms import Terms
from flaxae.task import Context, Loss, Rows, Source, Sums, Task
from flaxae.text_autoencoder import kl, split_terms, vocabulary
from flaxae.text_autoencoder.batches import compare, rows_of
from flaxae.text_autoencoder.kl import WeightSchedule
from flaxae.text_autoencoder.samples import sample_texts

Chunks = Annotated[int, Range(0, 1024, "[]")]  # each is a part of the program


@dataclasses.dataclass
class T5VAEConfig(TaskConfig):
    """The model and its loss (see `objectives`): by default only reconstruction and MMD."""

    data_class: ClassVar[type[DataConfig]] = TextDataConfig

    t5: T5Config = dataclasses.field(default_factory=T5Config)
    latent: LatentConfig = dataclasses.field(default_factory=LatentConfig)
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    mmd_weight: NonNegative = 10.0
    mmd_schedule: WeightSchedule = WeightSchedule.LINEAR
    # The weight rises linearly from mmd_start times the weight over mmd_ramp steps (0: constant).
    # At first the MMD's gradient is a hundred times the reconstruction's, which must be learned
    # before.
    mmd_start: NonNegative = 1.0
    mmd_ramp: Whole = 0
    mmd_kernel: Kernel = Kernel.IMQ
    kl_weight: NonNegative = 0.0  # the beta of a beta-VAE; needs latent.gaussian
    kl_schedule: WeightSchedule = WeightSchedule.LINEAR
    kl_start: NonNegative = 1.0
    kl_ramp: Whole = 0
    kl_cycles: Whole = 0  # cycles of annealing over the run, from 0 to the weight; 0: none
    kl_free_bits: NonNegative = 0.0  # free nats per dimension, on average over the batch
    kl_threshold: NonNegative = 0.0  # free nats per dimension in each text (OPTIMUS' lambda)
    bar: NonNegative = 0.0  # loss in nats per token below which WeightSchedule.BAR raises a weight
    cycle_weight: NonNegative = 0.0  # pulls codes of the decoder's soft output to the decoded codes
    critic_weight: NonNegative = 0.0  # ACAI: a critic must not detect mixed codes in their output
    # True: all buckets are put on one token axis, for large matmuls on one device. False, and
    # always on several devices: one bucket after another, so that no rows move between devices.
    pack_buckets: bool = True
    # Above 0: the output head and its loss are computed in this number of parts of the tokens, so
    # that the logits of one part stay in the CPU's cache and never all exist at once. It is ignored
    # on several devices.
    loss_chunks: Chunks = 0

    def make(self, config: Config) -> "T5VAETask":
        """Return the task of a config."""
        return T5VAETask(config)

    @classmethod
    def open_autoencoder(cls, source: str | Path) -> Any:
        """Open a trained run or a saved model as `flaxae.T5VAE`."""
        from flaxae.models.t5_vae.api import T5VAE

        return T5VAE.from_pretrained(source, cls)

    def validate(self) -> None:
        """Check the fields, and that they fit each other."""
        require(
            not (self.kl_free_bits and self.kl_threshold),
            "task.kl_free_bits and task.kl_threshold are alternatives: set only one of them",
        )
        require(
            self.latent.gaussian or not self.kl_weight,
            f"task.kl_weight={self.kl_weight} needs task.latent.gaussian=True: a deterministic "
            "code has no KL",
        )
        for prefix in ("mmd", "kl"):
            if getattr(self, f"{prefix}_schedule") is WeightSchedule.BAR:
                start = getattr(self, f"{prefix}_start")
                require(
                    self.bar > 0 and start < 1,
                    f"task.{prefix}_schedule=bar needs task.bar above 0 (nats per token) and "
                    f"task.{prefix}_start below 1",
                )

    @property
    def has_bar(self) -> bool:
        """True if a weight waits for the reconstruction loss to pass `bar`."""
        return WeightSchedule.BAR in (self.mmd_schedule, self.kl_schedule)


class T5VAETask(Task):
    """The task of a T5VAEConfig."""

    hparams = {"mmd_weight": "task.mmd_weight", "kl_weight": "task.kl_weight"}
    # Heads, feed-forward width and vocabulary are split over the model axis.
    sharding_rules = (
        (r"/(q|k|v|wi|wi_0|wi_1)/kernel$", P(None, None, "model")),
        (r"/(o|wo)/kernel$", P(None, "model", None)),
        (r"embedding/table$", P("model", None)),
        (r"head/kernel$", P(None, "model")),
    )

    def __init__(self, config: Config):
        require(isinstance(config.task, T5VAEConfig), "task: not a T5VAEConfig")
        self.config = config
        self.data_config = text_data(config)
        self.options: Any = config.task
        self.terms = Terms(config)
        noise, rows = self.options.noise, self.t5.vocab_size
        require(
            not (noise.mask or noise.word_dropout) or noise.mask_id < rows,
            f"task.noise.mask_id={noise.mask_id} is not an id of a vocabulary of {rows}",
        )
        self._kept_tokenizer: Tokenizer | None = None  # from an earlier start of the same run

    @cached_property
    def text(self) -> TextData:
        """The corpus with its tokenizer and splits, loaded at first use."""
        # A kept tokenizer was checked before, and the files of the first parameters may be gone.
        rows, new = self.t5.vocab_size, self._kept_tokenizer is None
        if new:
            vocabulary.check_named(self.config)
        text = text_sources(self.data_config, self._kept_tokenizer, rows)
        if self.config.pretrained:
            check_vocabulary(text.tokenizer, rows, pretrained=True)
        if new:
            vocabulary.check_first(self.config, text.tokenizer, rows)
        return text

    def data(self, split: str) -> Source:
        """Return the batches of a split."""
        return self.text.source(split)

    def data_notes(self) -> list[str]:
        """Return remarks on what the corpus and its splits contain."""
        return self.text.notes()

    def batch_spec(self) -> Any:
        """Return the shapes of a batch, without loading texts if the config determines them."""
        return planned_spec(self.data_config) or self.data("train").batch_spec

    @property
    def t5(self) -> T5Config:
        """The T5's sizes, the vocabulary's included."""
        t5 = self.options.t5
        return dataclasses.replace(t5, vocab_size=t5.vocab_size or self.data_config.vocab_size)

    def init(self, rngs: nnx.Rngs) -> T5VAEModel:
        """Return an untrained model."""
        model = T5VAEModel(self.t5, self.options.latent, self.data_config.max_length, rngs=rngs)
        if self.options.critic_weight:
            model.critic = objectives.Critic(self.options.latent.size, rngs)
        if self.options.has_bar:
            model.progress = kl.BarMonitor()
        return model

    def load_pretrained(self, abstract: Any, shardings: Any) -> dict[str, Any]:
        """Read the weights of a pretrained T5 (see `params.load_pretrained`)."""
        from flaxae.models.t5_vae import params

        return params.load_pretrained(self.config.pretrained, self.t5, abstract, shardings)

    def loss(self, model: T5VAEModel, batch: dict[str, Any], ctx: Context) -> Loss:
        """Return the loss that `objectives` describes, with its terms as metrics.

        Raises:
            ConfigError: in training, if a micro-batch has too few texts for a term (when traced).
        """
        return self._loss(model, batch, ctx)[0]

    def _loss(
        self, model: T5VAEModel, batch: dict[str, Any], ctx: Context, split: bool = False
    ) -> tuple[Loss, tuple[Array, Array | None]]:
        """Return the loss of a batch, and mean and log-variance of its codes.

        With `split` the terms that are not sums over texts are left out (see `split_terms`).
        """
        ids, rows = rows_of(batch)
        if ctx.train:
            objectives.check_rows(self.config, [x.shape[0] for x in ids])
        noise = self.options.noise
        num_tokens = self.text.tokenizer.vocab_size if noise.replace else 0
        read = noise_lib.corrupted(ids, noise, num_tokens, ctx, horizon(self.config))
        z, log_variance = self.terms.posterior(model, read, ctx)
        # With reads_noise one per text in training, which the decoder reads, otherwise one for all.
        drawn = model.drawn_sigma(z.shape[0], ctx) if ctx.train and model.reads_noise else None
        sigma = model.sigma(ctx.step)
        sigmas = sigma if drawn is None else drawn
        noisy = model.received(sampled(z, log_variance, ctx), sigmas, ctx)
        mmd_value = jnp.float32(0) if split else self.terms.mmd(model, flat(noisy), rows, ctx)
        code = model.clean_code(z, ctx.step)
        if ctx.train:
            code = noise_lib.dropped_latents(noisy, noise, ctx)
        inputs = noise_lib.decoder_inputs(ids, noise, ctx)
        states, (recon, correct, tokens) = self.terms.reconstruction(
            model, code, ids, inputs, rows, ctx, drawn
        )
        total, metrics = recon, {"recon": (recon, tokens), "token_accuracy": (correct, tokens)}
        texts = jnp.sum(rows)
        weight = self.terms.weight("mmd", model, ctx)
        total += tokens * weight * mmd_value
        measured = tokens if ctx.train else jnp.where(texts < 2, 0, tokens)
        metrics["mmd"] = (mmd_value * tokens, measured)
        metrics["mmd_weighted"] = (weight * mmd_value * tokens, measured)
        if log_variance is not None:
            weight = self.terms.weight("kl", model, ctx)
            raw, floored = kl.kl_terms(
                flat(z),
                flat(log_variance),
                rows,
                free_bits=self.options.kl_free_bits,
                threshold=self.options.kl_threshold,
            )
            if not (split and self.options.kl_free_bits):
                total += weight * floored
            metrics["kl"] = (raw, texts)  # nats per text
            metrics["kl_weighted"] = (weight * floored, tokens)
            metrics["kl_weight"] = (weight * tokens, tokens)
        if ctx.train:
            terms = self.terms.smoothness(model, code, states, ids, inputs, rows, ctx, drawn)
            for name, (value, factor) in terms.items():
                total += tokens * factor * value
                metrics[name] = (value * tokens, tokens)
                metrics[f"{name}_weighted"] = (factor * value * tokens, tokens)
            if self.options.has_bar:
                model.progress.update(recon / jnp.maximum(tokens, 1), self.options.bar, ctx.step)
            if self.options.latent.target_bits:
                rising = sigma if self.options.latent.noise_steps else None
                held, bits = model.capacity.update(flat(z), rising)
                metrics["bits"] = (bits * texts, texts)  # at the sigma of this step
                metrics["bits_held"] = (held * texts, texts)  # at the controller's sigma
        metrics["sigma"] = (sigma * tokens, tokens)
        metrics["z_norm"] = (jnp.sum(jnp.linalg.norm(flat(z), axis=-1) * rows), texts)
        return Loss(total, tokens, metrics), (z, log_variance)

    def eval_step(self, model: T5VAEModel, batch: Any, ctx: Context) -> Sums:
        """Return sums of the teacher-forced loss and of free-running greedy reconstruction.

        The codes are collected, for `finalize`.
        """
        loss, (z, log_variance) = self._loss(model, batch, ctx, split=True)
        ids, rows = rows_of(batch)
        output = model.generate(model.clean_code(z, ctx.step), ctx, self.text.tokenizer.vocab_size)
        exact, matches, longest = compare(output, ids, model.max_length)
        sums = {
            "loss": (loss.total, loss.weight),
            **{k: v for k, v in loss.metrics.items() if k != "token_accuracy"},
            "forced_accuracy": loss.metrics["token_accuracy"],
            "exact_match": (jnp.sum(exact * rows), jnp.sum(rows)),
            "token_accuracy": (jnp.sum(matches * rows), jnp.sum(longest * rows)),
            "codes": Rows(z, rows),
        }
        # For `finalize`, which multiplies it by the MMD.
        sums["mmd_weighted"] = (self.terms.weight("mmd", model, ctx) * loss.weight, loss.weight)
        if log_variance is not None:
            sums["log_variances"] = Rows(log_variance, rows)
        return sums

    def finalize(self, sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
        """Return the metrics of a split, with the loss terms that are not sums over texts.

        The MMD of fewer than two texts is nan, and does not count in the loss.
        """
        return split_terms.add(super().finalize(sums), sums, self.options, self.config.data.seed)

    def sample(self, model: T5VAEModel, ctx: Context, n: int) -> dict[str, list[str]]:
        """Return texts for the log: reconstructions, samples and an interpolation."""
        return sample_texts(self, model, ctx, n)

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """Evaluate a trained run (see `evaluation`)."""
        from flaxae.models.t5_vae import evaluation

        loaded.check_data()
        return evaluation.report(loaded, outdir)

    def save_assets(self, workdir: str) -> None:
        """Store the tokenizer in the workdir."""
        self.text.tokenizer.save(Path(workdir) / "tokenizer.json")

    def load_assets(self, workdir: str) -> None:
        """Read the tokenizer from the workdir."""
        self._kept_tokenizer = Tokenizer.load(Path(workdir) / "tokenizer.json")

    def flops(self, batch_spec: dict[str, Any], hparams: dict[str, Any]) -> float:
        """Return the matmul FLOPs of a train step."""
        options = self.options
        shapes = [bucket["ids"].shape for bucket in batch_spec.values()]
        return flops.train_step(
            self.t5,
            options.latent,
            self.data_config.max_length,
            shapes,
            cycle=options.cycle_weight > 0,
            critic=options.critic_weight > 0,
        )
