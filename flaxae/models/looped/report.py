"""Experiments on looped transformers: `python -m flaxae.models.looped.report --workdir W`.

Each configs/looped/report_*.py is one experiment: its runs, table, claims and figures, made by
`python -m flaxae.sweep --config=FILE --workdir=W`. All experiments share W, where each distinct run
is trained once and named by the hash of its config. This command trains the runs of all
experiments, one per CPU core (with an accelerator, one experiment after the other), then makes
their tables and one page of all tables.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from flaxae import sweep
from flaxae.command import run_main
from flaxae.config import Config, LogConfig, flags
from flaxae.config.locate import user_path
from flaxae.config.ranges import WHOLE, ranged
from flaxae.errors import ConfigError
from flaxae.machine.compile_cache import keep_programs
from flaxae.measures.claims import claims_table, look_up
from flaxae.models.looped import evaluation, figures
from flaxae.models.looped.verdicts import Claim, cell
from flaxae.storage.metrics_file import Writer
from flaxae.sweep import workers
from flaxae.sweep.__main__ import main as sweep_main
from flaxae.sweep.plan import Plan

CONFIGS = "configs/looped"
SEEDS = (0, 1, 2)
MOST_JOBS = 8  # a container may show more cores than it can use
QUICK = "QUICK: few steps on small problems, to test the program; not the report's numbers."


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment of the report.

    Attributes:
        title: heading of its table.
        base: (quick or not) -> the config that runs override.
        runs: (quick or not) -> overrides by name of the run.
        measures: measures of each run (see `evaluation.MEASURES`).
        columns: heading of each column -> path of its number.
        claims: claims about the numbers.
        figures: names of `figures.FIGURES` -> runs in the figure; (): all runs.
        seeds: seeds of each run.
    """

    title: str
    base: Callable[[bool], Config]
    runs: Callable[[bool], dict[str, dict[str, Any]]]
    measures: tuple[str, ...]
    columns: dict[str, str]
    claims: tuple[Claim, ...]
    figures: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...] = SEEDS

    def get_config(self, preset: str = "") -> Config:
        """Return the config that runs override, for preset "" or "quick"."""
        return self.base(_quick(preset))

    def get_runs(self, preset: str = "") -> list[dict[str, Any]]:
        """Return overrides of each run; its seeds are adjacent, to train as lanes."""
        return [v | {"seed": s} for v in self.runs(_quick(preset)).values() for s in self.seeds]

    def finish(self, rows: list[dict[str, Any]], workdir: Path, outdir: Path) -> str:
        """Measure the trained runs, and write report.md, report.json and the figures.

        Args:
            rows: rows of the sweep, in the order of `get_runs`.
            workdir: parent of the runs' workdirs.
            outdir: folder of this experiment's results.

        Returns:
            The text of report.md.
        """
        names = list(self.runs(False))
        groups = [rows[i : i + len(self.seeds)] for i in range(0, len(rows), len(self.seeds))]
        measures = (*self.measures, "curve")
        results = {
            name: [evaluation.measure(workdir / row["run"], measures) for row in group]
            for name, group in zip(names, groups, strict=True)
        }
        config = json.loads((workdir / rows[0]["run"] / "config.json").read_text())
        quick = config["task"]["model"]["dims"] == self.base(True).task.model.dims  # pyright: ignore
        verdicts = [claim.evaluate(results) for claim in self.claims]
        text = self._text(results, verdicts, config, quick)
        outdir.mkdir(parents=True, exist_ok=True)
        (outdir / "report.md").write_text(text)
        found = {"quick": quick, "results": results, "claims": verdicts}
        (outdir / "report.json").write_text(json.dumps(found, indent=1) + "\n")
        self._draw(results, outdir, QUICK if quick else "")
        return text

    def _text(self, results: Any, verdicts: Any, config: dict[str, Any], quick: bool) -> str:
        """Return the text of report.md."""
        model, seeds = config["task"]["model"], len(self.seeds)
        note = (
            f"d={model['dims']}, {model['points']} points, width {model['width']}, "
            f"{model['num_heads']} heads, batch {config['data']['batch_size']}, learning rate "
            f"{config['optim']['lr']:g}; {seeds} seeds. Errors are those of the last point, "
            "divided by the variance of y. Geometric mean [95 % interval over the seeds]."
        )
        lines = [f"## {self.title}", "", *([f"**{QUICK}**", ""] if quick else []), note, ""]
        lines.append("| run | steps | " + " | ".join(self.columns) + " |")
        lines.append("|---" * (2 + len(self.columns)) + "|")
        for name, found in results.items():
            cells = [cell([look_up(f, path) for f in found]) for path in self.columns.values()]
            steps = found[0]["curve"]["trained"]
            mark = " (QUICK)" if quick else ""
            lines.append(f"| {name}{mark} | {steps} | " + " | ".join(cells) + " |")
        if verdicts:
            lines += ["", claims_table(verdicts).rstrip()]
        return "\n".join(lines) + "\n"

    def _draw(self, results: Any, outdir: Path, note: str) -> None:
        images = {}
        for name, shown in self.figures.items():
            make, measure = figures.FIGURES[name]
            chosen = {k: v for k, v in results.items() if not shown or k in shown}
            runs = {k: [found[measure] for found in v] for k, v in chosen.items()}
            files = make(runs, outdir / name, note)
            images[name] = figures.pixels(files[0])
        writer = Writer(outdir, LogConfig())
        writer.write(0, "figures", {}, images=images)
        writer.close()


