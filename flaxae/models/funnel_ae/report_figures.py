"""Figures of the report, made from rows of its record."""

from pathlib import Path
from typing import Any

import numpy as np

from flaxae.measures import stats
from flaxae.sweep.record import Row

# Okabe and Ito's palette, for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
UPSAMPLERS = ("haar", "ff_sep", "linear", "interp", "repeat")
SKIPS = ("haar", "skip_linear", "skip_late", "skip_half", "skip_sigmoid")
Numbers = dict[str, list[dict[str, Any]]]  # variant -> numbers of each seed


def draw(rows: list[Row], outdir: Path, note: str = "") -> list[Path]:
    """Draw the figures whose runs the rows contain.

    Args:
        rows: rows of the record.
        outdir: folder of the PNG files.
        note: one line below each figure; "": none.

    Returns:
        The files.
    """
    found: Numbers = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row["numbers"])
    out = []
    for make in (differences, attention, dimensions, skips):
        figure = make(found)
        if figure is not None:
            if note:
                figure.supxlabel(note, fontsize=8)
            out.append(outdir / f"{make.__name__}.png")
            figure.savefig(out[-1], dpi=80)
    return out


def differences(found: Numbers) -> Any:
    """Draw the variance of upsampled differences over the original one, by upsampler and level."""
    names = [name for name in UPSAMPLERS if name in found]
    if not names:
        return None
    figure, (axis,) = _new(1)
    _bars(axis, {name: [x["differences"] for x in found[name]] for name in names}, ("8", "4"))
    axis.axhline(1, color="gray", linewidth=1, linestyle=":")
    axis.set_xlabel("states after upsampling")
    axis.set_ylabel("Var(y_odd - y_even) / Var(x_odd - x_even)")
    axis.legend(fontsize=8)
    return figure


def attention(found: Numbers) -> Any:
    """Draw the attention of pooled queries to their own pairs, relative to uniform."""
    names = [n for n in (*UPSAMPLERS, "frozen", "random") if n in found]
    if not names:
        return None
    figure, (axis,) = _new(1)
    labels = ("8 to 4 states", "4 to 2 states")
    _bars(axis, {name: [x["attention"] for x in found[name]] for name in names}, labels)
    axis.axhline(1, color="gray", linewidth=1, linestyle=":")
    for level, most in enumerate((4, 2)):
        ends = [level - 0.45, level + 0.45]
        axis.plot(ends, [most] * 2, color="gray", linewidth=1, linestyle="--")
    axis.set_xlabel("layer that pools (dashed: all attention to the own pair)")
    axis.set_ylabel("attention to the own pair / uniform")
    axis.legend(fontsize=8)
    return figure


def dimensions(found: Numbers) -> Any:
    """Draw the principal components and the participation ratio of each layer's states."""
    names = [name for name in UPSAMPLERS if name in found]
    if not names:
        return None
    figure, axes = _new(3)
    labels = {
        "components_90": "components with 90 % of the variance",
        "components_99": "components with 99 % of the variance",
        "participation_ratio": "participation ratio",
    }
    for axis, (key, label) in zip(axes, labels.items(), strict=True):
        layers: list[str] = []
        for i, name in enumerate(names):
            layers = list(found[name][0]["layers"])
            values = [[x["layers"][layer][key] for layer in layers] for x in found[name]]
            axis.plot(np.mean(values, axis=0), "o-", color=COLOURS[i], label=name, markersize=3)
        axis.set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize=7)
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure


def skips(found: Numbers) -> Any:
    """Draw the skips' weights, and the cross entropy with them (training) and without, by step."""
    names = [name for name in SKIPS if name in found]
    if not any("skips" in x for name in names for x in found[name]):
        return None
    figure, axes = _new(3)
    for i, name in enumerate(names):
        runs, colour = found[name], COLOURS[i]
        for key, axis in zip(("train", "curve"), axes[1:], strict=True):
            values = np.mean([x[key]["values"] for x in runs], axis=0)
            axis.plot(runs[0][key]["steps"], values, color=colour, label=name, linewidth=1.5)
        if "skips" in runs[0]:
            for weights, style in zip(runs[0]["skips"], ("-", "--"), strict=False):
                axes[0].plot(runs[0]["train"]["steps"], weights, style, color=colour)
    titles = (
        "weight of the skip (dashed: the inner one)",
        "cross entropy in training, with skips",
        "cross entropy of held-out rows, without skips",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    for axis in axes[1:]:
        axis.set_yscale("log")
    axes[1].legend(fontsize=8)
    return figure


def _new(columns: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 if columns == 1 else 4.2 * columns, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _bars(axis: Any, found: dict[str, list[list[float]]], labels: tuple[str, ...]) -> None:
    """Draw grouped bars: one group per label, one bar per name, with 95 % t intervals."""
    width = 0.8 / len(found)
    for i, (name, runs) in enumerate(found.items()):
        each = [stats.t_interval([run[k] for run in runs]) for k in range(len(labels))]
        x = np.arange(len(labels)) + (i - (len(found) - 1) / 2) * width
        ends = np.asarray([[e.value - e.low, e.high - e.value] for e in each]).T
        bars = None if len(runs) < 2 else ends
        axis.bar(x, [e.value for e in each], width, yerr=bars, color=COLOURS[i], label=name)
    axis.set_xticks(range(len(labels)), labels)
    axis.grid(alpha=0.3, axis="y")
