"""Fine-tuning a language model: its adapters, its biases, or all of it."""

import dataclasses
import enum
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from flaxae import peft
from flaxae.activations.collect import shared_prefix
from flaxae.config import Config, Section, TaskConfig
from flaxae.data.loader import ArraySource
from flaxae.data.packing import density, pack
from flaxae.errors import require
from flaxae.models.causal_lm import data as data_lib
from flaxae.task import Context, Loss, Source, Task
from flaxae.tree import nest


class Method(enum.Enum):
    LORA = "lora"
    DORA = "dora"
    IA3 = "ia3"
    BIAS = "bias"
    NORMS = "norms"  # the norms' scales, and biases where there are some
    FULL = "full"


@dataclasses.dataclass
class AdapterOptions(Section):
    """What is trained."""

    method: Method = Method.LORA
    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rslora: bool = False
    targets: tuple = ()  # names of modules, or ("all-linear",); (): the model type's defaults
    feedforward: tuple = ()  # IA3: of the targets, those whose input is scaled
    layers: tuple = ()  # LoRA, DoRA: by number; (): all
    modules_to_save: tuple = ()  # trained whole

    def config(self) -> peft.AdapterConfig | None:
        """The adapter's own config; None: the whole model is trained."""
        targets: Any = "all-linear" if self.targets == ("all-linear",) else tuple(self.targets)
        common: dict[str, Any] = {
            "target_modules": targets or None,
            "modules_to_save": tuple(self.modules_to_save) or None,
        }
        if self.method is Method.FULL:
            return None
        if self.method in (Method.BIAS, Method.NORMS):
            norms = self.method is Method.NORMS
            return peft.BiasConfig(biases=not norms, norms=norms)
        if self.method is Method.IA3:
            forward = tuple(self.feedforward) if self.targets else None
            return peft.IA3Config(**common, feedforward_modules=forward)
        return peft.LoRAConfig(
            **common,
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.method is Method.DORA,
            layers_to_transform=tuple(self.layers) or None,
        )


@dataclasses.dataclass
class CausalLMConfig(TaskConfig):
    """A language model, `pretrained`, and what of it is trained."""

    adapter: AdapterOptions = dataclasses.field(default_factory=AdapterOptions)
    weights: str = "float32"  # that the frozen base is kept in
    dtype: str = "float32"  # of the computation
    remat: bool = False  # recompute blocks in the backward pass
    remat_keep: str = "nothing"  # but not this: "products", of matmuls with weights
    scan_unroll: int = 1
    # With pretrained="": the shapes of a published model (flaxae.lm.sizes), its base drawn instead
    # of read. It has no tokenizer: for compiled programs and benchmarks, not for training.
    sizes: str = ""
    system: str = ""  # a chat's system message; "": the template's own
    pack: bool = True  # several examples a row, apart by segment ids
    share_prefix: bool = False  # of packed examples: what all prompts begin with stands once a row

    def fields(self) -> dict[str, Any]:
        """Fields of the language model's config that its weights do not decide."""
        names = ("dtype", "remat", "remat_keep", "scan_unroll")
        return {name: getattr(self, name) for name in names}

    def make(self, config: Config) -> "CausalLMTask":
        return CausalLMTask(config)


