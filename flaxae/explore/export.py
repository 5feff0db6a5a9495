"""The answer of a view as a file: CSV, PNG and SVG."""

import csv
import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from flaxae.explore import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS = 60  # rows in the picture of a table
MAX_WIDTH = 90  # characters per cell in the picture of a table


class Table(NamedTuple):
    """The answer of a view.

    Attributes:
        columns: names of the columns.
        rows: plain values.
        points: coordinates of the map, and one group name or number per point; None: the picture
            shows the table.
    """

    columns: tuple[str, ...]
    rows: list[tuple]
    points: tuple[Float[np.ndarray, "n 2"], Sequence[Any]] | None = None


def as_csv(table: Table) -> str:
    """Return the rows as CSV; texts that a spreadsheet would run get a leading apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(table.columns)
    for row in table.rows:
        writer.writerow([_harmless(x) for x in row])
    return out.getvalue()


def _harmless(x: Any) -> Any:
    """Keep a spreadsheet from reading a text as a formula."""
    return f"'{x}" if isinstance(x, str) and x[:1] in ("=", "+", "-", "@", "\t", "\r") else x


def as_picture(table: Table, kind: str, title: str) -> bytes:
    """Draw the map's points, or the rows of the table.

    Args:
        table: the answer to draw.
        kind: "png" or "svg".
        title: heading.

    Returns:
        The file's content.
    """
    import matplotlib

    figure = _scatter(table) if table.points is not None else _rows(table)
    figure.axes[0].set_title(title, fontsize=10, loc="left", parse_math=False)
    out = io.BytesIO()
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": "flaxae"}
    with warnings.catch_warnings(), matplotlib.rc_context(options):
        warnings.simplefilter("ignore")  # characters that the font lacks are drawn as boxes
        figure.savefig(out, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else {})
    return out.getvalue()


def _scatter(table: Table) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot, which is not made for threads

    assert table.points is not None
    points, groups = table.points
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot()
    if isinstance(groups, np.ndarray):
        drawn = axes.scatter(*points.T, c=groups, s=3, cmap="cividis", linewidths=0)
        figure.colorbar(drawn)
    else:
        for i, name in enumerate(dict.fromkeys(groups)):
            rows = [j for j, other in enumerate(groups) if other == name]
            color = render.PALETTE[i % len(render.PALETTE)]
            axes.scatter(*points[rows].T, s=3, color=color, label=name, linewidths=0)
        axes.legend(fontsize=7, markerscale=3)
    return figure


def _rows(table: Table) -> "Figure":
    from matplotlib.figure import Figure

    cells = [[_short(x) for x in row] for row in (table.columns, *table.rows[:MAX_ROWS])]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    figure = Figure(figsize=(max(4, sum(widths) * 0.088 + 0.5), len(cells) * 0.21 + 0.5))
    axes = figure.add_axes((0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    axes.axis("off")
    for i, row in enumerate(cells):
        axes.text(
            0.01,
            1 - (i + 0.5) / len(cells),
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)),
            family="monospace",
            fontsize=8,
            va="center",
            weight="bold" if i == 0 else "normal",
            parse_math=False,
        )
    return figure


def _short(x: Any) -> str:
    text = f"{x:.3f}" if isinstance(x, float) else str(x)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 1]}…"
