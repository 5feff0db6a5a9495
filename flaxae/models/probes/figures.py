"""Figures of a run's numbers: AUROC by layer, reliability, prompted against trained lies."""

from pathlib import Path
from typing import Any

import numpy as np

COLORS = {"base": "tab:blue", "adapter": "tab:orange", "dummy": "tab:gray"}


def draw(numbers: dict[str, Any], path: Path, title: str) -> None:
    """Write the figures of a run as one PNG.

    Args:
        numbers: of `report.measure_run`.
        path: the file.
        title: shown above the figures.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (layers, calibration, bars) = plt.subplots(1, 3, figsize=(12, 3.6))
    for hook, arms in numbers["layers"].items():
        for arm, found in arms.items():
            pairs = sorted((int(layer), value) for layer, value in found.items())
            style = "-" if hook == "resid_out" else "--"
            layers.plot(*zip(*pairs, strict=True), style, color=COLORS[arm], label=f"{arm}, {hook}")
    layers.set(xlabel="layer", ylabel="AUROC on dev", title="regression by layer")
    layers.legend(fontsize=7)
    calibration.plot([0, 1], [0, 1], ":", color="gray")
    for arm, bins in numbers["reliability"].items():
        p, share, _ = zip(*bins, strict=True)
        calibration.plot(p, share, "o-", color=COLORS[arm], label=arm)
    calibration.set(xlabel="probability of label 1", ylabel="share of label 1", title="reliability")
    calibration.legend(fontsize=7)
    _lies(bars, numbers["lies"])
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _lies(axes: Any, lies: dict[str, Any]) -> None:
    """Draw the balanced accuracy of each kind of lies by way of detection, with intervals."""
    for offset, arm in ((-0.25, "base"), (0.0, "adapter"), (0.25, "dummy")):
        for at, kind in enumerate(lies):
            found = {k: np.nan if v is None else v for k, v in lies[kind][arm]["bal_acc"].items()}
            error = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
            label = arm if not at else None
            axes.bar(at + offset, found["value"], 0.23, color=COLORS[arm], label=label)
            axes.errorbar(at + offset, found["value"], yerr=np.abs(error), color="black", capsize=3)
    names = [f"{kind} lies".replace(", ", ",\n") for kind in lies]
    axes.set_xticks(range(len(lies)), names, fontsize=7)
    axes.set(ylim=(0, 1), ylabel="balanced accuracy", title="which lies does a probe see?")
    axes.legend(fontsize=7)
