"""What a view shows as a file: CSV, PNG and SVG."""

import csv
import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

MOST_ROWS = 60  # of a picture of a table
WIDEST = 90  # characters of its cells


class Table(NamedTuple):
    """A view's answer.

    Attributes:
        columns: their names.
        rows: plain values.
        points: x, y of the map, and a group of each; None: the picture is the table.
    """

    columns: tuple[str, ...]
    rows: list[tuple]
    points: tuple[Float[np.ndarray, "n 2"], Sequence[Any]] | None = None


def as_csv(table: Table) -> str:
    """The rows; a text that a spreadsheet would run as a formula gets a leading apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(table.columns)
    for row in table.rows:
        writer.writerow([_harmless(x) for x in row])
    return out.getvalue()


def _harmless(x: Any) -> Any:
    return f"'{x}" if isinstance(x, str) and x[:1] in ("=", "+", "-", "@", "\t", "\r") else x


def as_picture(table: Table, kind: str, title: str) -> bytes:
    """The map's points, or the table's rows.

    Args:
        table: what is drawn.
        kind: "png" or "svg".
        title: above it.
    """
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: sessions have threads of their own

    figure = _scatter(Figure, table) if table.points is not None else _rows(Figure, table)
    figure.axes[0].set_title(title, fontsize=10, loc="left", parse_math=False)
    out = io.BytesIO()
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": "flaxae"}
    with warnings.catch_warnings(), matplotlib.rc_context(options):
        warnings.simplefilter("ignore")  # glyphs that the font lacks are boxes
        figure.savefig(out, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else {})
    return out.getvalue()


def _scatter(figure_class: Any, table: Table) -> Any:
    from flaxae.explore.render import PALETTE

    assert table.points is not None
    points, groups = table.points
    figure = figure_class(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot()
    if isinstance(groups, np.ndarray):
        drawn = axes.scatter(*points.T, c=groups, s=3, cmap="cividis", linewidths=0)
        figure.colorbar(drawn)
    else:
        for i, name in enumerate(dict.fromkeys(groups)):
            rows = [j for j, other in enumerate(groups) if other == name]
            color = PALETTE[i % len(PALETTE)]
            axes.scatter(*points[rows].T, s=3, color=color, label=name, linewidths=0)
        axes.legend(fontsize=7, markerscale=3)
    return figure


def _rows(figure_class: Any, table: Table) -> Any:
    shown = table.rows[:MOST_ROWS]
    cells = [[_short(x) for x in row] for row in (table.columns, *shown)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    figure = figure_class(figsize=(max(4, sum(widths) * 0.088 + 0.5), len(cells) * 0.21 + 0.5))
    axes = figure.add_axes((0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    axes.axis("off")
    for i, row in enumerate(cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        weight = "bold" if i == 0 else "normal"
        axes.text(
            0.01, 1 - (i + 0.5) / len(cells), line, family="monospace", fontsize=8, va="center",
            weight=weight, parse_math=False,
        )  # fmt: skip
    return figure


def _short(x: Any) -> str:
    text = f"{x:.3f}" if isinstance(x, float) else str(x)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
