"""Evaluation of a trained intervention: answers of base and adapter by split and data set.

`task` is an InterventionTask, which imports this module.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxae import peft
from flaxae.measures.stats import finite
from flaxae.models.probes import interventions
from flaxae.models.probes.answers import Answers, answer_measures, known_of
from flaxae.models.probes.fitting.base import sigmoid
from flaxae.models.probes.prompts import Prompt, encode_prompts
from flaxae.models.probes.table import SIDES, answer_threshold
from flaxae.peft.apply import DEFAULT
from flaxae.task import Context

SHOWN = ("truth_acc", "truth_auroc", "lie_acc", "known_lie_acc", "balance", "choice_cov")
ROWS = 8


def report(loaded: Any, outdir: Path) -> dict[str, Any]:
    """Print and return the answers' measures; write the adapter as a directory for PEFT.

    Args:
        loaded: the run, see `flaxae.load`.
        outdir: folder of the adapter, `outdir/adapter`.
    """
    task = loaded.task
    print("\n".join(task.describe()))
    out: dict[str, Any] = {"step": loaded.step}
    train = task.prompts(task.splits["train"], (False,))
    base = answers(task, loaded.model, train)["base"]
    threshold = answer_threshold(base.p, base.label)
    print(f"\n{'set':<20}{'side':<9}" + "".join(f"{name:>15}" for name in SHOWN))
    for name, examples in sets_of(task.splits).items():
        prompts = task.prompts(examples)
        found = answers(task, loaded.model, prompts)
        known = known_of(found["base"], threshold)
        out[name] = {}
        for side in SIDES:
            measures = answer_measures(found[side], known)
            out[name][side] = finite(measures)
            print(f"{name:<20}{side:<9}" + "".join(f"{measures[m]:>15.3f}" for m in SHOWN))
    peft.save_adapter(loaded.model, outdir / "adapter", base=task.config.pretrained)
    print(f"\nthe adapter, for PEFT: {outdir / 'adapter'}")
    return out


def sets_of(splits: Any) -> dict[str, tuple[Any, ...]]:
    """Return the test examples of each data set, and the OOD sets, by name."""
    out: dict[str, tuple[Any, ...]] = {}
    for split in ("test", "ood"):
        for name in dict.fromkeys(x.dataset for x in splits[split]):
            out[f"{split} {name}"] = tuple(x for x in splits[split] if x.dataset == name)
    return out


def answers(
    task: Any, model: Any, prompts: Sequence[Prompt], rows: int = ROWS
) -> dict[str, Answers]:
    """Return the answers of base and adapter to prompts, both from one program.

    Args:
        task: an InterventionTask.
        model: its model with the adapter.
        prompts: the prompts.
        rows: prompts per batch.
    """
    encoded = encode_prompts(prompts, task.data_config.style(), task.tokenizer, limit=task.limit)
    run, state = answer_program(task, model)
    found: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    for start in range(0, len(prompts), rows):
        part = {n: x[start : start + rows] for n, x in encoded.arrays().items()}
        short = rows - len(part["last"])
        part = {n: np.pad(x, [(0, short)] + [(0, 0)] * (x.ndim - 1)) for n, x in part.items()}
        for side, values in zip(SIDES, np.asarray(run(state, part)), strict=True):
            found[side].append(values[: rows - short])
    out = {}
    for side, parts in found.items():
        odds, cov = np.concatenate(parts).T
        out[side] = Answers(sigmoid(odds), cov, encoded.label, encoded.lie)
    return out


def answer_program(task: Any, model: Any) -> tuple[Any, Any]:
    """Return (state, batch) -> (sides, rows, 2) of log odds and coverage, and the state."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state: Any, batch: dict[str, jax.Array]) -> jax.Array:
        model, rows = nnx.merge(graphdef, state), batch["last"].shape[0]
        both = {n: jnp.concatenate([x, x]) for n, x in batch.items()}
        scale = jnp.repeat(jnp.asarray([0.0, 1.0], jnp.float32), rows)
        ctx = Context(jax.random.key(0), jnp.int32(0), adapter_scale={DEFAULT: scale})
        found = task.choice_log_probs(model, both, ctx)
        odds, cov = interventions.answer_log_odds(found), interventions.coverage(found)
        return jnp.stack([odds, cov], 1).reshape(2, rows, 2)

    return run, state
