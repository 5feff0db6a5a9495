"""The base of tasks on a pretrained language model: frozen with an adapter, or trained in full.

A family subclasses `LanguageModelTaskConfig` and `LanguageModelTask` and adds data and a loss.
"""

import dataclasses
import enum
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from flaxae import peft
from flaxae.config import Config, Section, TaskConfig
from flaxae.config.ranges import Count, Positive, Rate, Strings, Wholes
from flaxae.errors import ConfigError, require
from flaxae.lm import loading
from flaxae.lm.causal import CausalLM
from flaxae.lm.chat import ChatTokenizer
from flaxae.lm.config import DTYPES, CausalConfig
from flaxae.lm.sizes import lm_size
from flaxae.task import Task
from flaxae.tree import nest


class Method(enum.Enum):
    """The part of a language model that is trained."""

    LORA = "lora"
    DORA = "dora"
    IA3 = "ia3"
    BIAS = "bias"
    NORMS = "norms"  # the scales of the norms, and their biases if they have any
    FULL = "full"


@dataclasses.dataclass
class AdapterOptions(Section):
    """The trained part of a language model."""

    section: ClassVar[str] = "task.adapter"

    method: Method = Method.LORA
    r: Count = 8
    alpha: Positive = 16.0
    dropout: Rate = 0.0
    rslora: bool = False
    targets: Strings = ()  # names of modules, or ("all-linear",); (): the model type's defaults
    feedforward: Strings = ()  # IA3: the targets whose input is scaled, instead of their output
    layers: Wholes = ()  # LoRA, DoRA: layer numbers; (): all
    modules_to_save: Strings = ()  # names of modules that are trained in full

    def config(self) -> peft.AdapterConfig | None:
        """Return the adapter's own config; None: the whole model is trained."""
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
class LanguageModelTaskConfig(TaskConfig):
    """A language model, which `pretrained` names, and the part of it that is trained."""

    adapter: AdapterOptions = dataclasses.field(default_factory=AdapterOptions)
    weights: str = "float32"  # dtype in which the frozen base is stored
    dtype: str = "float32"  # dtype of the computation
    remat: bool = False  # recompute blocks in the backward pass
    remat_keep: str = "nothing"  # with remat, kept values: "products" of matmuls with weights
    scan_unroll: Count = 1
    # With pretrained="": the sizes of a published model (flaxae.lm.sizes), whose weights are drawn
    # at random. It has no tokenizer: for compiled programs and benchmarks, not for training.
    sizes: str = ""

    def validate(self) -> None:
        """Raise ConfigError for types that no model has."""
        for name in ("weights", "dtype"):
            kind = getattr(self, name)
            require(kind in DTYPES, f"task.{name}={kind!r} is not one of: {', '.join(DTYPES)}")

    def model_fields(self) -> dict[str, Any]:
        """Return the fields of the language model's config that its files do not decide."""
        names = ("dtype", "remat", "remat_keep", "scan_unroll")
        return {name: getattr(self, name) for name in names}


class _Description(NamedTuple):
    """A language model without its weights."""

    kind: Callable[..., CausalLM]
    config: CausalConfig
    tokenizer: ChatTokenizer | None


