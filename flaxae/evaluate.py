"""The whole evaluation of a trained run: `python -m flaxae.evaluate WORKDIR`."""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.command import run_main
from flaxae.config import flags
from flaxae.errors import ConfigError
from flaxae.storage import paths

REPORT = "report"  # the folder inside a workdir
TEXT = "report.txt"  # what the task printed, to be shown again


class Tee(io.TextIOBase):
    """A stream that also keeps what was written."""

    def __init__(self, stream: Any):
        self.stream, self.kept = stream, io.StringIO()

    def write(self, text: str) -> int:
        self.kept.write(text)
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()


def evaluate(
    workdir: str | Path, outdir: str | Path = "", config_class: Any = None, which: str = "auto"
) -> dict[str, Any]:
    """Runs a task's report on a trained run; prints it, and keeps its text beside it.

    Args:
        workdir: the run's folder.
        outdir: where the report and its figures go; "": a folder inside the workdir, and the
            figures also into the run's TensorBoard, where it has one.
        config_class: the task's config class, where it is not one of flaxae's own.
        which: the checkpoint: "latest", "best" or "auto".

    Returns:
        The report.

    Raises:
        ConfigError, CheckpointError: the workdir is not a run's, or nothing in it is readable.
    """
    from flaxae.training.load import load

    folder = report_folder(workdir, outdir)
    loaded = load(workdir, config_class, which)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"cannot write the report into {folder}: {paths.reason(e)}") from None
    tee, images = Tee(sys.stdout), {}
    with paths.local_for_writing(folder) as local:
        before = _figures(local)
        with contextlib.redirect_stdout(tee):
            result = loaded.task.report(loaded, str(local))
        (local / TEXT).write_text(tee.kept.getvalue())
        if not outdir and loaded.config.log.tensorboard:
            # Not what an earlier evaluation left.
            new = _figures(local).items() - before.items()
            images = {str(f.relative_to(local).with_suffix("")): _pixels(f) for f, _ in sorted(new)}
    if images:
        from flaxae.storage.metrics_file import Writer

        writer = Writer(workdir, loaded.config.log)
        writer.write(loaded.step, REPORT, {}, images=images)
        writer.close()
    return result


def _figures(folder: Path) -> dict[Path, int]:
    """The figures in a folder, and when each was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}


def _pixels(file: Path) -> np.ndarray:
    from matplotlib.image import imread

    image = (imread(file) * 255).astype(np.uint8)
    return np.dstack([image] * 3) if image.ndim == 2 else image[..., :3]


def report_folder(workdir: str | Path, outdir: str | Path = "") -> Path:
    """Where the report of a run goes."""
    return paths.as_path(outdir) if outdir else paths.as_path(workdir) / REPORT


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.evaluate",
        description="The task's whole evaluation of a trained run: a text, figures and JSON.",
    )
    parser.add_argument("workdir", help="the run's folder")
    parser.add_argument("--json", metavar="FILE", help="write the report there too")
    parser.add_argument("--outdir", default="", help=f"of the figures; default: WORKDIR/{REPORT}")
    parser.add_argument("--which", choices=["auto", "latest", "best"], default="auto",
                        help="the checkpoint; auto: the best where the run keeps one")  # fmt: skip
    parser.add_argument("--config", metavar="FILE",
                        help="the run's own, where its task is not flaxae's")  # fmt: skip
    args = parser.parse_args(argv[1:])
    config_class = type(flags.load_config(args.config).task) if args.config else None
    result = evaluate(args.workdir, args.outdir, config_class, args.which)
    if args.json:
        try:
            Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
        except OSError as e:
            raise ConfigError(f"--json={args.json}: {e.strerror}") from None
    print(f"written to {report_folder(args.workdir, args.outdir)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
