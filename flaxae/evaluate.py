"""The whole evaluation of a trained run: `python -m flaxae.evaluate WORKDIR`."""

import argparse
import contextlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from flaxae import flags, paths
from flaxae.config import ConfigError

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
    from flaxae.loading import load

    folder = report_folder(workdir, outdir)
    loaded = load(workdir, config_class, which)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"cannot write the report into {folder}: {paths.why(e)}") from None
    tee, began = Tee(sys.stdout), time.time()
    with paths.local_for_writing(folder) as local:
        with contextlib.redirect_stdout(tee):
            result = loaded.task.report(loaded, str(local))
        (local / TEXT).write_text(tee.kept.getvalue())
        # Not what an earlier evaluation left; file systems may keep whole seconds.
        figures = [f for f in sorted(local.rglob("*.png")) if f.stat().st_mtime >= began - 1]
        if figures and not outdir and loaded.config.log.tensorboard:
            _log_figures(
                workdir, loaded, {f.relative_to(local).with_suffix(""): f for f in figures}
            )
    return result


def _log_figures(workdir: str | Path, loaded: Any, figures: dict[Path, Path]) -> None:
    from matplotlib.image import imread

    from flaxae.metrics import Writer

    images = {
        str(name): (imread(file)[..., :3] * 255).astype(np.uint8) for name, file in figures.items()
    }
    writer = Writer(workdir, loaded.config.log)
    writer.write(loaded.step, REPORT, {}, images=images)
    writer.close()


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
    sys.exit(flags.run_main(main))
