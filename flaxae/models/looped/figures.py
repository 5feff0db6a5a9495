"""Figures of runs and reports, as PNG and SVG, in colours for colour-blind readers."""

from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito's palette; line styles differ too, for prints without colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
STYLES = ("-", "--", "-.", ":")
ERROR = "error of the last point / variance of y"
Runs = dict[str, list[dict[str, Any]]]  # name -> a measure of each seed


def _new(columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * columns, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": STYLES[(index + index // len(COLOURS)) % len(STYLES)],
        "linewidth": 1.6,
    }


def _line(axis: Any, x: Any, seeds: list[Any], name: str, index: int) -> None:
    """Draw the geometric mean over the seeds, and a band from the smallest to the largest."""
    values = np.maximum(np.asarray(seeds, np.float64), 1e-12)
    style = _style(index)
    axis.plot(x, np.exp(np.log(values).mean(0)), label=name, **style)
    if len(values) > 1:
        axis.fill_between(x, values.min(0), values.max(0), color=style["color"], alpha=0.15)


def _finish(figure: Any, axes: Any, path: Path, note: str, log: bool = True) -> list[Path]:
    for axis in axes:
        if log:
            axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8)
    if note:
        figure.supxlabel(note, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    out = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in out:
        figure.savefig(file, dpi=120)
    return out


def learning_curves(runs: Runs, path: Path, note: str = "") -> list[Path]:
    """Draw the training error by step.

    Args:
        runs: measures "curve".
        path: path of both files, without suffix.
        note: one line below the figure; "": none.

    Returns:
        The files, PNG first.
    """
    figure, axes = _new()
    for i, (name, seeds) in enumerate(runs.items()):
        length = min(len(s["steps"]) for s in seeds)
        width = max(length // 60, 1)
        smooth = [np.convolve(s["error"][:length], np.ones(width) / width, "valid") for s in seeds]
        _line(axes[0], seeds[0]["steps"][width - 1 : length], smooth, name, i)
    axes[0].axhline(1, color="gray", linewidth=1, linestyle=":")
    axes[0].set_xlabel("training step")
    axes[0].set_ylabel(f"{ERROR}, training batches")
    return _finish(figure, axes, path, note)


def by_loop(runs: Runs, path: Path, note: str = "") -> list[Path]:
    """Draw the error after each loop, with a dot at the b of training; measures "loops"."""
    figure, axes = _new()
    for i, (name, seeds) in enumerate(runs.items()):
        loops = np.arange(1, len(seeds[0]["by_loop"]) + 1)
        _line(axes[0], loops, [s["by_loop"] for s in seeds], name, i)
        b = seeds[0]["loops"]
        mean = float(np.exp(np.mean([np.log(max(s["by_loop"][b - 1], 1e-12)) for s in seeds])))
        axes[0].plot([b], [mean], "o", color=_style(i)["color"], markersize=7)
    axes[0].set_xlabel("loops (dot: b, the loops of training)")
    axes[0].set_ylabel(ERROR)
    return _finish(figure, axes, path, note)


def by_kept_tokens(runs: Runs, path: Path, note: str = "") -> list[Path]:
    """Draw the error by number of tokens that pass their states on; measures "masks"."""
    figure, axes = _new(len(runs))
    for axis, (name, seeds) in zip(axes, runs.items(), strict=True):
        kinds = [("first", "first n"), ("last", "last n"), ("first_and_query", "first n + query")]
        for i, (kind, label) in enumerate(kinds):
            for j, (key, loops) in enumerate([("error", "b"), ("error_3b", "3 b")]):
                values = [s[kind][key] for s in seeds]
                _line(axis, seeds[0]["counts"], values, f"{label}, {loops} loops", 2 * i + j)
        one_loop = np.mean([s["one_loop"] for s in seeds])
        axis.axhline(one_loop, color="gray", linestyle=":", linewidth=1, label="one loop")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("tokens that pass their states on (prompt complete)")
        axis.set_ylabel(ERROR)
    return _finish(figure, axes, path, note)


def by_depth(runs: Runs, path: Path, note: str = "") -> list[Path]:
    """Draw a linear probe's error by depth; measures "probes"."""
    figure, axes = _new()
    for i, (name, seeds) in enumerate(runs.items()):
        depth = np.arange(1, len(seeds[0]["by_depth"]) + 1)
        label = f"{name} (depth in {seeds[0]['unit']}s)"
        _line(axes[0], depth, [s["by_depth"] for s in seeds], label, i)
    axes[0].set_xlabel("depth: loops, or layers of a single pass")
    axes[0].set_ylabel("w_OLS read by a linear probe: squared error / |w|²")
    return _finish(figure, axes, path, note)


def by_halting(runs: Runs, path: Path, note: str = "") -> list[Path]:
    """Draw the error by mean number of loops if each prompt stops on convergence."""
    figure, axes = _new()
    for i, (name, seeds) in enumerate(runs.items()):
        rows = np.asarray([s["rows"] for s in seeds]).mean(0)
        axes[0].plot(rows[:, 2], rows[:, 1], marker="o", label=name, **_style(i))
        b, whole = seeds[0]["loops"], np.mean([s["whole"] for s in seeds])
        axes[0].plot([b], [whole], "*", color=_style(i)["color"], markersize=11)
    axes[0].set_xlabel("mean loops per prompt (star: all b)")
    axes[0].set_ylabel(ERROR)
    return _finish(figure, axes, path, note)


def bits_by_loop(
    splits: dict[str, list[dict[str, float]]], path: Path, mean_loops: int, deepest: int
) -> list[Path]:
    """Draw a language model's bits per byte after each loop.

    Args:
        splits: name -> one dict per loop of "value", "low" and "high".
        path: path of both files, without suffix.
        mean_loops: mean number of loops in training.
        deepest: number of loops that 99 % of the training steps did not exceed.

    Returns:
        The files, PNG first.
    """
    figure, axes = _new()
    for i, (name, found) in enumerate(splits.items()):
        loops = np.arange(1, len(found) + 1)
        value, low, high = ([x[k] for x in found] for k in ("value", "low", "high"))
        axes[0].plot(loops, value, label=name, **_style(i))
        axes[0].fill_between(loops, low, high, color=_style(i)["color"], alpha=0.15)
    axes[0].axvline(mean_loops, color="gray", linestyle="--", label="mean b of training")
    axes[0].axvline(deepest, color="gray", linestyle=":", label="99 % of training steps")
    axes[0].set_xscale("log", base=2)
    axes[0].set_xlabel("loops")
    axes[0].set_ylabel("bits per byte, newline included (band: 95 % over lines)")
    return _finish(figure, axes, path, "", log=False)


FIGURES = {
    "learning_curves": (learning_curves, "curve"),
    "by_loop": (by_loop, "loops"),
    "by_kept_tokens": (by_kept_tokens, "masks"),
    "by_depth": (by_depth, "probes"),
    "by_halting": (by_halting, "halting"),
}


def pixels(file: Path) -> np.ndarray:
    """Read a PNG as uint8 (height, width, 3), for TensorBoard."""
    from matplotlib import image

    return (image.imread(file)[..., :3] * 255).astype(np.uint8)
