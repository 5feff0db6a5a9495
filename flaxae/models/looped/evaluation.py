"""What is measured on a trained run; each measure is a JSON file in the run's folder.

Errors are of the last point, its y predicted from the n - 1 points before it, over the variance of
y: 1 is what answering 0 gets.
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

from flaxae.models.looped.baselines import baselines, least_squares
from flaxae.models.looped.modeling import keep_tokens
from flaxae.models.looped.problems import Drawn, Problem
from flaxae.models.looped.shifts import Shift, draw_shifted
from flaxae.task import Context, Taps

ROWS = 1024  # problems of a measure
LOOPS = 100  # a looped model is followed so far
FOLDER = "measures"
SEED = 7_000_001  # of the problems, which no run trains on
TOLERANCES = (0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
PLATEAU = 0.5  # a run has left the plateau where its training error stays below


def context(seed: int = SEED, taps: Taps | None = None) -> Context:
    return Context(jax.random.key(seed), jnp.int32(0), taps=taps or Taps())


def problems_of(loaded: Any, rows: int = ROWS, seed: int = SEED) -> Drawn:
    """Problems of the run's own kind, not those it was trained on."""
    task, batches, found = loaded.task, 0, []
    source = task.data("dev")
    while sum(len(d.xs) for d in found) < rows:
        found.append(task.draw(source.batch(batches), context(seed + batches)))
        batches += 1
    xs, ys = (jnp.concatenate(part)[:rows] for part in zip(*found, strict=True))
    return Drawn(xs, ys)


@partial(jax.jit, static_argnums=(0, 4))
def _every_loop(
    graphdef: Any, params: Any, drawn: Drawn, keep: Array, loops: int
) -> tuple[Float[Array, "loops B n"], Float[Array, "loops B D"]]:
    model, ctx = nnx.merge(graphdef, params), context()
    return model.every_loop(model.prompt(*drawn, ctx), ctx, loops, keep)


def trace(loaded: Any, drawn: Drawn, loops: int, keep: Any = None) -> tuple[Array, Array]:
    """Predictions and states at the last x after every loop."""
    graphdef, params = nnx.split(loaded.model)
    whole = np.ones(2 * drawn.xs.shape[1], bool)
    return _every_loop(graphdef, params, drawn, jnp.asarray(whole if keep is None else keep), loops)


def errors(predictions: Any, drawn: Drawn, scale: Any) -> np.ndarray:
    """(..., B, n) -> squared errors at the last point, over the variance of y, (..., B)."""
    wrong = np.asarray(predictions)[..., -1] - np.asarray(drawn.ys)[:, -1]
    return np.square(wrong) / scale


def loops(loaded: Any) -> dict[str, Any]:
    """Error after each loop, far past b, and by point after b; baselines on the same problems."""
    options, drawn = loaded.config.task, problems_of(loaded)
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


def _baselines(loaded: Any, drawn: Drawn) -> dict[str, float]:
    out = {}
    few = Drawn(drawn.xs[:128], drawn.ys[:128])
    for name, baseline in baselines(loaded.config.task.problem).items():
        xs, ys = few if name in ("greedy tree", "boosting", "network") else drawn
        answer = np.asarray(baseline(xs[:, :-1], ys[:, :-1], xs[:, -1]))
        wrong = np.square(answer - np.asarray(ys[:, -1])).mean()
        out[name] = float(wrong / loaded.task.scale())
    return out


