"""Bits per byte by number of loops, in training and beyond, with intervals over lines."""

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

from flaxae.errors import ConfigError
from flaxae.measures import stats
from flaxae.models.looped import figures
from flaxae.models.looped.depth import random_loops
from flaxae.models.looped.text.data import targets_and_weights
from flaxae.task import Context, Loaded

SPLITS = ("dev", "test_file", "test_line")
MAX_LINES = 1024  # per split
FLAT = 1.05  # bound of the ratio of bits after the most loops and after the mean of training


@partial(jax.jit, static_argnums=(0, 3))
def _nats(graphdef: Any, params: Any, batch: Any, loops: int) -> Any:
    rows, weight = targets_and_weights(batch)
    ctx = Context(jax.random.key(0), jnp.int32(0))
    model = nnx.merge(graphdef, params)
    return model.nats_by_loop(rows, weight, ctx, loops), jnp.sum(weight, axis=1)


def line_bits(
    model: Any, source: Any, loops: int, most: int = MAX_LINES
) -> tuple[Float[np.ndarray, "loops n"], Float[np.ndarray, " n"]]:
    """Return the bits of each line after each loop, and its number of bytes.

    Args:
        model: a LoopedText.
        source: batches of a held-out split.
        loops: number of loops.
        most: maximum number of lines; the first ones are used.

    Returns:
        Bits (loops, n), and bytes (n,).
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
    """Return bits per byte after each loop with intervals over lines, and their growth.

    Args:
        bits: bits of each line after each loop.
        count: bytes of each line.
        mean_loops: mean number of loops of training.

    Returns:
        JSON-serialisable measures; "last_over_mean" is the ratio of bits after all loops and after
        `mean_loops`.
    """
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
        # Both are of the same lines, so they are resampled together.
        "last_over_mean": stats.bootstrap(np.concatenate([first, last], 1), growth).as_dict(),
    }


def trained_share(options: Any, draws: int = 20_000) -> Float[np.ndarray, " most"]:
    """Return the share of training steps with each number of loops, from 1 on.

    Args:
        options: a TextConfig.
        draws: random numbers of loops to draw.

    Returns:
        Shares, whose sum is 1.
    """
    most = options.max_loops or 3 * options.loops
    if not options.random_loops:
        return np.eye(options.loops)[-1]
    keys = jax.random.split(jax.random.key(0), draws)
    draw = jax.vmap(lambda k: random_loops(k, options.loops, options.random_sigma, most))
    return np.bincount(np.asarray(draw(keys)), minlength=most + 1)[1:] / draws


def report(loaded: Loaded, outdir: str) -> dict[str, Any]:
    """Measure bits per byte by loop on every held-out split.

    Writes report.json and a figure, and prints a summary.

    Args:
        loaded: a trained run.
        outdir: folder of the results.

    Returns:
        The content of report.json.
    """
    loaded.check_data()
    task, options = loaded.task, loaded.task.options
    most = max(max(options.report_loops), options.loops)
    share = trained_share(options)
    deepest = int(np.flatnonzero(np.cumsum(share) >= 0.99)[0]) + 1
    out: dict[str, Any] = {
        "step": loaded.step,
        "mean_loops": options.loops,
        "trained_99": deepest,
        "splits": {},
        "left_out": {},
    }
    for split in [s for s in SPLITS if s in task.splits]:
        try:
            source = task.data(split)
        except ConfigError as error:  # none of its lines fits a row
            out["left_out"][split] = str(error)
            continue
        bits, count = line_bits(loaded.model, source, most)
        out["splits"][split] = by_loop(bits, count, options.loops)
    if options.model.injection.value == "stable":
        decay = np.asarray(loaded.model.decay())
        out["decay"] = {"smallest": float(decay.min()), "largest": float(decay.max())}
    curves = {name: found["by_loop"] for name, found in out["splits"].items()}
    if curves:
        figures.bits_by_loop(curves, Path(outdir) / "bits_by_loop", options.loops, deepest)
    _print_summary(out, options)
    out = stats.finite(out)
    (Path(outdir) / "report.json").write_text(json.dumps(out, indent=1) + "\n")
    return out


def _print_summary(out: dict[str, Any], options: Any) -> None:
    print(f"step {out['step']}; bits per byte (newline included) with 95 % intervals over lines")
    print(
        f"training: {out['mean_loops']} loops on average, at most {out['trained_99']} in 99 % of "
        "the steps"
    )
    splits = out["splits"]
    for name, why in out["left_out"].items():
        print(f"{name} is left out: {why}")
    print("| loops | " + " | ".join(f"{s} ({x['lines']} lines)" for s, x in splits.items()) + " |")
    print("|---" * (len(splits) + 1) + "|")
    for loops in options.report_loops:
        cells = [stats.Interval(**x["by_loop"][loops - 1]) for x in splits.values()]
        print(f"| {loops} | " + " | ".join(map(str, cells)) + " |")
    for name, found in splits.items():
        last = found["last_over_mean"]
        word = "flat" if last["high"] < FLAT else "drifts" if last["low"] > FLAT else "unclear"
        print(
            f"{name}: ratio of bits after {len(found['by_loop'])} and {out['mean_loops']} loops "
            f"{stats.Interval(**last)} ({word}, bound {FLAT}); best after {found['best_loop']}"
        )
    if "decay" in out:
        smallest, largest = out["decay"]["smallest"], out["decay"]["largest"]
        print(f"decay of the state, smallest and largest: {smallest:.3f}, {largest:.3f}")
