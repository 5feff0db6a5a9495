"""A CALM-style autoencoder, a baseline: chunks of K tokens, each with its own latent vector.

The autoencoder of Continuous Autoregressive Language Models (Shao et al. 2025) has no attention:
each token passes a feed-forward layer, the K states of a chunk are mapped to one, which passes
another layer on its way to the latent, and the decoder is the mirror image. The posterior is a
Gaussian whose KL to N(0, I) counts only above a floor per dimension.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from flaxae.config import Config, DataConfig, Section, TaskConfig
from flaxae.config.ranges import Count, NonNegative, Rate, Whole
from flaxae.data.config import TextDataConfig
from flaxae.data.tokenizer import PAD
from flaxae.decoding import Sampling
from flaxae.errors import require
from flaxae.losses import kl_to_standard_normal
from flaxae.models.funnel_ae import terms
from flaxae.models.funnel_ae.places import Chunks, PlacesTask, accuracy_sums, choose, head_loss
from flaxae.nn.linear import Embedding, Linear, dropout
from flaxae.nn.mlp import MLP, FeedForward
from flaxae.nn.norm import RMSNorm
from flaxae.task import Context, Loss, Sums
from flaxae.text_autoencoder.api import TextAutoencoder
from flaxae.text_autoencoder.batches import one_device
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.reconstruction import split_report
from flaxae.text_autoencoder.samples import held_out


# Hashable: it is a static part of the model's graph.
@dataclasses.dataclass(unsafe_hash=True)
class CALMSizes(Section):
    """Sizes of the model."""

    section: ClassVar[str] = "task.calm"

    chunk: Count = 4  # tokens per latent vector
    dim: Count = 128  # width of a latent vector
    width: Count = 512
    d_ff: Count = 1280  # of the SwiGLU layers
    layers: Count = 1  # at the tokens and as many at the chunks, in each of encoder and decoder
    vocab_size: Whole = 0  # rows of the embedding table; 0: data.vocab_size
    dtype: str = "float32"  # type of the computation


@dataclasses.dataclass
class CALMConfig(TaskConfig):
    """The model and its loss: K times the cross entropy per token, and the KL per chunk."""

    data_class: ClassVar[type[DataConfig]] = TextDataConfig

    calm: CALMSizes = dataclasses.field(default_factory=CALMSizes)
    kl_weight: NonNegative = 1e-3
    kl_floor: NonNegative = 0.5  # nats per dimension of a chunk, below which the KL is constant
    mask_prob: Rate = 0.15  # probability that an input token is masked in training
    latent_dropout: Rate = 0.15
    loss_chunks: Chunks = 0  # as in FunnelAEConfig

    def make(self, config: Config) -> "CALMTask":
        """Return the task of a config."""
        return CALMTask(config)

    @classmethod
    def open_autoencoder(cls, source: str | Path) -> Any:
        """Open a trained run or a saved model."""
        return CALMAutoencoder.from_pretrained(source, cls)


class Layer(nnx.Module):
    """x + SwiGLU(norm(x))."""

    def __init__(self, sizes: CALMSizes, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(sizes.dtype)
        self.norm = RMSNorm(sizes.width, dtype=dtype)
        kind = FeedForward.GATED_SILU
        self.mlp = MLP(sizes.width, sizes.d_ff, kind=kind, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... D"]:
        """Apply the layer to each state."""
        return x + self.mlp(self.norm(x, ctx), ctx.at("mlp"))


class Layers(nnx.Module):
    """Layers one after the other."""

    def __init__(self, sizes: CALMSizes, *, rngs: nnx.Rngs):
        self.layers = nnx.List([Layer(sizes, rngs=rngs) for _ in range(sizes.layers)])

    def __call__(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... D"]:
        """Apply the layers to each state."""
        for i, layer in enumerate(self.layers):
            x = layer(x, ctx.at(str(i)))
        return x


class CALMModel(nnx.Module):
    """Embedding, encoder and decoder of chunks, with a tied head.

    Its methods are those of `text_autoencoder.protocol.LatentModel`.
    """

    def __init__(self, sizes: CALMSizes, max_length: int, *, rngs: nnx.Rngs):
        self.sizes, self.max_length = sizes, max_length
        dtype, width = jnp.dtype(sizes.dtype), sizes.width
        self.tokens = Embedding(sizes.vocab_size, width, std=width**-0.5, dtype=dtype, rngs=rngs)
        maps = {
            "squeeze": (sizes.chunk * width, width),
            "posterior": (width, 2 * sizes.dim),
            "up": (sizes.dim, width),
            "expand": (width, sizes.chunk * width),
        }
        self.maps = nnx.Dict(
            {k: Linear(a, b, use_bias=True, dtype=dtype, rngs=rngs) for k, (a, b) in maps.items()}
        )
        names = ("encoder_tokens", "encoder_chunks", "decoder_chunks", "decoder_tokens")
        self.parts = nnx.Dict({name: Layers(sizes, rngs=rngs) for name in names})
        # A tied embedding is small, and the layers are pre-norm: the first norm is theirs.
        self.norm = RMSNorm(width, dtype=dtype)

    @property
    def num_latents(self) -> int:
        """Chunks of a row."""
        return self.max_length // self.sizes.chunk

    @property
    def dim(self) -> int:
        """Width of a latent."""
        return self.sizes.dim

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        return self.sizes.vocab_size

    def posterior(
        self, ids: Int[Array, "B N"], ctx: Context
    ) -> tuple[Float[Array, "B L Z"], Float[Array, "B L Z"]]:
        """Return means and logarithms of variances of the latents, float32."""
        parts: Any = self.parts
        x = parts["encoder_tokens"](self.tokens(ids, ctx.at("tokens")), ctx.at("encoder_tokens"))
        x = rearrange(x, "B (L K) D -> B L (K D)", K=self.sizes.chunk)
        x = parts["encoder_chunks"](self._map("squeeze", x, ctx), ctx.at("encoder_chunks"))
        out = self._map("posterior", x, ctx).astype(jnp.float32)
        mean, log_variance = jnp.split(out, 2, axis=-1)
        return mean, log_variance

    def encode(self, ids: list[Int[Array, "B S"]], ctx: Context) -> Float[Array, "B L Z"]:
        """Return the means of the codes of texts."""
        rows = [jnp.pad(x, ((0, 0), (0, self.max_length - x.shape[1]))) for x in ids]
        return self.posterior(jnp.concatenate(rows), ctx)[0]

    def decode(self, z: Float[Array, "B L Z"], ctx: Context) -> Float[Array, "B N D"]:
        """Return the decoder's last states."""
        parts: Any = self.parts
        x = self._map("up", z.astype(self.sizes.dtype), ctx)
        x = parts["decoder_chunks"](x, ctx.at("decoder_chunks"))
        x = rearrange(self._map("expand", x, ctx), "B L (K D) -> B (L K) D", K=self.sizes.chunk)
        return self.norm(parts["decoder_tokens"](x, ctx.at("decoder_tokens")), ctx)

    def generate(
        self,
        z: Float[Array, "B L Z"],
        ctx: Context,
        num_tokens: int = 0,
        *,
        sampling: Sampling | None = None,
        drop_ended: bool = False,
    ) -> Int[Array, "B N"]:
        """Return ids with EOS, then padding; arguments as in `FunnelAEModel.generate`."""
        del drop_ended
        logits = self.tokens.attend(self.decode(z, ctx), ctx.at("tokens"))
        return choose(logits, ctx, num_tokens or self.vocab_size, sampling)

    def clean_code(self, z: Float[Array, "B L Z"], step: Int[Array, ""]) -> Float[Array, "B L Z"]:
        """Return the code itself: nothing is scaled."""
        return z

    def sigma(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return 0: the noise on a code depends on its text."""
        return jnp.float32(0)

    def _map(self, name: str, x: Array, ctx: Context) -> Array:
        maps: Any = self.maps
        return maps[name](x, ctx.at(name))


class CALMTask(PlacesTask):
    """The task of a CALMConfig."""

    hparams = {"kl_weight": "task.kl_weight"}
    sharding_rules = ((r"^tokens/table$", P("model", None)),)

    def __init__(self, config: Config):
        require(isinstance(config.task, CALMConfig), "task: not a CALMConfig")
        super().__init__(config)
        chunk, length = self.options.calm.chunk, self.max_length
        require(
            length % chunk == 0,
            f"data.max_length={length} is not a multiple of task.calm.chunk={chunk}",
        )
        self.check_buckets()

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        return self.options.calm.vocab_size or self.data_config.vocab_size

    def init(self, rngs: nnx.Rngs) -> CALMModel:
        """Return an untrained model."""
        sizes = dataclasses.replace(self.options.calm, vocab_size=self.vocab_size)
        return CALMModel(sizes, self.max_length, rngs=rngs)

    def loss(self, model: CALMModel, batch: Any, ctx: Context) -> Loss:
        """Return K times the cross entropy per token plus the weighted KL per chunk."""
        return self._loss(model, batch, ctx)[0]

    def _loss(self, model: CALMModel, batch: Any, ctx: Context) -> tuple[Loss, Array]:
        """Return the loss, and the decoder's last states."""
        options, chunk = self.options, self.options.calm.chunk
        ids, rows = self.rows(batch)
        mean, log_variance = model.posterior(terms.masked(ids, options.mask_prob, ctx), ctx)
        code = mean
        if ctx.train:
            noise = jax.random.normal(ctx.at("noise").key, mean.shape, jnp.float32)
            code = mean + jnp.exp(0.5 * log_variance) * noise
            code = dropout(code, options.latent_dropout, ctx.at("latent_dropout"))
        states = model.decode(code, ctx)
        weights = jnp.where(ids != PAD, rows[:, None], 0.0)
        chunks = options.loss_chunks if ctx.train and one_device() else 0
        at = ctx.at("tokens")
        recon, correct = head_loss(model.tokens, states, ids, weights, at, chunks)
        real = rearrange(weights, "B (L K) -> B L K", K=chunk).max(-1)
        each = kl_to_standard_normal(mean, log_variance) * real[..., None]
        floored = jnp.maximum(each, options.kl_floor) * real[..., None]
        tokens, count = weights.sum(), jnp.maximum(real.sum(), 1)
        weight: Any = ctx.hparams.get("kl_weight", jnp.float32(options.kl_weight))
        total = chunk * recon + tokens * weight * floored.sum() / count
        metrics = {
            "recon": (recon, tokens),
            "token_accuracy": (correct, tokens),
            "kl": (each.sum(), real.sum()),  # nats per chunk
        }
        return Loss(total, tokens, metrics), states

    def eval_step(self, model: CALMModel, batch: Any, ctx: Context) -> Sums:
        """Return sums of the loss and of the reconstruction from the means."""
        loss, states = self._loss(model, batch, ctx)
        ids, rows = self.rows(batch)
        logits = model.tokens.attend(states, ctx.at("tokens"))
        forced = loss.metrics["token_accuracy"]
        return {
            "loss": (loss.total, loss.weight),
            **loss.metrics,
            "forced_accuracy": forced,
            **accuracy_sums(choose(logits, ctx, self.num_tokens), ids, rows),
        }

    def finalize(self, sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
        """Return the metrics of a split, with the perplexity of the reconstruction."""
        out = super().finalize(sums)
        return out | {"perplexity": math.exp(min(out["recon"], 700.0))}

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """Measure the reconstruction of each held-out split."""
        loaded.check_data()
        codec, out = Codec(loaded.model, self.text.tokenizer, loaded.step), {}
        for name in (n for n in self.text.splits if n != "train"):
            lines, _ = held_out(self.text, name)
            if lines:
                codes = codec.encode(lines)
                out[name] = split_report(codec, self.text, name, lines, codes, python=False)
        return {"step": loaded.step, "splits": out}

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the matmul FLOPs of a train step: three times those of the forward pass."""
        sizes, places = self.options.calm, self.num_rows(batch_spec) * self.max_length
        width, per_chunk = sizes.width, 1 / sizes.chunk
        layer = sizes.layers * 3 * width * sizes.d_ff
        maps = 2 * sizes.chunk * width * width + 3 * width * sizes.dim
        forward = 2 * layer * (1 + per_chunk) + maps * per_chunk + width * self.vocab_size
        return 3 * 2.0 * places * forward


class CALMAutoencoder(TextAutoencoder):
    """A trained CALM-style autoencoder, to encode, decode and explore with."""

    family = "CALM-style autoencoder"
    model_class = CALMModel
    autoregressive = False

    def card(self) -> str:
        """Return the README of a saved model, without the section on its evaluation."""
        task: Any = self.config.task
        return f"""# CALM-style autoencoder

Texts of up to {self.max_length} tokens as {self.num_latents} latents of {self.dim} numbers, one per
{task.calm.chunk} tokens, and back; {self.step} steps.
"""
