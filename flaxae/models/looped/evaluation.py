"""Measures of a trained run; each is stored as a JSON file in the run's folder.

Errors are those of the last point, whose y is predicted from the n - 1 points before it, divided by
the variance of y: predicting 0 has error 1.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxae.measures.stats import finite
from flaxae.models.looped.baselines import baselines, least_squares
from flaxae.models.looped.modeling import keep_tokens
from flaxae.models.looped.problems import Problem, ProblemBatch
from flaxae.models.looped.shifts import Shift, draw_shifted
from flaxae.task import Context, Loaded, Taps

ROWS = 1024  # problems per measure
LOOPS = 100  # loops after which errors are measured
FOLDER = "measures"
SEED = 7_000_001  # seed of the problems; no run trains with it
TOLERANCES = (0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
PLATEAU = 0.5  # a run has left the plateau if its training error stays below this


def context(seed: int = SEED, taps: Taps | None = None) -> Context:
    """Return a context of evaluation."""
    return Context(jax.random.key(seed), jnp.int32(0), taps=taps or Taps())


def dev_problems(loaded: Loaded, rows: int = ROWS, seed: int = SEED) -> ProblemBatch:
    """Return problems of the run's kind that it was not trained on."""
    task, batches, found = loaded.task, 0, []
    source = task.data("dev")
    while sum(len(batch.xs) for batch in found) < rows:
        found.append(task.draw(source.batch(batches), context(seed + batches)))
        batches += 1
    xs, ys = (jnp.concatenate(part)[:rows] for part in zip(*found, strict=True))
    return ProblemBatch(xs, ys)


@partial(jax.jit, static_argnums=(0, 4))
def _every_loop(
    graphdef: Any, params: Any, drawn: ProblemBatch, keep: Array, loops: int
) -> tuple[Float[Array, "loops B n"], Float[Array, "loops B D"]]:
    model, ctx = nnx.merge(graphdef, params), context()
    return model.every_loop(model.prompt(*drawn, ctx), ctx, loops, keep)


def trace(loaded: Loaded, drawn: ProblemBatch, loops: int, keep: Any = None) -> tuple[Array, Array]:
    """Run loops and return predictions and states at the last x after each.

    Args:
        loaded: a trained run.
        drawn: problems.
        loops: number of loops.
        keep: True for tokens whose states are passed on, (2n,); None: all.

    Returns:
        Predictions (loops, B, n) and states (loops, B, D).
    """
    graphdef, params = nnx.split(loaded.model)
    whole = np.ones(2 * drawn.xs.shape[1], bool)
    return _every_loop(graphdef, params, drawn, jnp.asarray(whole if keep is None else keep), loops)


def errors(predictions: Any, drawn: ProblemBatch, scale: Any) -> np.ndarray:
    """Return squared errors at the last point, divided by the variance of y.

    Args:
        predictions: predictions of all points, (..., B, n).
        drawn: problems.
        scale: variance of y.

    Returns:
        Errors, (..., B).
    """
    difference = np.asarray(predictions)[..., -1] - np.asarray(drawn.ys)[:, -1]
    return np.square(difference) / scale


def loops(loaded: Loaded) -> dict[str, Any]:
    """Measure errors after each loop, far beyond b, by point after b, and those of baselines."""
    options, drawn = loaded.task.options, dev_problems(loaded)
    predictions, _ = trace(loaded, drawn, max(LOOPS, 3 * options.loops))
    by_loop = errors(predictions, drawn, loaded.task.scale()).mean(1)
    at_b = np.square(np.asarray(predictions[options.loops - 1]) - np.asarray(drawn.ys))
    return {
        "loops": options.loops,
        "error": float(by_loop[options.loops - 1]),
        "error_60": float(by_loop[59]),
        "error_3b": float(by_loop[3 * options.loops - 1]),
        "best": float(by_loop.min()),
        "best_loop": int(by_loop.argmin()) + 1,
        "by_loop": by_loop.tolist(),
        "by_point": (at_b.mean(0) / loaded.task.scale()).tolist(),
        "baselines": _baselines(loaded, drawn),
    }


def _baselines(loaded: Loaded, drawn: ProblemBatch) -> dict[str, float]:
    """Return the error of each baseline; slow ones are measured on fewer problems."""
    out = {}
    few = ProblemBatch(drawn.xs[:128], drawn.ys[:128])
    for name, baseline in baselines(loaded.task.options.problem).items():
        xs, ys = few if name in ("greedy tree", "boosting", "network") else drawn
        answer = np.asarray(baseline(xs[:, :-1], ys[:, :-1], xs[:, -1]))
        error = np.square(answer - np.asarray(ys[:, -1])).mean()
        out[name] = float(error / loaded.task.scale())
    return out