def masks(loaded: Any) -> dict[str, Any]:
    """Error where only n tokens' states are carried from loop to loop; the prompt stays whole."""
    options, drawn = loaded.config.task, problems_of(loaded, 512)
    points, b = options.model.points, options.loops
    counts = sorted({*range(0, 2 * points - 1, max(points // 8, 1)), 2 * points - 1})
    out: dict[str, Any] = {"counts": counts}
    for name, side, query in [("first", "first", False), ("last", "last", False),
                              ("first_and_query", "first", True)]:  # fmt: skip
        curves = [
            errors(trace(loaded, drawn, 3 * b, keep_tokens(points, n, side, query))[0], drawn,
                   loaded.task.scale()).mean(1)
            for n in counts
        ]  # fmt: skip
        out[name] = {
            "error": [float(c[b - 1]) for c in curves],
            "error_3b": [float(c[3 * b - 1]) for c in curves],
        }
    whole = errors(trace(loaded, drawn, 3 * b)[0], drawn, loaded.task.scale()).mean(1)
    half = counts.index(min(counts, key=lambda n: abs(n - points)))
    out |= {"whole": float(whole[b - 1]), "one_loop": float(whole[0]), "half_count": counts[half]}
    for name in ("first", "last", "first_and_query"):
        out[f"{name}_half"] = out[name]["error"][half]
        out[f"{name}_half_3b"] = out[name]["error_3b"][half]
    return out


def probes(loaded: Any) -> dict[str, Any]:
    """How well w_OLS can be read, linearly, from the state at the last x: after each loop, or each
    layer where there is one loop.

    Half of the problems fit the probe, the other half measure it: mean |w - probe|^2 over the mean
    |w|^2.
    """
    options, drawn = loaded.config.task, problems_of(loaded, 2 * ROWS)
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


def _probe(states: np.ndarray, weights: np.ndarray) -> float:
    half = len(states) // 2
    rows = np.concatenate([states, np.ones((len(states), 1))], axis=1)
    fitted = np.linalg.lstsq(rows[:half], weights[:half], rcond=1e-8)[0]
    wrong = np.square(rows[half:] @ fitted - weights[half:]).sum()
    return float(wrong / np.square(weights[half:]).sum())


def halting(loaded: Any) -> dict[str, Any]:
    """Error and mean number of loops where each row stops by itself, at most after b."""
    options, drawn = loaded.config.task, problems_of(loaded)
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
        wrong = errors(answer[:, None], drawn, loaded.task.scale()).mean()
        rows.append([tolerance, float(wrong), float(np.mean(used))])
    # The least error that half the loops buy.
    cheap = min((r[1] for r in rows if r[2] <= b / 2), default=float("nan"))
    return {"whole": whole, "rows": rows, "error_at_half": cheap, "loops": b}


def shifts(loaded: Any) -> dict[str, Any]:
    """Error on linear regression of other distributions than the training's."""
    options = loaded.config.task
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


def curve(loaded: Any) -> dict[str, Any]:
    """Learning curve from the log, and the step at which the plateau is left."""
    lines = (loaded.workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    rows = [r for r in rows if r["split"] == "train" and r.get("error") is not None]
    steps, error = [r["step"] for r in rows], np.asarray([r["error"] for r in rows])
    # A mean of five logged batches: one is too noisy to tell.
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
    """Measures of a trained run, made where they are not there yet.

    Args:
        workdir: of the run.
        names: of MEASURES.

    Returns:
        Name -> what was measured.
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


def report(loaded: Any, outdir: str) -> dict[str, Any]:
    """All measures that fit one run, its figures, and a few lines of text."""
    from flaxae.models.looped import figures

    options = loaded.config.task
    names = ["loops", "shifts", "curve"] + ["masks", "halting"] * (options.loops > 1)
    names += ["probes"] * (options.problem in (Problem.LINEAR, Problem.NOISY))
    out = {name: MEASURES[name](loaded) for name in names}
    (Path(outdir) / "report.json").write_text(json.dumps(out, indent=1) + "\n")
    figures.by_loop({"this run": [out["loops"]]}, Path(outdir) / "by_loop")
    figures.learning_curves({"this run": [out["curve"]]}, Path(outdir) / "learning_curve")
    found = out["loops"]
    print(f"step {loaded.step}; errors of the last of {options.model.points} points, over var(y)")
    print(f"after b={options.loops} loops {found['error']:.4f}; best {found['best']:.4f} after "
          f"{found['best_loop']}; after 60 {found['error_60']:.4f}")  # fmt: skip
    for name, value in found["baselines"].items():
        print(f"  {name}: {value:.4f}")
    for name, row in out["shifts"].items():
        print(f"  under {name}: {row['error']:.4f} (least squares {row['least_squares']:.4f})")
    return out
