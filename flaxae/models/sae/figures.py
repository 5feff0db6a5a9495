"""Figures of dictionaries."""

from pathlib import Path
from typing import Any

from flaxae.errors import require

L0, FVU = "dev/l0", "dev/fvu"


def pareto(rows: list[dict[str, Any]], path: Path) -> list[Path]:
    """Draw the fraction of unexplained variance by the number of active latents.

    Args:
        rows: one per run, with the metrics "dev/l0" and "dev/fvu".
        path: the figure without its suffix.

    Returns:
        The files, PNG and SVG.

    Raises:
        ConfigError: if no run has these metrics.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = sorted((float(row[L0]), float(row[FVU])) for row in rows if L0 in row and FVU in row)
    require(bool(points), f"no run has {L0} and {FVU}: evaluate the split dev (eval.splits)")
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(*zip(*points, strict=True), marker="o", color="#0072B2")
    axis.set_xscale("log")
    axis.set_xlabel("active latents per state (L0)")
    axis.set_ylabel("unexplained variance of held-out states (FVU)")
    axis.grid(alpha=0.3, which="both")
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=120)
    return files
