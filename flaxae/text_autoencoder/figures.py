"""Figures of the evaluation of a text autoencoder."""

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


def subplots(columns: int, rows: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Return a figure and its axes, (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # pyplot would change global state of a notebook that calls this.
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def learning_curves(log: Path, path: Path, curves: tuple[tuple[str, str], ...] = CURVES) -> Path:
    """Plot the curves of metrics.jsonl.

    Args:
        log: metrics.jsonl of a workdir.
        path: PNG file to write.
        curves: four metrics with their titles.

    Returns:
        The path.
    """
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
    figure, axes = subplots(2, 2, (10, 6.5))
    for axis, (name, label) in zip(axes.flat, curves, strict=True):
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
    """Project codes on their first principal axes.

    Args:
        codes: one code per row.
        count: number of axes; coordinates are 0 on axes that the codes lack.

    Returns:
        The coordinates, and each axis's share of the variance.
    """
    centred = codes - codes.mean(0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    share = np.square(values) / max(np.square(values).sum(), 1e-12)
    points, missing = centred @ axes[:count].T, max(count - len(share), 0)
    return np.pad(points, ((0, 0), (0, missing))), np.pad(share[:count], (0, missing))


def latent_map(codes: Float[np.ndarray, "B Z"], lines: list[str], path: Path) -> Path:
    """Plot codes on their first two principal axes, coloured by the line's length.

    Args:
        codes: one code per line.
        lines: the lines; a few are written next to their points.
        path: PNG file to write.

    Returns:
        The path.
    """
    points, share = principal_components(codes)
    figure, axes = subplots(1, 1, (9, 7))
    axis = axes[0, 0]
    dots = axis.scatter(*points.T, c=[len(x) for x in lines], s=9, cmap="viridis", alpha=0.7)
    figure.colorbar(dots, ax=axis, label="characters")
    step = max(len(lines) // 24, 1)
    for point, text in list(zip(points, lines, strict=True))[::step]:
        # Dollar signs in lines of code are not formulas.
        axis.annotate(text[:28], point, fontsize=6, alpha=0.85, parse_math=False)
    axis.set_xlabel(f"first principal axis ({share[0]:.0%} of variance)")
    axis.set_ylabel(f"second ({share[1]:.0%})")
    axis.set_title(f"codes of {len(lines)} held-out lines")
    figure.savefig(path, dpi=120)
    return path


def spectrum(latent: dict[str, Any], path: Path) -> Path:
    """Plot the codes' variances along their principal axes and, for posteriors, KL by dimension.

    Args:
        latent: the part "latent" of a report.
        path: PNG file to write.

    Returns:
        The path.
    """
    information = latent["information"]
    stochastic = isinstance(information, dict)
    figure, axes = subplots(1 + stochastic, 1, (6 + 5 * stochastic, 4.5))
    axis = axes[0, 0]
    axis.plot(np.arange(1, len(latent["spectrum"]) + 1), latent["spectrum"], label="codes")
    axis.axhline(1, color="gray", linewidth=1, linestyle=":", label="N(0, I)")
    axis.set_yscale("log", nonpositive="mask")
    axis.set_xlabel("principal axis")
    axis.set_ylabel("variance")
    axis.legend(fontsize=8)
    if stochastic:
        axes[0, 1].plot(sorted(information["kl_per_dim"], reverse=True))
        axes[0, 1].set_xlabel("dimension, sorted by KL")
        axes[0, 1].set_ylabel("KL to the prior (nats)")
    figure.savefig(path, dpi=120)
    return path


def histograms(codes: Float[np.ndarray, "B Z"], path: Path) -> Path:
    """Plot the distribution of the codes' numbers against that of N(0, I).

    The left plot shows all numbers, the right one each number in its own standard deviations: it is
    the bell of N(0, 1) if each number is Gaussian, with any mean and variance.

    Args:
        codes: one code per row.
        path: PNG file to write.

    Returns:
        The path.
    """
    std = codes.std(0)
    alive = std > 1e-6 * max(std.max(), 1e-30)
    scaled = (codes[:, alive] - codes[:, alive].mean(0)) / std[alive]
    figure, axes = subplots(2, 1, (10, 4))
    titles = ("all numbers of the codes", "each number, standardised")
    for axis, values, title in zip(axes.flat, (codes, scaled), titles, strict=True):
        edge = max(4.0, float(np.abs(values).max(initial=0)))
        axis.hist(values.ravel(), np.linspace(-edge, edge, 81), density=True, alpha=0.6)
        x = np.linspace(-4, 4, 200)
        axis.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "k:", linewidth=1, label="N(0, 1)")
        axis.set_title(title, fontsize=10)
        axis.set_ylabel("density")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return path


def by_length(splits: dict[str, Any], path: Path) -> Path:
    """Plot exact match by the lines' number of tokens for each split, with intervals.

    Args:
        splits: the part "splits" of a report.
        path: PNG file to write.

    Returns:
        The path.
    """
    figure, axes = subplots(1, 1, (7, 4.5))
    axis = axes[0, 0]
    names = sorted({tuple(x["tokens"]) for row in splits.values() for x in row["by_length"]})
    for shift, (name, row) in enumerate(splits.items()):
        positions = [names.index(tuple(x["tokens"])) + 0.1 * shift for x in row["by_length"]]
        values = np.asarray([x["exact_match"] for x in row["by_length"]])
        # None becomes nan: the interval of a single line.
        bounds = np.asarray([x["exact_match_interval"] for x in row["by_length"]], float).T
        bars = np.abs(bounds - values)
        axis.errorbar(positions, values, bars, fmt="o-", markersize=3, linewidth=1, label=name)
    axis.set_xticks(range(len(names)), [f"{low}-{high}" for low, high in names])
    axis.set_xlabel("tokens of the line")
    axis.set_ylabel("exact match, free-running")
    axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return path


def interpolation(scores: dict[str, Any], path: Path) -> Path:
    """Plot how valid the texts between two lines are against how evenly they change.

    The trivial baselines do not reach the corner of even and valid interpolations.

    Args:
        scores: the part "interpolation" of a report.
        path: PNG file to write.

    Returns:
        The path.
    """
    rows = {k: v for k, v in scores.items() if isinstance(v, dict)}
    second = "validity" if all("validity" in row for row in rows.values()) else "path_ratio"
    figure, axes = subplots(1, 1, (7, 5))
    axis = axes[0, 0]
    for name, row in rows.items():
        x, y = row["max_step_share"], row[second]
        if None in (x["value"], y["value"]):
            continue
        ends = np.asarray([[v["low"], v["high"]] for v in (y, x)], float)  # None becomes nan
        bars = np.abs(ends - [[y["value"]], [x["value"]]])[:, :, None]  # (2, low and high, 1)
        axis.errorbar(
            x["value"], y["value"], *bars, fmt="o", capsize=3, label=name.replace("_", " ")
        )
    axis.set_xlabel("largest step's share of all steps (1: a single jump)")
    axis.set_ylabel("valid between the ends" if second == "validity" else "path ratio")
    axis.set_title("interpolation between two lines: left and high is better", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return path
