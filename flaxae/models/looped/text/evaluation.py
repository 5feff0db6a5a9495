"""Bits per byte against the number of loops, in training and beyond, with intervals over lines."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from flaxae.measures import stats
from flaxae.models.looped import figures
from flaxae.models.looped.depth import random_loops
from flaxae.models.looped.text.data import targets_and_weights
from flaxae.task import Context

SPLITS = ("dev", "test_file", "test_line")
MAX_LINES = 1024  # of a split
FLAT = 1.05  # bits after the most loops over those after the mean of training


@partial(jax.jit, static_argnums=(0, 3))
def _nats(graphdef: Any, params: Any, batch: Any, loops: int) -> Any:
    rows, weight = targets_and_weights(batch)
    ctx = Context(jax.random.key(0), jnp.int32(0))
    model = nnx.merge(graphdef, params)
    return model.nats_by_loop(rows, weight, ctx, loops), jnp.sum(weight, axis=1)


def line_bits(
    model: Any, source: Any, loops: int, most: int = MAX_LINES
) -> tuple[Float[np.ndarray, "loops n"], Float[np.ndarray, " n"]]:
    """Bits of each line after each of so many loops, and its bytes.

    Args:
        model: a LoopedText.
        source: a held-out split's.
        loops: how many.
        most: lines, the split's first ones.
    """
    graphdef, params = nnx.split(model)
    found = []
    for number in range(source.num_batches):
        batch = source.batch(number)
        nats, count = map(np.asarray, _nats(graphdef, params, batch, loops))
        found.append((nats[:, count > 0], count[count > 0]))
        if sum(len(count) for _, count in found) >= most:
            break
    nats = np.concatenate([nats for nats, _ in found], axis=1)[:, :most]
    count = np.concatenate([count for _, count in found])[:most]
    return nats.astype(np.float64) / math.log(2), count.astype(np.float64)


def by_loop(
    bits: Float[np.ndarray, "loops n"], count: Float[np.ndarray, " n"], mean_loops: int
) -> dict[str, Any]:
    """Bits per byte after each loop with intervals over lines, and how flat they stay."""
    curve = [stats.bootstrap(np.stack([row, count], 1)) for row in bits]
    first, last = (np.stack([bits[i], count], 1) for i in (mean_loops - 1, -1))

    def growth(sums: np.ndarray) -> np.ndarray:
        return sums[..., 2] * sums[..., 1] / (sums[..., 3] * sums[..., 0])

    best = int(np.argmin([x.value for x in curve]))
    return {
        "lines": len(count),
        "bytes": int(count.sum()),
        "by_loop": [x.as_dict() for x in curve],
        "best_loop": best + 1,
        # Both on the same lines: resampled together.
        "last_over_mean": stats.bootstrap(np.concatenate([first, last], 1), growth).as_dict(),
    }


def trained_share(options: Any, draws: int = 20_000) -> Float[np.ndarray, " most"]:
    """How often training drew each number of loops, from 1 on."""
    most = options.max_loops or 3 * options.loops
    if not options.random_loops:
        return np.eye(options.loops)[-1]
    keys = jax.random.split(jax.random.key(0), draws)
    one = jax.vmap(lambda k: random_loops(k, options.loops, options.random_sigma, most))
    return np.bincount(np.asarray(one(keys)), minlength=most + 1)[1:] / draws


def report(loaded: Any, outdir: str) -> dict[str, Any]:
    """Bits per byte against loops on every held-out split, a figure, and a few lines of text."""
    loaded.check_data()
    options, task = loaded.config.task, loaded.task
    most = max(max(options.report_loops), options.loops)
    share = trained_share(options)
    deepest = int(np.flatnonzero(np.cumsum(share) >= 0.99)[0]) + 1
    out: dict[str, Any] = {
        "step": loaded.step,
        "mean_loops": options.loops,
        "trained_99": deepest,
        "splits": {},
    }
    for split in [s for s in SPLITS if s in task.splits]:
        bits, count = line_bits(loaded.model, task.data(split), most)
        out["splits"][split] = by_loop(bits, count, options.loops)
    if options.model.injection.value == "stable":
        decay = np.asarray(loaded.model.decay())
        out["decay"] = {"smallest": float(decay.min()), "largest": float(decay.max())}
    (Path(outdir) / "report.json").write_text(json.dumps(out, indent=1) + "\n")
    curves = {name: found["by_loop"] for name, found in out["splits"].items()}
    figures.bits_by_loop(curves, Path(outdir) / "bits_by_loop", options.loops, deepest)
    _tell(out, options)
    return out


def _tell(out: dict[str, Any], options: Any) -> None:
    print(f"step {out['step']}; bits per byte (newline counted) with 95 % intervals over lines")
    print(f"training drew b about {out['mean_loops']}, {out['trained_99']} or fewer in 99 %")
    splits = out["splits"]
    print("| loops | " + " | ".join(f"{s} ({x['lines']} lines)" for s, x in splits.items()) + " |")
    print("|---" * (len(splits) + 1) + "|")
    for loops in options.report_loops:
        cells = [stats.Interval(**x["by_loop"][loops - 1]) for x in splits.values()]
        print(f"| {loops} | " + " | ".join(map(str, cells)) + " |")
    for name, found in splits.items():
        last = found["last_over_mean"]
        word = "flat" if last["high"] < FLAT else "drifts" if last["low"] > FLAT else "unclear"
        print(f"{name}: after {len(found['by_loop'])} loops {stats.Interval(**last)} times what it "
              f"is after {out['mean_loops']} ({word}, bound {FLAT}); best after "
              f"{found['best_loop']}")  # fmt: skip
    if "decay" in out:
        print("decay of the state, smallest and largest: "
              f"{out['decay']['smallest']:.3f}, {out['decay']['largest']:.3f}")  # fmt: skip