class CausalLMTask(Task):
    sharding_rules = (
        (r"/(q_proj|k_proj|v_proj|gate_proj|up_proj|fc1)/kernel$", P(None, None, "model")),
        (r"/(o_proj|dense|down_proj|fc2)/kernel$", P(None, "model", None)),
        (r"embed_tokens/table$", P("model", None)),
        (r"lm_head/kernel$", P(None, "model")),
    )

    def __init__(self, config: Config):
        require(isinstance(config.task, CausalLMConfig), "task: not a CausalLMConfig")
        self.config = config
        self.options: Any = config.task
        self.adapter = self.options.adapter.config()
        self.trainable = nnx.Param if self.adapter is None else peft.trainable()
        require(
            bool(config.pretrained or self.options.sizes),
            "pretrained: name a language model: smollm2-135m, a directory or a Hub id",
        )
        require(
            not (config.pretrained and self.options.sizes),
            f"pretrained={config.pretrained!r} and task.sizes={self.options.sizes!r}: give one",
        )
        full = self.adapter is None
        require(
            not full or self.options.weights == "float32",
            f"task.weights={self.options.weights!r}: what is trained is kept in float32",
        )
        decays = config.optim.weight_decay and not config.optim.groups
        require(
            self.options.adapter.method is not Method.IA3 or not decays,
            f"optim.weight_decay={config.optim.weight_decay} pulls IA3's factors to 0, not to 1: "
            "set it to 0, or exempt them by optim.groups",
        )

    @cached_property
    def _opened(self) -> tuple[Any, Any, Any]:
        """(the model's class, its config, its tokenizer); no weight is read."""
        from flaxae.lm.loading import described
        from flaxae.lm.sizes import lm_size

        fields = self.options.fields()
        if self.options.sizes:
            return *lm_size(self.options.sizes, **fields), None
        return described(self.config.pretrained, **fields)

    @property
    def tokenizer(self) -> Any:
        tokenizer = self._opened[2]
        require(
            not self.options.sizes,
            f"task.sizes={self.options.sizes!r} is a model of drawn weights, without a tokenizer: "
            "set pretrained to train one",
        )
        require(tokenizer is not None, f"{self.config.pretrained}: it has no tokenizer.json")
        return tokenizer

    @property
    def lm(self) -> Any:
        """The language model's config."""
        return self._opened[1]

    @cached_property
    def pairs(self) -> data_lib.Pairs:
        return data_lib.read(self.config.data)

    @cached_property
    def packed(self) -> dict[str, Any]:
        out, alone, most = {}, not self.options.pack, self.config.data.max_lines or None
        for split, pairs in self.pairs.splits.items():
            examples = data_lib.encoded(
                pairs[:most], self.tokenizer, self.lm.eos_ids[0], self.options.system
            )
            share = self.options.share_prefix and not alone and bool(examples)
            shared = shared_prefix([e.prompt for e in examples]) if share else 0
            out[split] = pack(examples, self.config.data.max_length, alone=alone, shared=shared)
        # One width for all splits: an evaluation's batches then have the shapes of training's.
        width = max(p.arrays["where"].shape[1] for p in out.values())
        for packed in out.values():
            for name in ("where", "targets", "target_weight"):
                a = packed.arrays[name]
                packed.arrays[name] = np.pad(a, ((0, 0), (0, width - a.shape[1])))
        return out

    def data(self, split: str) -> Source:
        require(split in self.packed, f"no split {split!r}; there are {', '.join(self.packed)}")
        arrays = self.packed[split].arrays
        seed = self.config.data.seed
        return ArraySource(arrays, self.config.data.batch_size, seed, train=split == "train")

    def batch_spec(self) -> Any:
        """The shapes of a batch; of a drawn model, which has no data, with targets everywhere."""
        if not self.options.sizes:
            return self.data("train").batch_spec
        rows, length = self.config.data.batch_size, self.config.data.max_length
        dtypes = {name: jnp.int32 for name in ("ids", "segment_ids", "positions")}
        dtypes |= {"where": jnp.int32, "targets": jnp.int32, "target_weight": jnp.float32}
        spec = {n: jax.ShapeDtypeStruct((rows, length), d) for n, d in dtypes.items()}
        return {**spec, "weight": jax.ShapeDtypeStruct((rows,), jnp.float32)}

    def prompt_text(self, prompt: str, tokenizer: Any, system: str = "") -> str:
        """What stands before an answer, in training and after it; `system`: instead of its own."""
        return data_lib.prompt_text(prompt, tokenizer, system or self.options.system)

    def describe(self) -> list[str]:
        """What the data are, in words."""
        lines = [self.pairs.name, *self.pairs.notes]
        for split, packed in self.packed.items():
            rows, length = packed.arrays["ids"].shape
            lines.append(
                f"{split}: {len(packed.kept)} examples in {rows} rows of {length} tokens "
                f"({density(packed):.0%} full), {packed.skipped} longer ones left out"
                + f"; the {packed.shared} that all begin with stand once a row"
                * bool(packed.shared)
            )
        return lines

    def init(self, rngs: nnx.Rngs) -> Any:
        """The base as zeros, which `load_pretrained` fills, or drawn; adapters as drawn."""
        kind, config, _ = self._opened
        dtype = jnp.dtype(self.options.weights)
        if self.options.sizes:
            key = rngs.params() if self.adapter is None else rngs.frozen()
            graphdef, state = nnx.split(kind(config, rngs=nnx.Rngs(params=key)))
            state = jax.tree.map(lambda x: x.astype(dtype), state)
        else:
            graphdef, state = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))
            state = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), state)
        model = nnx.merge(graphdef, state)
        if self.adapter is None:
            return model
        return peft.add_adapter(model, self.adapter, seed=rngs.params())

    def load_pretrained(self, abstract: Any, shardings: Any) -> dict[str, Any]:
        """The base's values, and those of the subset that start from them."""
        from flaxae import lm

        places = jax.tree.leaves(shardings)
        base = lm.load(
            self.config.pretrained,
            weights=self.options.weights,
            mesh=places[0].mesh,
            rules=self.sharding_rules,
        ).model
        if self.adapter is None:
            params = nnx.to_pure_dict(nnx.state(base, nnx.Param))  # pyright: ignore
            return {"params": params, "frozen": {}}
        model = peft.add_adapter(base, self.adapter)
        _, mine, rest = nnx.split(model, self.trainable, ...)
        # Copies: the first step donates them, and with what is the base's own the base would go.
        values = {p: jnp.copy(v[...]) for p, v in nnx.to_flat_state(mine) if not _drawn(p)}
        frozen = nest({p: v[...] for p, v in nnx.to_flat_state(rest)})
        return {"params": nest(values), "frozen": jax.device_put(frozen, shardings["frozen"])}

    def loss(self, model: Any, batch: Any, ctx: Context) -> Loss:
        """Cross entropy of the completions' tokens; no other position's scores are made."""
        states = model.states(
            batch["ids"], ctx, segment_ids=batch["segment_ids"], positions=batch["positions"]
        )
        x = jnp.take_along_axis(states, batch["where"][:, :, None], axis=1)  # (B, K, D)
        weights: Float[Array, "B K"] = batch["target_weight"] * batch["weight"][:, None]
        total, hits = model.loss(x, batch["targets"], weights, ctx)
        tokens = jnp.sum(weights)
        return Loss(total, tokens, {"token_accuracy": (hits, tokens)})

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Matmul FLOPs of a train step; a frozen kernel gets no gradient."""
        lm, (rows, length) = self.lm, batch_spec["ids"].shape
        heads, shared = lm.num_heads * lm.head_dim, lm.num_kv_heads * lm.head_dim
        mlp = (3 if hasattr(lm, "mlp_bias") else 2) * lm.d_model * lm.d_ff
        linear = lm.num_layers * (lm.d_model * (2 * heads + 2 * shared) + mlp)
        head = lm.d_model * lm.vocab_size * batch_spec["where"].shape[1]
        attention = lm.num_layers * 2 * heads * length * length
        passes = 3 if self.adapter is None else 2
        return 2.0 * rows * (passes * (linear * length + head) + 3 * attention)

    def sample(self, model: Any, ctx: Context, n: int) -> dict[str, list[str]]:
        from flaxae.models.causal_lm import evaluation

        return {"answers": evaluation.answers(self, model, "dev", n)}

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        from flaxae.models.causal_lm import evaluation

        loaded.check_data()
        return evaluation.report(loaded, Path(outdir))

    def save_assets(self, workdir: str) -> None:
        """The adapter's own config, by which `peft.load_adapter` opens a workdir."""
        if self.adapter is not None:
            model = nnx.eval_shape(lambda: self.init(nnx.Rngs(0)))
            peft.write_config(model, workdir, base=self.config.pretrained)


def _drawn(path: tuple) -> bool:
    """LoRA's factors, which do not come from the base."""
    return path[-1] in ("A", "B")