def masks(loaded: Loaded) -> dict[str, Any]:
    """Measure errors if only n tokens pass their states to the next loop.

    The prompt P is complete in every loop.
    """
    options, drawn = loaded.task.options, dev_problems(loaded, 512)
    points, b = options.model.points, options.loops

    def error_by_loop(keep: Any = None) -> np.ndarray:
        predictions, _ = trace(loaded, drawn, 3 * b, keep)
        return errors(predictions, drawn, loaded.task.scale()).mean(1)

    counts = sorted({*range(0, 2 * points - 1, max(points // 8, 1)), 2 * points - 1})
    out: dict[str, Any] = {"counts": counts}
    kinds = {"first": ("first", False), "last": ("last", False), "first_and_query": ("first", True)}
    for name, (side, query) in kinds.items():
        curves = [error_by_loop(keep_tokens(points, n, side, query)) for n in counts]
        out[name] = {
            "error": [float(c[b - 1]) for c in curves],
            "error_3b": [float(c[3 * b - 1]) for c in curves],
        }
    whole = error_by_loop()
    half = counts.index(min(counts, key=lambda n: abs(n - points)))
    out |= {"whole": float(whole[b - 1]), "one_loop": float(whole[0]), "half_count": counts[half]}
    for name in kinds:
        out[f"{name}_half"] = out[name]["error"][half]
        out[f"{name}_half_3b"] = out[name]["error_3b"][half]
    return out


def probes(loaded: Loaded) -> dict[str, Any]:
    """Measure how well a linear probe reads the least-squares weights from the state at the last x.

    The state is that after each loop, or after each layer if there is one loop. The probe is fitted
    on half of the problems and measured on the other half, by the mean of |w - probe|^2 divided by
    the mean of |w|^2.
    """
    options, drawn = loaded.task.options, dev_problems(loaded, 2 * ROWS)
    dims, prompt = options.model.dims, (drawn.xs[:, :-1], drawn.ys[:, :-1])
    axes = jnp.broadcast_to(jnp.eye(dims)[None], (len(drawn.xs), dims, dims))
    weights = np.stack([np.asarray(least_squares(*prompt, axes[:, i])) for i in range(dims)], 1)
    if options.loops > 1:
        _, states = trace(loaded, drawn, options.loops)
    else:
        taps = Taps(lambda path: path.endswith("blocks.state"))
        ctx = context(taps=taps)
        embedded = loaded.model.prompt(*drawn, ctx)
        loaded.model.loop(loaded.model.initial_state(embedded), embedded, ctx)
        states = taps.collected["blocks.state"][:, :, -2]
    by_depth = [_probe(np.asarray(state, np.float64), weights) for state in states]
    return {
        "unit": "loop" if options.loops > 1 else "layer",
        "by_depth": by_depth,
        "first": by_depth[0],
        "last": by_depth[-1],
        "best": min(by_depth),
        "best_depth": int(np.argmin(by_depth)) + 1,
    }


def _probe(states: Float[np.ndarray, "B D"], weights: Float[np.ndarray, "B d"]) -> float:
    """Fit a linear probe on half of the rows; return its relative error on the others."""
    half = len(states) // 2
    rows = np.concatenate([states, np.ones((len(states), 1))], axis=1)
    fitted = np.linalg.lstsq(rows[:half], weights[:half], rcond=1e-8)[0]
    error = np.square(rows[half:] @ fitted - weights[half:]).sum()
    return float(error / np.square(weights[half:]).sum())


def halting(loaded: Loaded) -> dict[str, Any]:
    """Measure error and mean number of loops if each row stops on convergence, at most after b."""
    options, drawn = loaded.task.options, dev_problems(loaded)
    b, ctx = options.loops, context()
    prompt = loaded.model.prompt(*drawn, ctx)
    graphdef, params = nnx.split(loaded.model)

    @jax.jit
    def run(params: Any, tolerance: Any) -> Any:
        return nnx.merge(graphdef, params).halting(prompt, ctx, tolerance, b)

    whole = float(errors(trace(loaded, drawn, b)[0][-1], drawn, loaded.task.scale()).mean())
    rows = []
    for tolerance in TOLERANCES:
        answer, used = run(params, jnp.float32(tolerance))
        error = errors(answer[:, None], drawn, loaded.task.scale()).mean()
        rows.append([tolerance, float(error), float(np.mean(used))])
    # The smallest error with at most half of the loops.
    cheap = min((r[1] for r in rows if r[2] <= b / 2), default=float("nan"))
    return {"whole": whole, "rows": rows, "error_at_half": cheap, "loops": b}


def shifts(loaded: Loaded) -> dict[str, Any]:
    """Measure errors on linear regression under distribution shifts."""
    options = loaded.task.options
    sizes = (ROWS, options.model.points, options.model.dims)
    out: dict[str, Any] = {}
    for shift in Shift if options.problem is Problem.LINEAR else ():
        drawn, scale = draw_shifted(shift, jax.random.key(SEED), *sizes)
        predictions, _ = trace(loaded, drawn, options.loops)
        xs, ys = drawn
        best = np.asarray(least_squares(xs[:, :-1], ys[:, :-1], xs[:, -1])) - np.asarray(ys[:, -1])
        out[shift.value] = {
            "error": float(errors(predictions[-1], drawn, float(scale)).mean()),
            "least_squares": float(np.square(best).mean() / float(scale)),
        }
    return out


def curve(loaded: Loaded) -> dict[str, Any]:
    """Read the learning curve from the log, and the step at which the plateau is left."""
    lines = (loaded.workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    rows = [r for r in rows if r["split"] == "train" and r.get("error") is not None]
    steps, error = [r["step"] for r in rows], np.asarray([r["error"] for r in rows])
    # A mean of five logged batches, since one is too noisy.
    smooth = np.convolve(error, np.ones(5) / 5, "valid") if len(error) > 4 else error
    above = np.flatnonzero(smooth >= PLATEAU)
    left = 0 if not len(above) else above[-1] + 1
    known = left < len(smooth)
    return {
        "steps": steps,
        "error": error.tolist(),
        "plateau_step": steps[min(left + 4, len(steps) - 1)] if known else None,
        "trained": loaded.step,
    }


MEASURES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "loops": loops,
    "masks": masks,
    "probes": probes,
    "halting": halting,
    "shifts": shifts,
    "curve": curve,
}


def measure(workdir: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return measures of a trained run; those without a file yet are measured and stored.

    Args:
        workdir: the run's workdir.
        names: keys of MEASURES.

    Returns:
        Each measure by its name.
    """
    from flaxae.training.load import load

    out, loaded = {}, None
    for name in names:
        path = workdir / FOLDER / f"{name}.json"
        if not path.exists():
            loaded = loaded or load(workdir)
            path.parent.mkdir(exist_ok=True)
            text = json.dumps(MEASURES[name](loaded), indent=1)
            part = path.with_suffix(".part")
            part.write_text(text + "\n")
            part.rename(path)
        out[name] = json.loads(path.read_text())
    return out


def report(loaded: Loaded, outdir: str) -> dict[str, Any]:
    """Measure all that applies to one run.

    Writes report.json and figures, and prints a summary.

    Args:
        loaded: a trained run.
        outdir: folder of the results.

    Returns:
        The content of report.json.
    """
    from flaxae.models.looped import figures

    options = loaded.task.options
    names = ["loops", "shifts", "curve"] + ["masks", "halting"] * (options.loops > 1)
    names += ["probes"] * (options.problem in (Problem.LINEAR, Problem.NOISY))
    out = {name: MEASURES[name](loaded) for name in names}
    (Path(outdir) / "report.json").write_text(json.dumps(finite(out), indent=1) + "\n")
    figures.by_loop({"this run": [out["loops"]]}, Path(outdir) / "by_loop")
    figures.learning_curves({"this run": [out["curve"]]}, Path(outdir) / "learning_curve")
    found = out["loops"]
    print(f"step {loaded.step}; errors of the last of {options.model.points} points / var(y)")
    print(
        f"after b={options.loops} loops {found['error']:.4f}; best {found['best']:.4f} after "
        f"{found['best_loop']}; after 60 {found['error_60']:.4f}"
    )
    for name, value in found["baselines"].items():
        print(f"  {name}: {value:.4f}")
    for name, row in out["shifts"].items():
        print(f"  under {name}: {row['error']:.4f} (least squares {row['least_squares']:.4f})")
    return out
