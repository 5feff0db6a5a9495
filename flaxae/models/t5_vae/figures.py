"""Figures of a T5-VAE run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

CURVES = (
    ("recon", "cross entropy (nats / token)"),
    ("mmd", "MMD² to N(0, I)"),
    ("exact_match", "exact match, free-running"),
    ("token_accuracy", "token accuracy"),
)


def _new(columns: int, rows: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: nothing global changes in a notebook that calls this.
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def learning_curves(log: Path, path: Path) -> Path:
    """Draws what metrics.jsonl logged.

    Args:
        log: a workdir's metrics.jsonl.
        path: the PNG to write.
    Returns:
        path.
    """
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
    figure, axes = _new(2, 2, (10, 6.5))
    for axis, (name, label) in zip(axes.flat, CURVES, strict=True):
        for split in sorted({row["split"] for row in rows}):
            points = [(r["step"], r[name]) for r in rows if r["split"] == split and name in r]
            if points:
                style = "-" if split == "train" else "o-"
                axis.plot(*zip(*points, strict=True), style, label=split, markersize=3, linewidth=1)
        axis.set_title(label, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
            if name in ("recon", "mmd"):
                axis.set_yscale("log", nonpositive="mask")
    figure.savefig(path, dpi=120)
    return path


def principal_components(
    codes: Float[np.ndarray, "B Z"], count: int = 2
) -> tuple[Float[np.ndarray, "B n"], Float[np.ndarray, " n"]]:
    """Coordinates on the first principal axes, and the share of variance of each."""
    centred = codes - codes.mean(0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    share = np.square(values) / max(np.square(values).sum(), 1e-12)
    return centred @ axes[:count].T, share[:count]


def latent_map(codes: Float[np.ndarray, "B Z"], lines: list[str], path: Path) -> Path:
    """The codes on their first two principal axes, coloured by the line's length.

    Args:
        codes: one a line.
        lines: their texts; a few are written beside their points.
        path: the PNG to write.
    Returns:
        path.
    """
    points, share = principal_components(codes)
    figure, axes = _new(1, 1, (9, 7))
    axis = axes[0, 0]
    dots = axis.scatter(*points.T, c=[len(x) for x in lines], s=9, cmap="viridis", alpha=0.7)
    figure.colorbar(dots, ax=axis, label="characters")
    step = max(len(lines) // 24, 1)
    for point, text in list(zip(points, lines, strict=True))[::step]:
        # parse_math off: code is full of dollar signs.
        axis.annotate(text[:28], point, fontsize=6, alpha=0.85, parse_math=False)
    axis.set_xlabel(f"first principal axis ({share[0]:.0%} of variance)")
    axis.set_ylabel(f"second ({share[1]:.0%})")
    axis.set_title(f"codes of {len(lines)} held-out lines")
    figure.savefig(path, dpi=120)
    return path
