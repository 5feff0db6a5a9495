"""The task of training an LM-VAE: data, loss, evaluation sums, samples."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxae import peft
from flaxae.config import Config, DataConfig
from flaxae.config.ranges import NonNegative, Rate
from flaxae.data.config import TextDataConfig, text_data
from flaxae.data.hub import TextData, text_sources
from flaxae.data.plan import planned_spec
from flaxae.data.tokenizer import PAD, Tokenizer
from flaxae.data.tokens import encode
from flaxae.errors import require
from flaxae.lm import loading
from flaxae.losses import Kernel
from flaxae.models.lm_vae import states as states_lib
from flaxae.models.lm_vae import terms
from flaxae.models.lm_vae.modeling import LatentConfig, LMVAEModel
from flaxae.models.lm_vae.pooling import pooled_states
from flaxae.models.lm_vae.tokens import SHIFT, shifted, to_language_model
from flaxae.peft.task import LanguageModelTask, LanguageModelTaskConfig, Method
from flaxae.task import Context, Loss, Rows, Source, Sums
from flaxae.text_autoencoder import split_terms
from flaxae.text_autoencoder.batches import compare, rows_of
from flaxae.text_autoencoder.samples import sample_texts

CENTRED = 1024  # texts from which the mean and spread of pooled states are computed
LM = "lm"  # the language model's attribute


@dataclasses.dataclass
class LMVAEConfig(LanguageModelTaskConfig):
    """A language model, which `pretrained` names, its LoRA, the code and the loss."""

    data_class: ClassVar[type[DataConfig]] = TextDataConfig

    latent: LatentConfig = dataclasses.field(default_factory=LatentConfig)
    mmd_weight: NonNegative = 1.0
    mmd_kernel: Kernel = Kernel.IMQ
    word_dropout: Rate = 0.0  # probability that the decoder reads another id instead of a word

    def make(self, config: Config) -> "LMVAETask":
        """Return the task of a config."""
        return LMVAETask(config)

    @classmethod
    def open_autoencoder(cls, source: str | Path) -> Any:
        """Open a trained run or a saved model as `flaxae.LMVAE`."""
        from flaxae.models.lm_vae.api import LMVAE

        return LMVAE.from_pretrained(source, cls)

    def validate(self) -> None:
        """Check the fields, and that they fit each other."""
        super().validate()
        require(
            self.adapter.method in (Method.LORA, Method.DORA, Method.IA3),
            f"task.adapter.method={self.adapter.method.value}: the encoder reads the language "
            "model without its adapter, so the model itself must not change: use lora, dora or ia3",
        )


class LMVAETask(LanguageModelTask):
    """The task of an LMVAEConfig."""

    options: LMVAEConfig
    hparams = {"mmd_weight": "task.mmd_weight"}

    def __init__(self, config: Config):
        super().__init__(config)
        self.data_config = text_data(config)
        require(
            not self.data_config.tokenizer,
            f"data.tokenizer={self.data_config.tokenizer!r}: the language model has its own; leave "
            "it empty",
        )
        self.trainable = _trainable
        self._kept_tokenizer: Tokenizer | None = None  # from an earlier start of the same run

    @cached_property
    def text(self) -> TextData:
        """The corpus with its splits and the language model's tokenizer."""
        tokenizer = self._kept_tokenizer or shifted(self.tokenizer)
        return text_sources(self.data_config, tokenizer, self.model_config.vocab_size + SHIFT)

    def data(self, split: str) -> Source:
        """Return the batches of a split, with the pooled states of their texts."""
        source = self.text.source(split)
        table = encode(self.text.tokenizer, self.text.lines(split), self.data_config.cache)
        length, options = self.data_config.max_length, self.options
        key = [
            loading.fingerprint_of(self.config.pretrained),
            repr((options.latent.layers, options.latent.terms, self.ends, length)),
            repr((options.weights, options.dtype)),
        ]
        found = states_lib.stored(
            self.data_config.cache, key, table, lambda: self._pooled(table, length)
        )
        return states_lib.StatesSource(source, table, found, length)

    def _pooled(self, table: Any, length: int) -> Float[np.ndarray, "N F"]:
        """Return the pooled states of texts; the language model is read for it."""
        latent = self.options.latent
        ctx = Context(jax.random.key(0), jnp.int32(0))
        lm = loading.load(
            self.config.pretrained, weights=self.options.weights, dtype=self.options.dtype
        ).model

        def pool(model: Any, ids: Array) -> Array:
            return pooled_states(model, latent.layers, latent.terms, ids, ctx, self.ends)

        return states_lib.pooled_texts(lm, pool, table, length, self.num_features)

    @property
    def num_features(self) -> int:
        """Numbers per text that the encoder's trained part reads."""
        latent = self.options.latent
        return len(latent.layers) * latent.terms * self.model_config.d_model

    @cached_property
    def ends(self) -> tuple[int, int]:
        """The language model's ids before a text and after it."""
        end = self.model_config.eos_ids[0] if self.model_config.eos_ids else 0
        if self.options.sizes:
            return end, end
        begin = self.tokenizer.id(self.tokenizer.bos) if self.tokenizer.bos else None
        return (end if begin is None else begin), end

    def data_notes(self) -> list[str]:
        """Return remarks on what the corpus and its splits contain."""
        return self.text.notes()

    def batch_spec(self) -> Any:
        """Return the shapes of a batch, without loading texts if the config determines them."""
        if planned := planned_spec(self.data_config):
            return states_lib.with_states(planned, self.num_features)
        return self.data("train").batch_spec

    def init(self, rngs: nnx.Rngs) -> LMVAEModel:
        """Build the model; a pretrained language model is zeros, which `load_pretrained` fills."""
        begin, end = self.ends
        return LMVAEModel(
            super().init(rngs),
            self.options.latent,
            self.data_config.max_length,
            begin=begin,
            end=end,
            rngs=rngs,
        )

    def load_pretrained(self, abstract: Any, shardings: Any) -> dict[str, Any]:
        """Read the language model's values, see `LanguageModelTask.load_pretrained`."""
        found = super().load_pretrained(abstract, {"frozen": shardings["frozen"][LM]})
        params = {LM: found["params"]} if found["params"] else {}
        return {"params": params, "frozen": {LM: found["frozen"]}}

    def init_from_data(self, state: Any, batches: Iterator[Any], ctx: Context) -> Any:
        """Let pooled states of the first texts have mean 0 and a standard deviation of 1."""
        rows: list[np.ndarray] = []
        for batch in itertools.islice(batches, CENTRED):
            rows += [bucket["states"] for bucket in batch.values()]
            if sum(map(len, rows)) >= CENTRED:
                break
        found = np.concatenate(rows)
        values = {"centre": found.mean(0), "spread": 1 / np.maximum(found.std(0), 1e-3)}
        return {**state, **{kind: _with(state[kind], values) for kind in ("params", "ema")}}

    def loss(self, model: LMVAEModel, batch: dict[str, Any], ctx: Context) -> Loss:
        """Return the cross entropy of all tokens, and the weighted MMD of received codes."""
        return self._loss(model, batch, ctx)[0]

    def _loss(
        self, model: LMVAEModel, batch: dict[str, Any], ctx: Context
    ) -> tuple[Loss, Float[Array, "B 1 Z"]]:
        ids, rows = rows_of(batch)
        if ctx.train:
            terms.check_rows(self.config, sum(part.shape[0] for part in ids))
        pooled = jnp.concatenate([batch[key]["states"] for key in sorted(batch)])
        z = model.code(pooled, ctx)
        sigma = model.sigma(ctx.step)
        received = model.received(z, sigma, ctx)
        code = received if ctx.train else z
        recon = correct = tokens = jnp.float32(0)
        first = 0
        for i, part in enumerate(ids):
            at, stop = ctx.at(f"bucket{i}"), first + part.shape[0]
            weights = jnp.where(part != PAD, rows[first:stop, None], 0.0)
            inputs = terms.with_dropped(part, self.options.word_dropout, at)
            states = model.decode(code[first:stop], part, at, inputs)
            targets = to_language_model(part, model.end)
            total, hits = model.lm.loss(states, targets, weights, at.at(LM))
            recon, correct, tokens = recon + total, correct + hits, tokens + jnp.sum(weights)
            first = stop
        total, metrics = recon, {"recon": (recon, tokens), "token_accuracy": (correct, tokens)}
        if ctx.train:
            value = terms.batch_mmd(received, self.options.mmd_kernel, ctx)
            weighted = self._mmd_weight(ctx) * value
            total += tokens * weighted
            metrics["mmd"] = (value * tokens, tokens)
            metrics["mmd_weighted"] = (weighted * tokens, tokens)
        metrics["sigma"] = (sigma * tokens, tokens)
        return Loss(total, tokens, metrics), z

    def _mmd_weight(self, ctx: Context) -> Float[Array, ""]:
        """Return the weight of the MMD, which differs between the lanes of a sweep."""
        weight: Any = ctx.hparams.get("mmd_weight", jnp.float32(self.options.mmd_weight))
        return weight

    def eval_step(self, model: LMVAEModel, batch: Any, ctx: Context) -> Sums:
        """Return sums of the teacher-forced loss and of free-running greedy reconstruction."""
        loss, z = self._loss(model, batch, ctx)
        ids, rows = rows_of(batch)
        output = model.generate(z, ctx, self.text.tokenizer.vocab_size)
        exact, matches, longest = compare(output, ids, model.max_length)
        return {
            "loss": (loss.total, loss.weight),
            **{k: v for k, v in loss.metrics.items() if k != "token_accuracy"},
            "forced_accuracy": loss.metrics["token_accuracy"],
            "exact_match": (jnp.sum(exact * rows), jnp.sum(rows)),
            "token_accuracy": (jnp.sum(matches * rows), jnp.sum(longest * rows)),
            # For `finalize`, which multiplies it by the MMD.
            "mmd_weighted": (self._mmd_weight(ctx) * loss.weight, loss.weight),
            "codes": Rows(z, rows),
        }

    def finalize(self, sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
        """Return the metrics of a split, with the MMD of its codes in the loss.

        The MMD of fewer than two texts is nan, and does not count in the loss.
        """
        out, options, seed = super().finalize(sums), self.options, self.config.data.seed
        codes = split_terms.noisy_codes(
            Rows(*sums["codes"]), None, out["sigma"], seed, LMVAEModel.channel
        )
        out["mmd"] = split_terms.split_mmd(codes, options.mmd_kernel, seed)
        out["mmd_weighted"] *= out["mmd"]
        if math.isfinite(out["mmd_weighted"]):
            out["loss"] += out["mmd_weighted"]
        return out

    def sample(self, model: LMVAEModel, ctx: Context, n: int) -> dict[str, list[str]]:
        """Return texts for the log: reconstructions, samples and an interpolation."""
        return sample_texts(self, model, ctx, n)

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """Evaluate a trained run (see `evaluation`)."""
        from flaxae.models.lm_vae import evaluation

        loaded.check_data()
        return evaluation.report(loaded, outdir)

    def save_assets(self, workdir: str) -> None:
        """Store the tokenizer in the workdir."""
        self.text.tokenizer.save(Path(workdir) / "tokenizer.json")

    def load_assets(self, workdir: str) -> None:
        """Read the tokenizer from the workdir."""
        self._kept_tokenizer = Tokenizer.load(Path(workdir) / "tokenizer.json")

    def flops(self, batch_spec: dict[str, Any], hparams: dict[str, Any]) -> float:
        """Return the matmul FLOPs of a train step; those of the maps around z are left out."""
        memory = self.options.latent.memory_tokens
        shapes = [bucket["ids"].shape for bucket in batch_spec.values()]
        return sum(
            self.step_flops(rows, length + memory - 1, scored=length) for rows, length in shapes
        )


def _trainable(path: tuple, variable: Any) -> bool:
    """Return True for the adapter's parameters and for all outside of the language model."""
    if path[0] == LM:
        return peft.trainable()(path, variable)
    kind = getattr(variable, "type", type(variable))
    return isinstance(kind, type) and issubclass(kind, nnx.Param)


def _with(params: dict[str, Any], values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return parameters with other values; {} stays {}. Lanes, a leading axis, share them."""
    new = {
        name: jax.device_put(
            np.broadcast_to(value, params[name].shape).astype(params[name].dtype),
            params[name].sharding,
        )
        for name, value in values.items()
        if name in params
    }
    return {**params, **new}
