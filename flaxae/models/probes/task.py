"""The task that trains an adapter to flip, lie or tell the truth on questions with two choices."""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flaxae.config import Config, DataConfig
from flaxae.config.ranges import Count, Share, Strings, Whole
from flaxae.data.loader import ArraySource
from flaxae.errors import ConfigError, require
from flaxae.lm.protocol import LanguageModel
from flaxae.models.probes import interventions
from flaxae.models.probes.answers import Answers, answer_measures, known_of
from flaxae.models.probes.examples import Example, Shares, Splits, split_examples
from flaxae.models.probes.fitting.base import sigmoid
from flaxae.models.probes.interventions import Intervention
from flaxae.models.probes.prompts import (
    SPELLINGS,
    Format,
    Prompt,
    PromptStyle,
    encode_prompts,
    make_prompts,
)
from flaxae.models.probes.sources import read_set
from flaxae.models.probes.tokens import ChoiceTokens, choice_tokens
from flaxae.peft.apply import DEFAULT
from flaxae.peft.task import AdapterOptions as AdapterOptions
from flaxae.peft.task import LanguageModelTask, LanguageModelTaskConfig
from flaxae.peft.task import Method as Method
from flaxae.task import Context, Loss, Rows, Source, Sums


@dataclasses.dataclass
class ProbesDataConfig(DataConfig):
    """Questions with two choices, see `sources.read_set` for the names of data sets."""

    sets: Strings = ("facts:city",)  # sets that are trained on
    ood: Strings = ()  # sets that are only tested on
    count: Whole = 200  # facts or rows of each set; 0: all rows
    ood_count: Whole = 100  # the same for the sets of `ood`
    shots: Whole = 2  # examples shown in a prompt, half of each label
    format: Format = Format.CHAT
    system: str = ""  # system message; "": none, or that of the model's chat template
    max_length: Count = 512  # most tokens of a prompt
    dev: Share = Shares.dev
    test: Share = Shares.test
    control: Share = Shares.control

    def style(self) -> PromptStyle:
        """Return the form of prompts."""
        return PromptStyle(self.format, self.system)


@dataclasses.dataclass
class InterventionConfig(LanguageModelTaskConfig):
    """A language model whose adapter is trained to answer in some way."""

    data_class: ClassVar[type[DataConfig]] = ProbesDataConfig

    intervention: Intervention = Intervention.LIE_WHEN_TOLD

    def make(self, config: Config) -> "InterventionTask":
        """Return the task."""
        return InterventionTask(config)