class LanguageModelTask(Task):
    """The base of tasks on a language model; a subclass adds data and a loss.

    Args:
        config: of the run; its `task` is a LanguageModelTaskConfig.

    Attributes:
        options: the task's section of the config.
        adapter: the adapter's config; None: the whole model is trained.

    Raises:
        ConfigError: if the config names no model, or its options cannot be combined.
    """

    sharding_rules = (
        (r"/(q_proj|k_proj|v_proj|gate_proj|up_proj|fc1)/kernel$", P(None, None, "model")),
        (r"/(o_proj|dense|down_proj|fc2)/kernel$", P(None, "model", None)),
        (r"embed_tokens/table$", P("model", None)),
        (r"lm_head/kernel$", P(None, "model")),
    )
    options: LanguageModelTaskConfig

    def __init__(self, config: Config):
        options = config.task
        if not isinstance(options, LanguageModelTaskConfig):
            raise ConfigError(
                f"task: {type(self).__name__} needs a LanguageModelTaskConfig, not a "
                f"{type(options).__name__}"
            )
        self.config, self.options = config, options
        self.adapter = options.adapter.config()
        self.trainable = nnx.Param if self.adapter is None else peft.trainable()
        require(
            bool(config.pretrained or options.sizes),
            "pretrained: name a language model: smollm2-135m, a directory or a Hub id",
        )
        require(
            not (config.pretrained and options.sizes),
            f"pretrained={config.pretrained!r} and task.sizes={options.sizes!r}: set only one",
        )
        require(
            self.adapter is not None or options.weights == "float32",
            f"task.weights={options.weights!r}: trained weights are kept in float32",
        )
        decays = config.optim.weight_decay and not config.optim.groups
        require(
            options.adapter.method is not Method.IA3 or not decays,
            f"optim.weight_decay={config.optim.weight_decay} pulls IA3's factors to 0, not to 1: "
            "set it to 0, or exempt them by optim.groups",
        )

    @cached_property
    def _description(self) -> _Description:
        fields = self.options.model_fields()
        if self.options.sizes:
            return _Description(*lm_size(self.options.sizes, **fields), None)
        return _Description(*loading.described(self.config.pretrained, **fields))

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The language model's tokenizer."""
        tokenizer = self._description.tokenizer
        require(
            not self.options.sizes,
            f"task.sizes={self.options.sizes!r} is a model of random weights, without a tokenizer: "
            "set pretrained to train one",
        )
        if tokenizer is None:
            raise ConfigError(
                f"pretrained={self.config.pretrained} has no tokenizer.json: put that of the model "
                "into the folder; the ids of another tokenizer mean other tokens"
            )
        return tokenizer

    @property
    def model_config(self) -> CausalConfig:
        """The language model's config."""
        return self._description.config

    def init(self, rngs: nnx.Rngs) -> Any:
        """Build the model, its adapter drawn, its base drawn or zero.

        Args:
            rngs: `rngs.params` draws trained parameters, `rngs.frozen` a frozen base.

        Returns:
            The model. A pretrained base is zeros, which `load_pretrained` replaces.
        """
        kind, config, _ = self._description
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
        """Read the base's values.

        Args:
            abstract: not used.
            shardings: {"frozen": nested dict, ...} of where to put values.

        Returns:
            {"params": trained values that start from the base's, "frozen": the others}.
        """
        places = jax.tree.leaves(shardings)
        base = loading.load(
            self.config.pretrained,
            weights=self.options.weights,
            mesh=places[0].mesh,
            rules=self.sharding_rules,
        ).model
        if self.adapter is None:
            params = nnx.to_pure_dict(nnx.state(base, nnx.Param))  # pyright: ignore
            return {"params": params, "frozen": {}}
        model = peft.add_adapter(base, self.adapter)
        _, trained, rest = nnx.split(model, peft.trainable(), ...)
        # Copies: the first step donates them, and must not donate an array of the base.
        values = {
            p: jnp.copy(v[...]) for p, v in nnx.to_flat_state(trained) if not _is_lora_factor(p)
        }
        frozen = nest({p: v[...] for p, v in nnx.to_flat_state(rest)})
        return {"params": nest(values), "frozen": jax.device_put(frozen, shardings["frozen"])}

    def step_flops(self, rows: int, length: int, scored: int, *, backward: bool = True) -> float:
        """Return the matmul FLOPs of a train step; a frozen kernel gets no gradient.

        Args:
            rows: rows per batch.
            length: tokens per row.
            scored: tokens per row whose logits are computed.
            backward: whether gradients are computed.
        """
        lm = self.model_config
        heads, shared = lm.num_heads * lm.head_dim, lm.num_kv_heads * lm.head_dim
        mlp = lm.mlp_kernels * lm.d_model * lm.d_ff
        linear = lm.num_layers * (lm.d_model * (2 * heads + 2 * shared) + mlp)
        head = lm.d_model * lm.vocab_size * scored
        attention = lm.num_layers * 2 * heads * length * length
        if not backward:
            return 2.0 * rows * (linear * length + head + attention)
        passes = 3 if self.adapter is None else 2
        return 2.0 * rows * (passes * (linear * length + head) + 3 * attention)

    def save_assets(self, workdir: str) -> None:
        """Write the adapter's own config, by which `peft.load_adapter` opens a workdir."""
        if self.adapter is not None:
            model = nnx.eval_shape(lambda: self.init(nnx.Rngs(0)))
            peft.write_config(model, workdir, base=self.config.pretrained)


def _is_lora_factor(path: tuple) -> bool:
    """Check for LoRA's factors, which are drawn and not read from the base."""
    return path[-1] in ("A", "B")
