"""Figures of the grid, made from numbers by cell: two scatter plots and learning curves."""

from pathlib import Path
from typing import Any

from flaxae.models.byte_lm.grid import count_parameters
from flaxae.models.byte_lm.grid_bet import UNIFORM, Bits, Curve
from flaxae.models.byte_lm.grid_cells import Cell
from flaxae.models.byte_lm.recurrence import Dynamic

# Okabe and Ito's palette, for colour-blind readers.
COLOURS = {1: "#D55E00", 2: "#0072B2", 4: "#009E73", 16: "#000000"}  # by k
MARKERS = {Dynamic.TANH: "o", Dynamic.GATED: "s", Dynamic.DOUBLY_GATED: "^"}
STYLES = {Dynamic.TANH: ":", Dynamic.GATED: "-", Dynamic.DOUBLY_GATED: "--"}
LINES = 0.7  # width of learning curves


def draw(
    bits: Bits, curves: dict[Cell, Curve], outdir: Path, references: dict[str, float], note: str
) -> list[Path]:
    """Draw the figures.

    Args:
        bits: bits per byte on the test split, by cell.
        curves: learning curves on a part of the dev split, by cell.
        outdir: folder of the PNG files.
        references: bits per byte of baselines on the test split, drawn as lines.
        note: a line below each figure; "": none.

    Returns:
        The files.
    """
    labels: dict[str, Any] = {
        "parameters": ("parameters, without unused gates", lambda c: count_parameters(c.options)),
        "states": ("recurrent states of all layers, L N", lambda c: c.recurrent_states),
    }
    out = []
    for name, (label, value) in labels.items():
        figure, axis = _new()
        _marks(axis, {cell: (value(cell), y) for cell, y in bits.items()})
        for title, y in references.items():
            axis.axhline(y, color="gray", linewidth=0.8, linestyle=":")
            axis.annotate(title, (1, y), xycoords=("axes fraction", "data"), fontsize=7, ha="right")
        axis.set(xscale="log", xlabel=label, ylabel="bits per byte, test split")
        axis.set_title(f"{len(bits)} models; hollow: reservoirs and blind cells", fontsize=9)
        out.append(_save(figure, axis, outdir / f"grid_{name}.png", [*bits], note))
    figure, axis = _new()
    for cell, points in curves.items():
        style: Any = {"color": COLOURS[cell.bptt], "linestyle": STYLES[cell.dynamic]}
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axis.plot(xs, ys, linewidth=LINES, alpha=0.7, **style)
    axis.set(xscale="log", yscale="log")
    axis.set_ylim(top=min(axis.get_ylim()[1], UNIFORM))  # some curves are worse for a while
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.set(xlabel="bytes of training", ylabel="bits per byte, part of the dev split")
    axis.set_title(f"learning curves of {len(curves)} models", fontsize=9)
    out.append(_save(figure, axis, outdir / "grid_curves.png", [*curves], note, True))
    return out


def _marks(axis: Any, points: dict[Cell, tuple[float, float]]) -> None:
    """Draw a mark per model; models that look the same are drawn together."""
    kinds: dict[Any, list[tuple[float, float]]] = {}
    for cell, point in points.items():
        kinds.setdefault((cell.bptt, cell.dynamic, bool(cell.corner)), []).append(point)
    for (k, dynamic, corner), each in kinds.items():
        face = "none" if corner else COLOURS[k]
        style: Any = {"edgecolors": COLOURS[k], "facecolors": face, "linewidths": 0.9}
        axis.scatter(*zip(*each, strict=True), s=18, marker=MARKERS[dynamic], **style)


def _save(
    figure: Any, axis: Any, file: Path, cells: list[Cell], note: str, lines: bool = False
) -> Path:
    """Add legend, grid and note, and write the file."""
    from matplotlib.lines import Line2D

    depths = sorted({cell.bptt for cell in cells})
    kinds = [Line2D([], [], color=COLOURS[k], label=f"k = {k}") for k in depths]
    for dynamic in (x for x in Dynamic if any(cell.dynamic is x for cell in cells)):
        mark: Any = {"marker": MARKERS[dynamic], "linestyle": "none"}
        style: Any = {"linestyle": STYLES[dynamic]} if lines else mark
        kinds.append(Line2D([], [], color="gray", label=dynamic.value.replace("_", " "), **style))
    axis.legend(handles=kinds, fontsize=7)
    axis.grid(alpha=0.3, which="both")
    if note:
        figure.supxlabel(note, fontsize=8)
    figure.savefig(file, dpi=100)
    return file


def _new() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()
