"""The whole evaluation of a trained run: the task's report, its text and its figures."""

import contextlib
import io
import sys
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from flaxae.config.serialize import ConfigClass
from flaxae.errors import ConfigError
from flaxae.storage import paths
from flaxae.task import has_report

REPORT = "report"  # the folder inside a workdir
TEXT = "report.txt"  # the text that the task printed


class Tee(io.TextIOBase):
    """A stream that also keeps the text written to it.

    Args:
        stream: the stream that the text is passed to.

    Attributes:
        kept: all text so far.
    """

    def __init__(self, stream: TextIO):
        self.stream, self.kept = stream, io.StringIO()

    def write(self, text: str) -> int:
        """Write and keep a text."""
        self.kept.write(text)
        return self.stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()


def evaluate(
    workdir: str | Path,
    outdir: str | Path = "",
    config_class: ConfigClass | None = None,
    which: str = "auto",
) -> dict[str, Any]:
    """Run a task's report on a trained run; print it, and save the printed text with it.

    Args:
        workdir: the run's folder.
        outdir: the folder of the report and its figures; "": a folder inside the workdir, and the
            figures also go into the run's TensorBoard if it has one.
        config_class: the task's config class, or the path of the run's config file, if the class
            is not one of flaxae's own.
        which: the checkpoint: "latest", "best" or "auto".

    Returns:
        The report.

    Raises:
        ConfigError: if the folder is not a run's workdir, the task has no report, or the report
            cannot be written.
        CheckpointError: if no checkpoint in it is readable.
    """
    from flaxae.training.load import load

    folder = report_folder(workdir, outdir)
    loaded = load(workdir, config_class, which)
    if not has_report(loaded.task):
        loaded.task.report(loaded, str(folder))  # raises its error before a folder is made
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"cannot write the report into {folder}: {paths.reason(e)}") from None
    if loaded.config.log.progress:
        print(f"evaluating step {loaded.step} of {workdir} ...", file=sys.stderr, flush=True)
    tee, images = Tee(sys.stdout), {}
    with paths.local_for_writing(folder) as local:
        before = _figures(local)
        with contextlib.redirect_stdout(tee):
            result = loaded.task.report(loaded, str(local))
            if not tee.kept.getvalue():
                _print_scalars(result)
        (local / TEXT).write_text(tee.kept.getvalue())
        if not outdir and loaded.config.log.tensorboard:
            # Only the figures of this evaluation, not those of an earlier one.
            new = _figures(local).items() - before.items()
            images = {str(f.relative_to(local).with_suffix("")): _pixels(f) for f, _ in sorted(new)}
    if images:
        from flaxae.storage.metrics_file import Writer

        writer = Writer(workdir, loaded.config.log)
        writer.write(loaded.step, REPORT, {}, images=images)
        writer.close()
    return result


def _print_scalars(result: dict[str, Any]) -> None:
    """Print the numbers and strings of a report, for a task that printed nothing."""
    for name, value in (result or {}).items():
        if np.ndim(value) == 0 and not isinstance(value, dict):
            print(f"{name} = {value}")


def _figures(folder: Path) -> dict[Path, int]:
    """Return the figures in a folder with the time at which each was written, in ns."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}


def _pixels(file: Path) -> np.ndarray:
    """Return an image as uint8 (height, width, 3)."""
    from matplotlib.image import imread

    image = (imread(file) * 255).astype(np.uint8)
    return np.dstack([image] * 3) if image.ndim == 2 else image[..., :3]


def report_folder(workdir: str | Path, outdir: str | Path = "") -> Path:
    """Return the folder of a run's report."""
    return paths.as_path(outdir) if outdir else paths.as_path(workdir) / REPORT
