"""Evaluation of a fine-tuned model: its held-out loss compared with the base's, and answers.

`task` is a CausalLMTask, which imports this module.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from flaxae import peft
from flaxae.lm import loading
from flaxae.lm.causal import CausalLM
from flaxae.lm.generation import generate
from flaxae.lm.protocol import LanguageModel
from flaxae.measures.stats import paired_difference, ratio
from flaxae.task import Context

SPLITS = ("dev", "test")
MAX_ROWS = 32  # packed rows per split; each contains several examples


def report(loaded: Any, outdir: Path) -> dict[str, Any]:
    """Print and return the losses of the base and of the trained model, with answers.

    An adapter is also written, as a directory that PEFT opens: `outdir/adapter`.

    Args:
        loaded: the run, see `flaxae.load`.
        outdir: directory for the adapter.
    """
    task, model = loaded.task, loaded.model
    out: dict[str, Any] = {"step": loaded.step, "data": task.describe()}
    print("\n".join(task.describe()))
    adapted = bool(peft.adapter_names(model))
    size = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    out["trained_parameters"] = trained = peft.count_params(model) if adapted else size
    print(f"{trained:,} trained parameters, step {loaded.step}\n")
    print(f"{'split':<8}{'tokens':>8}{'base':>10}{'trained':>10}{'difference':>24}")
    base = None if adapted else untrained(task)
    for split in SPLITS:
        if split not in task.packed or not len(task.packed[split].arrays["ids"]):
            out[split] = "n/a: the split has no examples"
            print(f"{split:<8}{out[split]}")
            continue
        out[split] = row = losses(task, model, split, base)
        low, high = row["interval"]
        # A single row has no interval.
        interval = f" [{low:.3f}, {high:.3f}]" if np.isfinite([low, high]).all() else ""
        print(
            f"{split:<8}{row['tokens']:>8.0f}{row['base']:>10.3f}{row['trained']:>10.3f}"
            f"{row['difference']:>10.3f}{interval}"
        )
    print(
        f"\nnats per token of the answers, up to {MAX_ROWS} rows; 95 % bootstrap interval over rows"
    )
    if adapted:
        peft.save_adapter(model, outdir / "adapter", base=task.config.pretrained)
        print(f"the adapter, for PEFT: {outdir / 'adapter'}")
    out["answers"] = answers(task, model, "test", 4)
    print("\n\n".join(out["answers"]))
    return out


def losses(task: Any, model: CausalLM, split: str, base: CausalLM | None = None) -> dict[str, Any]:
    """Return the loss per token of the base and of the trained model, with a paired interval.

    Args:
        task: the task of the run.
        model: the trained model.
        split: name of the split.
        base: the model before training; None: the model with its adapters at scale 0.

    Returns:
        {"trained", "base", "difference", "interval", "tokens"}.
    """
    sums = {
        "trained": row_sums(task, model, split, 1.0),
        "base": row_sums(task, model if base is None else base, split, 0.0),
    }
    gap = paired_difference(sums["trained"], sums["base"])
    return {
        **{name: float(ratio(rows.sum(0))) for name, rows in sums.items()},
        "difference": gap.value,
        "interval": [gap.low, gap.high],
        "tokens": float(sums["base"][:, 1].sum()),
    }


def untrained(task: Any) -> CausalLM:
    """Return the model before training, from the pretrained files."""
    return loading.load(task.config.pretrained, **task.options.model_fields()).model


def row_sums(task: Any, model: CausalLM, split: str, scale: float) -> Float[np.ndarray, "N 2"]:
    """Return each row's summed loss of the answers, and their number of tokens.

    Args:
        task: the task of the run.
        model: the model to evaluate.
        split: name of the split.
        scale: scale of the model's adapters, if it has any. Scale 0 is the base, bit for bit, in
            the same program.
    """
    arrays = {k: v[:MAX_ROWS] for k, v in task.packed[split].arrays.items()}
    rows, size = len(arrays["ids"]), task.config.data.batch_size
    graphdef, state = nnx.split(model)
    scales = {name: np.full(size, scale, np.float32) for name in peft.adapter_names(model)}
    out = []
    for step in range(0, rows, size):
        batch = {k: v[step : step + size] for k, v in arrays.items()}
        short = size - len(batch["ids"])
        batch = {k: np.pad(v, ((0, short), (0, 0))) for k, v in batch.items()}
        out.append(np.asarray(_batch_sums(graphdef, state, batch, scales))[: size - short])
    return np.concatenate(out).astype(np.float64)


# Defined once, so that splits, base and trained model share a compiled program.
@partial(jax.jit, static_argnums=0)
def _batch_sums(graphdef: Any, state: Any, batch: Any, scales: dict[str, jax.Array]) -> jax.Array:
    """Return (B, 2) sums, see `row_sums`."""
    model = nnx.merge(graphdef, state)
    ctx = Context(jax.random.key(0), jnp.int32(0), adapter_scale=scales)
    states = model.states(
        batch["ids"], ctx, segment_ids=batch["segment_ids"], positions=batch["positions"]
    )
    x = jnp.take_along_axis(states, batch["where"][:, :, None], axis=1)
    scores = jax.nn.log_softmax(model.logits(x, ctx), axis=-1)  # (B, K, V)
    chosen = jnp.take_along_axis(scores, batch["targets"][:, :, None], axis=2)[..., 0]
    weight = batch["target_weight"]
    return jnp.stack([-(chosen * weight).sum(1), weight.sum(1)], axis=1)


def answers(task: Any, model: LanguageModel, split: str, n: int, length: int = 40) -> list[str]:
    """Return greedy answers to the first prompts of a split, with the expected ones.

    Args:
        task: the task of the run.
        model: the model to evaluate.
        split: name of the split.
        n: number of prompts.
        length: maximum number of tokens per answer.
    """
    pairs = task.pairs.splits.get(split, [])[:n]
    if not pairs:
        return []
    tokenizer = task.tokenizer
    prompts = tokenizer.encode(
        [task.prompt_text(p.prompt, tokenizer) for p in pairs], special=not tokenizer.template
    )
    width = max(map(len, prompts))
    ids = np.zeros((len(prompts), width), np.int32)
    mask = np.zeros((len(prompts), width), np.float32)
    for row, prompt in enumerate(prompts):  # padding on the left
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
    graphdef, state = nnx.split(model)

    @jax.jit
    def continued(state: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        ctx = Context(jax.random.key(0), jnp.int32(0))
        return generate(nnx.merge(graphdef, state), ids, mask, ctx, length, ends=task.ends)

    made = np.asarray(continued(state, ids, mask))
    out, ends = [], set(task.ends)
    for pair, row in zip(pairs, made.tolist(), strict=True):
        row = row[: next((i for i, x in enumerate(row) if x in ends), None)]
        question = pair.prompt.strip().splitlines()[-1]
        out.append(f"{question}\n  answer: {tokenizer.decode(row)}\n  file:   {pair.completion}")
    return out