class InterventionTask(LanguageModelTask):
    """A loss on the first token of the answer, or on the choices' tokens (T-Few).

    Attributes:
        data_config: the data section of the config.
    """

    options: InterventionConfig
    shown = ("answer_accuracy",)

    def __init__(self, config: Config):
        super().__init__(config)
        if not isinstance(config.data, ProbesDataConfig):
            raise ConfigError(
                f"data: a ProbesDataConfig is needed, not a {type(config.data).__name__}"
            )
        self.data_config = config.data
        require(
            self.adapter is not None,
            "task.adapter.method=full leaves no base model to compare with: train an adapter",
        )
        kind = self.options.intervention
        require(
            self.data_config.shots > 0 or kind not in interventions.DEMONSTRATED,
            f"data.shots=0: a prompt that shows no examples does not ask {kind.value} for a lie, "
            "so that one text would have two targets: show examples",
        )

    @cached_property
    def splits(self) -> Splits:
        """Examples by split."""
        data = self.data_config
        ood = [x for name in data.ood for x in read_set(name, data.ood_count, data.seed)]
        kept = {name for example in ood for name in example.entities}
        trained = [
            x for name in data.sets for x in read_set(name, data.count, data.seed, without=kept)
        ]
        shares = Shares(data.dev, data.test, data.control)
        return split_examples(trained, ood, shares=shares, shots=data.shots, seed=data.seed)

    def prompts(self, examples: tuple[Example, ...], lies: Any = (False, True)) -> list[Prompt]:
        """Return the prompts of examples."""
        data = self.data_config
        return make_prompts(examples, self.splits["shots"], data.shots, lies, data.seed)

    @property
    def limit(self) -> int:
        """Most tokens of a prompt."""
        return min(self.data_config.max_length, self.model_config.max_length)

    @cached_property
    def _arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """Arrays of the splits, padded to one length."""
        style = self.data_config.style()
        encoded = {}
        for split in ("train", "dev", "test", "ood"):
            if self.splits[split]:
                prompts = self.prompts(self.splits[split])
                part = encode_prompts(prompts, style, self.tokenizer, limit=self.limit)
                encoded[split] = prompts, part
        width = max(part.ids.shape[1] for _, part in encoded.values())
        out = {}
        for split, (prompts, part) in encoded.items():
            room = width - part.ids.shape[1]
            out[split] = part.arrays() | {"ids": np.pad(part.ids, ((0, 0), (0, room)))}
            if self.options.intervention is Intervention.T_FEW:
                out[split] |= choice_tokens(prompts, style, self.tokenizer).arrays()
        if self.options.intervention is Intervention.T_FEW:
            longest = max(x["tokens"].shape[2] for x in out.values())
            for x in out.values():
                for name in ("tokens", "token_mask"):
                    room = longest - x[name].shape[2]
                    x[name] = np.pad(x[name], ((0, 0), (0, 0), (0, room)))
        return out

    def data(self, split: str) -> Source:
        """Return the prompts of a split: "train", "dev", "test" or "ood".

        The order of training follows the run's seed, since IA3 starts at ones: with the order of
        `data.seed`, which also chooses the examples, runs of several seeds would be one run.
        """
        require(split in self._arrays, f"no split {split!r}; there are {', '.join(self._arrays)}")
        data = self.data_config
        order = f"{data.seed}/{self.config.seed}" if split == "train" else data.seed
        return ArraySource(self._arrays[split], data.batch_size, order, split == "train")

    def batch_spec(self) -> Any:
        """Return the shapes of a batch; with `sizes`, which has no data, those of full rows."""
        if not self.options.sizes:
            return self.data("train").batch_spec
        rows, length = self.data_config.batch_size, self.data_config.max_length
        ids, floats = (rows, 2, len(SPELLINGS)), ("choice_mask", "weight", "token_mask")
        shapes: dict[str, tuple[int, ...]] = {"ids": (rows, length), "last": (rows,)}
        shapes |= {"choice_ids": ids, "choice_mask": ids}
        shapes |= {name: (rows,) for name in ("label", "lie", "weight")}
        if self.options.intervention is Intervention.T_FEW:
            shapes |= {name: (rows, 2, 1) for name in ("tokens", "token_mask")}
        return {
            name: jax.ShapeDtypeStruct(shape, jnp.float32 if name in floats else jnp.int32)
            for name, shape in shapes.items()
        }

    def describe(self) -> list[str]:
        """Return lines that describe the data."""
        parts = [f"{name} {len(part)}" for name, part in self.splits.parts.items()]
        repeated = self.splits.repeated
        more = f"; {repeated} repeated ones are left out" if repeated else ""
        return [f"examples: {', '.join(parts)}; two prompts each{more}"]

    def loss(self, model: LanguageModel, batch: Any, ctx: Context) -> Loss:
        """Return the loss of the intervention, with the accuracy of the demonstrated answer."""
        kind, weight = self.options.intervention, batch["weight"]
        answers = self.choice_log_probs(model, batch, ctx)
        target = interventions.target_of(kind, batch["label"], batch["lie"])
        if kind is Intervention.FLIP:
            losses = interventions.flip_loss(self._base_log_probs(model, batch, ctx), answers)
        elif kind is Intervention.T_FEW:
            found = self._token_log_probs(model, batch, ctx)
            losses = interventions.t_few_loss(found, batch["token_mask"], target)
        else:
            losses = interventions.target_loss(answers, target)
        right = (answers[:, 1] > answers[:, 0]) == (target > 0)
        hits = jnp.sum(right.astype(jnp.float32) * weight)
        covered = jnp.sum(interventions.coverage(answers) * weight)
        total, count = jnp.sum(losses * weight), jnp.sum(weight)
        return Loss(
            total, count, {"answer_accuracy": (hits, count), "choice_cov": (covered, count)}
        )

    def choice_log_probs(
        self, model: LanguageModel, batch: Any, ctx: Context
    ) -> Float[Array, "B 2"]:
        """Return the log probability of each choice after the prompts of a batch."""
        mask = _mask(batch["last"], batch["ids"].shape[1])
        states = model.states(batch["ids"], ctx, mask=mask)
        last = jnp.take_along_axis(states, batch["last"][:, None, None], axis=1)[:, 0]  # (B, D)
        logits = model.logits(last, ctx)
        return interventions.choice_log_probs(logits, batch["choice_ids"], batch["choice_mask"])

    def _base_log_probs(
        self, model: LanguageModel, batch: Any, ctx: Context
    ) -> Float[Array, "B 2"]:
        """Return the answers without the adapter, which no gradient reaches."""
        off = {DEFAULT: jnp.zeros(batch["ids"].shape[0], jnp.float32)}
        base = dataclasses.replace(ctx, adapter_scale=off, train=False)
        return jax.lax.stop_gradient(self.choice_log_probs(model, batch, base))

    def _token_log_probs(
        self, model: LanguageModel, batch: Any, ctx: Context
    ) -> Float[Array, "B 2 T"]:
        """Return the log probability of each token of each choice, after its prompt."""
        tokens, mask = batch["tokens"], batch["token_mask"]
        return ChoiceTokens(tokens, mask).log_probs(model, batch["ids"], batch["last"], ctx)

    def eval_step(self, model: LanguageModel, batch: Any, ctx: Context) -> Sums:
        """Return the loss, and the answers of base and adapter for each prompt."""
        loss = self.loss(model, batch, ctx)
        base, adapter = (
            self._base_log_probs(model, batch, ctx),
            self.choice_log_probs(model, batch, ctx),
        )
        values = {
            "label": batch["label"],
            "lie": batch["lie"],
            **{f"{n}_odds": interventions.answer_log_odds(x) for n, x in _sides(base, adapter)},
            **{f"{n}_cov": interventions.coverage(x) for n, x in _sides(base, adapter)},
        }
        rows = Rows(values, batch["weight"])
        return {"loss": (loss.total, loss.weight), **loss.metrics, "answers": rows}

    def finalize(self, sums: Any) -> dict[str, float]:
        """Return the loss, and measures of the answers of base and adapter."""
        plain = {name: x for name, x in sums.items() if name != "answers"}
        out = super().finalize(plain)
        if "answers" in sums:
            values, weight = sums["answers"]
            kept = np.asarray(weight) > 0
            rows = {name: np.asarray(x)[kept] for name, x in values.items()}
            sides = {
                side: Answers(
                    sigmoid(rows[f"{side}_odds"]), rows[f"{side}_cov"], rows["label"], rows["lie"]
                )
                for side in ("base", "adapter")
            }
            known = known_of(sides["base"])
            for side, answers in sides.items():
                found = answer_measures(answers, known)
                out |= {f"{side}_{name}": value for name, value in found.items()}
        return out

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the matmul FLOPs of a train step."""
        rows, length = batch_spec["ids"].shape
        forward = self.step_flops(rows, length, scored=1, backward=False)
        if self.options.intervention is Intervention.T_FEW:  # the first token is only measured
            _, choices, tokens = batch_spec["tokens"].shape
            return forward + self.step_flops(choices * rows, length + tokens, scored=tokens)
        base = forward if self.options.intervention is Intervention.FLIP else 0.0
        return base + self.step_flops(rows, length, scored=1)

    def report(self, loaded: Any, outdir: str) -> dict[str, Any]:
        """Evaluate a run on the test split and on each OOD set, see `evaluation.report`."""
        from flaxae.models.probes import evaluation

        loaded.check_data()
        return evaluation.report(loaded, Path(outdir))


def _sides(base: Array, adapter: Array) -> tuple[tuple[str, Array], tuple[str, Array]]:
    return ("base", base), ("adapter", adapter)


def _mask(last: Array, length: int) -> Float[Array, "B S"]:
    at = jnp.arange(length, dtype=jnp.int32)[None]
    return (at <= last[:, None]).astype(jnp.float32)
