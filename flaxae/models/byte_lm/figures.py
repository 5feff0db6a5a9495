"""Figures of byte language models."""

from pathlib import Path
from typing import Any

from flaxae.config import Config
from flaxae.storage.metrics_file import Writer


def curve(workdir: Path, config: Config, split: str = "dev") -> list[tuple[int, float]]:
    """Return the learning curve of a run: bytes read in training, and bits per byte."""
    options: Any = config.task
    per_step = config.data.batch_size * options.update
    rows = Writer(workdir, config.log).evaluations()
    return [
        (row["step"] * per_step, row["bits_per_byte"])
        for row in rows
        if row["split"] == split and row["step"] and "bits_per_byte" in row
    ]


def learning_curve(workdir: Path, file: Path, config: Config) -> None:
    """Draw bits per byte of the dev split against bytes read in training, both on log scales.

    Args:
        workdir: the run's folder.
        file: PNG file to write.
        config: the run's config.
    """
    from matplotlib.figure import Figure

    points = curve(workdir, config)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([x for x, _ in points], [y for _, y in points], marker=".")
    axes.set(xscale="log", yscale="log", xlabel="bytes read in training", ylabel="bits per byte")
    axes.set_title("dev split")
    figure.savefig(file, dpi=120)