def _quick(preset: str) -> bool:
    if preset not in ("", "quick"):
        raise ConfigError(f"no preset {preset!r}: the only one is quick")
    return preset == "quick"


def passes(run: dict[str, Any]) -> int:
    """Return the cost of a run in forward passes of a block.

    The last T loops are recomputed and differentiated.

    Args:
        run: overrides of the run, with steps, task.loops and task.grad_loops.

    Returns:
        Passes of all steps.
    """
    b, t = run["task.loops"], run["task.grad_loops"]
    layers = run.get("task.model.num_layers", 1)
    back = 3 * t if max(t, layers) > 1 else 2  # a single pass of one layer is not recomputed
    return run["steps"] * layers * (b + back)


def train(files: list[str], workdir: Path, jobs: int) -> list[dict[str, Any]]:
    """Train the runs of all experiments, `jobs` at a time.

    Args:
        files: config files of experiments with one base, with their presets.
        workdir: parent of the runs' workdirs.
        jobs: number of processes; see `sweep.sweep`.

    Returns:
        Rows of `sweep.sweep`.
    """
    config = flags.parse(["report", f"--config={files[0]}", f"--workdir={workdir}"])[0]
    runs = [run for file in files for run in Plan.of(file, []).runs]
    tables = workdir / "tables" / "training"
    return sweep.sweep(config, runs, workdir, lanes=False, tables=tables, jobs=jobs, cost=passes)


def _page(folder: Path) -> str:
    """Return an experiment's tables, and its figures as links relative to the workdir."""
    images = [f"![{png.stem}](tables/{folder.name}/{png.name})" for png in folder.glob("*.png")]
    return "\n".join([(folder / "report.md").read_text(), *sorted(images), ""])


def _jobs() -> int:
    """Return one job per core if processes can be bound to cores, else 1."""
    return min(len(workers.cores()), MOST_JOBS) if hasattr(os, "sched_setaffinity") else 1


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.looped.report",
        description="Run all experiments; each distinct run is trained once. The same command "
        "continues after an interruption.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the runs, and of tables/")
    parser.add_argument(
        "--quick", action="store_true", help="a small variant, marked as such in all tables"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="experiments, such as report_masks"
    )
    parser.add_argument(
        "--jobs",
        type=ranged("--jobs", int, WHOLE),
        default=0,
        metavar="N",
        help="runs at a time, each on its share of the cores; default: one per core, at most 8; 1 "
        "with an accelerator. With 1, the seeds of a run train as lanes of one program",
    )
    args = parser.parse_args(argv[1:])
    files = sorted(Path(CONFIGS).glob("report_*.py"))
    if not files:
        raise ConfigError(
            f"there is no {CONFIGS}/report_*.py here: run this in flaxae's repository"
        )
    known = [file.stem for file in files]
    if unknown := set(args.only) - set(known):
        raise ConfigError(
            f"--only: unknown {', '.join(sorted(unknown))}; there are {', '.join(known)}"
        )
    files = [file for file in files if not args.only or file.stem in args.only]
    workdir = user_path(args.workdir)
    keep_programs(workdir / "logs" / workers.PROGRAMS)
    named = [f"{file}:quick" if args.quick else str(file) for file in files]
    jobs = args.jobs or (_jobs() if jax.default_backend() == "cpu" else 1)
    stops = (2, *sweep.CODES.values())
    if jobs > 1 and (code := sweep.exit_code(train(named, workdir, jobs))) in stops:
        return code
    failed = []
    for name in named:
        print(f"== {name}", flush=True)
        code = run_main(sweep_main, ["sweep", f"--config={name}", f"--workdir={workdir}"])
        if code in stops:
            return code
        failed += [name] * (code != 0)
    if failed:
        names = ", ".join(failed)
        print(f"error: no tables of {names}: some of their runs failed, see above", file=sys.stderr)
        return 1
    tables = [workdir / "tables" / file.stem for file in files]
    (workdir / "report.md").write_text("\n".join(map(_page, tables)))
    print(f"written to {workdir / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
