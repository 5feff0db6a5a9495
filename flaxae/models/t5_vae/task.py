"""The T5-VAE as a Task: data, loss, evaluation sums, samples."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from flaxae.config import Config, TaskConfig, require
from flaxae.lm.t5.modeling import PAD, T5Config
from flaxae.losses import Kernel, mmd
from flaxae.models.t5_vae.modeling import T5VAE, Bottleneck, LatentConfig, flat
from flaxae.task import Context, Loss, Source, Task


@dataclasses.dataclass
class T5VAEConfig(TaskConfig):
    """The model and its objective: cross entropy + mmd_weight * MMD^2(z + noise, N(0, I))."""

    t5: T5Config = dataclasses.field(default_factory=T5Config)
    latent: LatentConfig = dataclasses.field(default_factory=LatentConfig)
    mmd_weight: float = 10.0
    # The weight rises linearly from this share of it, over so many steps (0: constant): the MMD's
    # gradient is a hundred times the reconstruction's at first, and codes must be learned before.
    mmd_start: float = 1.0
    mmd_ramp: int = 0
    mmd_kernel: Kernel = Kernel.IMQ
    # All buckets on one token axis: large matmuls, best on one device. Off: bucket after bucket, so
    # that no rows move between the devices of a mesh.
    pack_buckets: bool = True
    # Above 0 the output head and its loss run on so many parts of the tokens: the logits of a part
    # stay in the cache, never all are held. 0 on a mesh: parts would move tokens between devices.
    loss_chunks: int = 0

    def make(self, config: Config) -> "T5VAETask":
        return T5VAETask(config)

    def validate(self) -> None:
        require(self.mmd_weight >= 0, f"task.mmd_weight={self.mmd_weight} must not be negative")
        require(self.mmd_start >= 0, f"task.mmd_start={self.mmd_start} must not be negative")
        require(self.mmd_ramp >= 0, f"task.mmd_ramp={self.mmd_ramp} must not be negative")


class T5VAETask(Task):
    hparams = {"mmd_weight": "task.mmd_weight"}
    # Heads, feed-forward width and vocabulary over the model axis.
    sharding_rules = (
        (r"/(q|k|v|wi|wi_0|wi_1)/kernel$", P(None, None, "model")),
        (r"/(o|wo)/kernel$", P(None, "model", None)),
        (r"embedding/table$", P("model", None)),
        (r"head/kernel$", P(None, "model")),
    )

    def __init__(self, config: Config):
        require(isinstance(config.task, T5VAEConfig), "task: not a T5VAEConfig")
        self.config = config
        self.options: Any = config.task
        self._kept_tokenizer: Any = None  # of an earlier start of the same run

    @cached_property
    def text(self) -> Any:
        """The corpus with its tokenizer and splits; made when first asked for."""
        from flaxae.data.hub import text_sources

        return text_sources(self.config.data, self._kept_tokenizer)

    def data(self, split: str) -> Source:
        return self.text.source(split)

    def init(self, rngs: nnx.Rngs) -> T5VAE:
        t5 = self.options.t5
        t5 = dataclasses.replace(t5, vocab_size=t5.vocab_size or self.config.data.vocab_size)
        return T5VAE(t5, self.options.latent, self.config.data.max_length, rngs=rngs)

    def loss(self, model: T5VAE, batch: Any, ctx: Context) -> Loss:
        ids, rows = rows_of(batch)
        z = self._encode(model, ids, ctx)
        noisy, mmd_value = self._mmd(model, z, rows, ctx)
        code = noisy if ctx.train else model.clean_code(z, ctx.step)
        recon, correct, tokens = self._reconstruction(model, code, ids, rows, ctx)
        weight = self._mmd_weight(ctx)
        weighted = weight * mmd_value
        metrics = {
            "recon": (recon, tokens),
            "mmd": (mmd_value * tokens, tokens),
            "mmd_weighted": (weighted * tokens, tokens),
            "token_accuracy": (correct, tokens),
            "sigma": (model.sigma(ctx.step) * tokens, tokens),
            "z_norm": (jnp.sum(jnp.linalg.norm(flat(z), axis=-1) * rows), jnp.sum(rows)),
        }
        return Loss(recon + tokens * weighted, tokens, metrics)

    def eval_step(self, model: T5VAE, batch: Any, ctx: Context) -> dict[str, tuple[Array, Array]]:
        """Teacher-forced sums of the loss, and free-running greedy reconstruction."""
        loss = self.loss(model, batch, ctx)
        ids, rows = rows_of(batch)
        code = model.clean_code(self._encode(model, ids, ctx), ctx.step)
        made = model.generate(code, ctx, self.text.tokenizer.vocab_size)
        exact, matches, longest = compare(made, ids, model.max_length)
        return {
            "loss": (loss.total, loss.weight),
            **{k: v for k, v in loss.metrics.items() if k != "token_accuracy"},
            "forced_accuracy": loss.metrics["token_accuracy"],
            "exact_match": (jnp.sum(exact * rows), jnp.sum(rows)),
            "token_accuracy": (jnp.sum(matches * rows), jnp.sum(longest * rows)),
        }

    def _mmd_weight(self, ctx: Context) -> Float[Array, ""]:
        weight: Any = ctx.hparams.get("mmd_weight", jnp.float32(self.options.mmd_weight))
        start, ramp = self.options.mmd_start, self.options.mmd_ramp
        if not ramp:
            return weight
        share = jnp.minimum(ctx.step.astype(jnp.float32) / ramp, 1.0)
        return weight * (start + (1 - start) * share)

    def _encode(self, model: T5VAE, ids: list[Array], ctx: Context) -> Float[Array, "B L Z"]:
        if self.options.pack_buckets:
            return model.encode(ids, ctx)
        return jnp.concatenate([model.encode([part], ctx) for part in ids])

    def _mmd(
        self, model: T5VAE, z: Float[Array, "B L Z"], rows: Float[Array, "B"], ctx: Context
    ) -> tuple[Float[Array, "B L Z"], Float[Array, ""]]:
        """z + noise, and its MMD^2 against the prior. In training the queue moves on."""
        noise = jax.random.normal(ctx.at("noise").key, flat(z).shape, jnp.float32)
        noisy = flat(z) + model.sigma(ctx.step) * noise
        queue: Any = model.queue[...] if ctx.train and self.options.latent.queue else None
        count = z.shape[0] + (0 if queue is None else queue.shape[0])
        prior = jax.random.normal(ctx.at("prior").key, (count, noisy.shape[1]), jnp.float32)
        value = mmd(
            noisy,
            prior,
            self.options.mmd_kernel,
            weights=None if ctx.train else rows,
            reference=queue,
        )
        if queue is not None:
            new = jnp.concatenate([jax.lax.stop_gradient(noisy), queue])
            model.queue[...] = new[: queue.shape[0]]
        return noisy.reshape(z.shape), value

    def _reconstruction(
        self, model: T5VAE, code: Array, ids: list[Array], rows: Array, ctx: Context
    ) -> tuple[Array, Array, Array]:
        """Sums over real tokens of real rows: cross entropy, hits, and their number."""
        groups = [ids] if self.options.pack_buckets else [[x] for x in ids]
        sums, start = [], 0
        for group in groups:
            count = sum(x.shape[0] for x in group)
            states = model.decode(code[start : start + count], group, ctx)
            weights, at = [], start
            for x in group:
                row = rows[at : at + x.shape[0], None]
                weights.append(((x != PAD).astype(row.dtype) * row).reshape(-1))
                at += x.shape[0]
            targets = jnp.concatenate([x.reshape(-1) for x in group])
            weight = jnp.concatenate(weights)
            loss = model.t5.loss(states, targets, weight, ctx, self.options.loss_chunks)
            sums.append((*loss, weight.sum()))
            start += count
        recon, correct, tokens = jax.tree.map(lambda *x: sum(x[1:], x[0]), *sums)
        return recon, correct, tokens

    def sample(self, model: T5VAE, ctx: Context, n: int) -> dict[str, list[str]]:
        from flaxae.models.t5_vae import evaluation

        return evaluation.sample_texts(self, model, ctx, n)

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        from flaxae.models.t5_vae import evaluation

        loaded.check_data()
        return evaluation.report(loaded, outdir)

    def save_assets(self, workdir: str) -> None:
        self.text.tokenizer.save(Path(workdir) / "tokenizer.json")

    def load_assets(self, workdir: str) -> None:
        from flaxae.data.tokenizer import Tokenizer

        self._kept_tokenizer = Tokenizer.load(Path(workdir) / "tokenizer.json")

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Matmul FLOPs of a train step: three times the forward pass."""
        t5, latent, max_length = self.options.t5, self.options.latent, self.config.data.max_length
        width, inner, memory = t5.d_model, t5.num_heads * t5.d_kv, latent.memory_tokens
        vocab = t5.vocab_size or self.config.data.vocab_size
        mlp = (2 if t5.feed_forward.value == "relu" else 3) * width * t5.d_ff
        attention, layers, decoders = 4 * width * inner, t5.num_layers, t5.num_decoder_layers
        total = 0.0
        for bucket in batch_spec.values():
            rows, length = bucket["ids"].shape
            tokens = rows * length
            total += layers * tokens * (attention + mlp + 2 * inner * length)
            total += decoders * tokens * (attention + 2 * width * inner + mlp)
            total += decoders * tokens * 2 * inner * (length + memory)
            total += decoders * rows * memory * 2 * width * inner
            total += tokens * width * vocab
            flatten = latent.bottleneck is Bottleneck.FLATTEN
            total += rows * latent.size * width * (max_length if flatten else 1)
            total += rows * latent.size * width * (memory + latent.injection * max_length)
        return 3 * 2 * total


def rows_of(batch: dict[str, Any]) -> tuple[list[Int[Array, "B S"]], Float[Array, "B"]]:
    """Ids of each bucket, shortest first, and the weights of all rows in that order."""
    buckets = [batch[key] for key in sorted(batch)]
    return [b["ids"] for b in buckets], jnp.concatenate([b["weight"] for b in buckets])


def compare(
    made: Int[Array, "B T"], ids: list[Int[Array, "B S"]], max_length: int
) -> tuple[Float[Array, "B"], Float[Array, "B"], Float[Array, "B"]]:
    """Exact match, matching tokens, and the longer of both lengths, a row."""
    truth = jnp.concatenate(
        [jnp.pad(x, ((0, 0), (0, max_length - x.shape[1])), constant_values=PAD) for x in ids]
    )
    longest = jnp.sum((truth != PAD) | (made != PAD), axis=1)
    same = made == truth
    matches = jnp.sum(same & (truth != PAD), axis=1)
    exact = jnp.all(same, axis=1)
    return tuple(x.astype(jnp.float32) for x in (exact, matches, longest))  # pyright: ignore
