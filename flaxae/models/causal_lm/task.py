"""Fine-tuning a language model on prompts with completions."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flaxae.activations.collect import shared_prefix
from flaxae.config import Config, DataConfig
from flaxae.data.config import TextDataConfig, text_data
from flaxae.data.loader import ArraySource
from flaxae.data.packing import Packed, density, pack
from flaxae.errors import ConfigError, require
from flaxae.lm.chat import ChatTokenizer, check_ids
from flaxae.lm.protocol import LanguageModel
from flaxae.models.causal_lm import data as data_lib
from flaxae.peft.task import AdapterOptions as AdapterOptions
from flaxae.peft.task import LanguageModelTask, LanguageModelTaskConfig
from flaxae.peft.task import Method as Method
from flaxae.task import Context, Loss, Source

PER_TARGET = ("where", "targets", "target_weight")  # arrays with one column per target


@dataclasses.dataclass
class CausalLMConfig(LanguageModelTaskConfig):
    """A language model, which `pretrained` names, and how its prompts are read."""

    data_class: ClassVar[type[DataConfig]] = TextDataConfig

    system: str = ""  # a chat's system message; "": the template's own
    pack: bool = True  # several examples per row, separated by segment ids
    share_prefix: bool = False  # the prefix that all prompts share is read once per packed row

    def make(self, config: Config) -> "CausalLMTask":
        """Return the task."""
        return CausalLMTask(config)


class CausalLMTask(LanguageModelTask):
    """Fine-tuning: cross entropy of the completions' tokens."""

    options: CausalLMConfig

    def __init__(self, config: Config):
        super().__init__(config)
        self.data_config = text_data(config)

    @cached_property
    def pairs(self) -> data_lib.Pairs:
        """Prompts with completions of all splits."""
        return data_lib.read(self.data_config)

    @cached_property
    def packed(self) -> dict[str, Packed]:
        """The packed examples of each split."""
        out, alone = {}, not self.options.pack
        limit = self.data_config.max_lines or None
        for split, pairs in self.pairs.splits.items():
            ids, size = self.model_config.eos_ids, self.model_config.vocab_size
            examples = data_lib.encoded(pairs[:limit], self.tokenizer, ids, self.options.system)
            check_ids([row for example in examples for row in example], size)
            share = self.options.share_prefix and not alone and bool(examples)
            shared = shared_prefix([e.prompt for e in examples]) if share else 0
            try:
                out[split] = pack(examples, self.data_config.max_length, alone=alone, shared=shared)
            except ConfigError as error:
                raise ConfigError(f"split {split!r} of {self.pairs.name}: {error}") from None
        # One width for all splits: an evaluation's batches then have the shapes of training's.
        width = max(p.arrays["where"].shape[1] for p in out.values())
        for packed in out.values():
            for name in PER_TARGET:
                a = packed.arrays[name]
                packed.arrays[name] = np.pad(a, ((0, 0), (0, width - a.shape[1])))
        return out

    def data_notes(self) -> list[str]:
        """Return remarks on what was left out."""
        skipped = {split: packed.skipped for split, packed in self.packed.items() if packed.skipped}
        limit = self.data_config.max_length
        too_long = [
            f"{split}: {n} examples of more than {limit} tokens are left out"
            for split, n in skipped.items()
        ]
        return [*self.pairs.notes, *too_long]

    def data(self, split: str) -> Source:
        """Return the packed rows of a split."""
        require(split in self.packed, f"no split {split!r}; there are {', '.join(self.packed)}")
        arrays = self.packed[split].arrays
        seed = self.data_config.seed
        return ArraySource(arrays, self.data_config.batch_size, seed, train=split == "train")

    def batch_spec(self) -> Any:
        """Return the shapes of a batch; for `sizes`, which has no data, every token is a target."""
        if not self.options.sizes:
            return self.data("train").batch_spec
        rows, length = self.data_config.batch_size, self.data_config.max_length
        dtypes = {name: jnp.int32 for name in ("ids", "segment_ids", "positions")}
        dtypes |= {"where": jnp.int32, "targets": jnp.int32, "target_weight": jnp.float32}
        spec = {n: jax.ShapeDtypeStruct((rows, length), d) for n, d in dtypes.items()}
        return {**spec, "weight": jax.ShapeDtypeStruct((rows,), jnp.float32)}

    def prompt_text(self, prompt: str, tokenizer: ChatTokenizer, system: str = "") -> str:
        """Return the text before an answer, the same in training and in generation.

        Args:
            prompt: the user's text.
            tokenizer: of the language model.
            system: a system message that replaces the config's.
        """
        return data_lib.prompt_text(prompt, tokenizer, system or self.options.system)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer: the model's, and the one that it is trained to end in."""
        ids = self.model_config.eos_ids
        return tuple(dict.fromkeys((*ids, self.tokenizer.turn(ids, self.options.system).end)))

    def describe(self) -> list[str]:
        """Return lines that describe the data."""
        lines = [self.pairs.name, *self.pairs.notes]
        end = self.tokenizer.turn(self.model_config.eos_ids, self.options.system).end
        lines.append(f"answers end in {self.tokenizer.token(end)!r} (id {end})")
        for split, packed in self.packed.items():
            rows, length = packed.arrays["ids"].shape
            line = (
                f"{split}: {len(packed.kept)} examples in {rows} rows of {length} tokens "
                f"({density(packed):.0%} full), {packed.skipped} left out as too long"
            )
            if packed.shared:
                line += f"; a shared prefix of {packed.shared} tokens is read once per row"
            lines.append(line)
        return lines

    def loss(self, model: LanguageModel, batch: Any, ctx: Context) -> Loss:
        """Return the cross entropy of the completions' tokens; only their logits are computed."""
        states = model.states(
            batch["ids"], ctx, segment_ids=batch["segment_ids"], positions=batch["positions"]
        )
        x = jnp.take_along_axis(states, batch["where"][:, :, None], axis=1)  # (B, K, D)
        weights: Float[Array, "B K"] = batch["target_weight"] * batch["weight"][:, None]
        total, hits = model.loss(x, batch["targets"], weights, ctx)
        tokens = jnp.sum(weights)
        return Loss(total, tokens, {"token_accuracy": (hits, tokens)})

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the matmul FLOPs of a train step."""
        rows, length = batch_spec["ids"].shape
        return self.step_flops(rows, length, scored=batch_spec["where"].shape[1])

    def sample(self, model: LanguageModel, ctx: Context, n: int) -> dict[str, list[str]]:
        """Return the first answers of the dev split."""
        from flaxae.models.causal_lm import evaluation

        return {"answers": evaluation.answers(self, model, "dev", n)}

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """Evaluate a run, see `evaluation.report`."""
        from flaxae.models.causal_lm import evaluation

        loaded.check_data()
        return evaluation.report(loaded, Path(outdir))
