"""Figures of a Funnel AE's evaluation."""

from pathlib import Path
from typing import Any

import numpy as np

from flaxae.text_autoencoder.figures import subplots

CURVES = (
    ("recon", "cross entropy (nats / token)"),
    ("first_token_accuracy", "accuracy of the first token"),
    ("exact_match", "exact match"),
    ("token_accuracy", "token accuracy"),
)


def by_place(splits: dict[str, Any], path: Path) -> Path:
    """Plot the accuracy at each place of a row for each split, with intervals.

    Args:
        splits: the part "splits" of a report.
        path: PNG file to write.

    Returns:
        The path.
    """
    figure, axes = subplots(1, 1, (7, 4.5))
    axis = axes[0, 0]
    for name, row in splits.items():
        rows = row["by_place"]
        places = [x["place"] + 1 for x in rows]
        value, low, high = (
            np.asarray([x[end] for x in rows], float) for end in ("value", "low", "high")
        )
        axis.errorbar(places, value, [value - low, high - value], fmt="o-", ms=3, lw=1, label=name)
    axis.set_xlabel("place of the token")
    axis.set_ylabel("accuracy, without skips")
    axis.set_ylim(-0.02, 1.02)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return path


def gap(found: dict[str, Any], path: Path) -> Path:
    """Plot exact match and cross entropy of codes before and after they are optimised.

    Args:
        found: the part "gap" of a report.
        path: PNG file to write.

    Returns:
        The path.
    """
    figure, axes = subplots(2, 1, (9, 4))
    for axis, name in zip(axes.flat, ("exact_match", "cross_entropy"), strict=True):
        for shift, start in ((-0.05, "encoder"), (0.05, "mean")):
            rows = [found[start][when][name] for when in ("before", "after")]
            value, low, high = (
                np.asarray([x[end] for x in rows], float) for end in ("value", "low", "high")
            )
            bars = [value - low, high - value]
            label = f"from the {start}'s code" if start == "encoder" else "from the mean code"
            axis.errorbar([shift, 1 + shift], value, bars, fmt="o-", capsize=3, label=label)
        axis.set_xticks([0, 1], ["before", "after"])
        axis.set_xlim(-0.4, 1.4)
        axis.set_ylabel(name.replace("_", " "))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylim(-0.02, 1.02)
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"codes of {found['texts']} lines, optimised by gradient", fontsize=10)
    figure.savefig(path, dpi=120)
    return path


def states(found: dict[str, Any], path: Path) -> Path:
    """Plot the measures of hidden states: principal dimensions, differences, attention.

    Args:
        found: the part "states" of a report.
        path: PNG file to write.

    Returns:
        The path.
    """
    figure, axes = subplots(3, 1, (15, 4.5))
    dims, pairs, attention = axes.flat
    layers = found["layers"]
    for name, label in (
        ("components_90", "components for 90 % of the variance"),
        ("components_99", "components for 99 %"),
        ("participation_ratio", "participation ratio"),
    ):
        dims.plot([x[name] for x in layers.values()], "o-", markersize=3, label=label)
    dims.set_xticks(range(len(layers)), list(layers), rotation=90, fontsize=6)
    dims.set_title("principal dimensions of each layer's states", fontsize=10)
    dims.set_ylim(bottom=0)
    dims.legend(fontsize=8)
    rows = found["differences"]
    at = np.arange(len(rows))
    for shift, name in ((-0.2, "original"), (0.2, "upsampled")):
        pairs.bar(at + shift, [x[name] or 0 for x in rows], 0.4, label=name)
    pairs.set_title("variance of the differences of pairs", fontsize=10)
    pairs.legend(fontsize=8)
    shares = found["attention"]
    attention.bar(np.arange(len(shares)), shares, 0.5)
    attention.axhline(1, color="gray", linestyle=":", linewidth=1)
    attention.set_title("attention to the own pair, over uniform", fontsize=10)
    for axis, count in ((pairs, len(rows)), (attention, len(shares))):
        axis.set_xticks(range(count), [f"level {i}" for i in range(count)], fontsize=8)
    figure.savefig(path, dpi=120)
    return path
