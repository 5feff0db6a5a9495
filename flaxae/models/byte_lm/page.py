"""All reports on byte language models as one page: `python -m flaxae.models.byte_lm.page`.

Each report trains and writes in a folder of its own, WORKDIR/NAME, and begins with those rows of
the repository's records whose data are those of this Python. WORKDIR/report.md joins the reports,
with the time that each took. The same command continues after an interruption.
"""

import argparse
import importlib
import json
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from flaxae.command import run_main
from flaxae.config.locate import locate, user_path
from flaxae.config.ranges import COUNT, ranged
from flaxae.data import byte_corpus
from flaxae.machine.compile_cache import keep_programs
from flaxae.models.byte_lm.experiments import PATH
from flaxae.storage.paths import write_text

PARTS = ("grid", "straight", "automaton", "stimulus", "successive")
RECORD = "runs.jsonl"  # in the folder of each report
SECONDS = "seconds.json"  # in WORKDIR: name of a report -> time that it took so far


def begin_record(name: str, record: Path, data: str) -> None:
    """Write the rows that the repository has of a report, if its record does not exist.

    Args:
        name: the report.
        record: its record.
        data: fingerprint of the library of this Python. Rows of another one are left out. Rows of
            other files than the library are kept.
    """
    source = locate(f"configs/byte_lm/{name}.jsonl")
    if source is None or record.exists():
        return
    lines = source.read_text().splitlines(keepends=True)
    rows = [(line, json.loads(line)) for line in lines]
    kept = [line for line, row in rows if row["data"] == data or PATH in row.get("overrides", {})]
    record.parent.mkdir(parents=True, exist_ok=True)
    write_text(record, "".join(kept))


def join(workdir: Path, names: Iterable[str], seconds: dict[str, float]) -> str:
    """Return the reports as one page.

    Args:
        workdir: folder of the page, with the folders of the reports.
        names: the reports, in order.
        seconds: time that each took.
    """
    names = tuple(names)
    lines = ["# Byte language models", "", "| report | minutes |", "|---|---|"]
    lines += [f"| {name} | {seconds[name] / 60:.1f} |" for name in names]
    lines += ["", "Rows that were in the record at the start took no time."]
    text = "\n".join(lines) + "\n"
    for name in names:
        report = (workdir / name / "report.md").read_text()
        report = re.sub(r"^#", "##", report, flags=re.MULTILINE)
        text += "\n" + re.sub(r"(!\[[^]]*\]\()", rf"\g<1>{name}/", report)
    return text


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    args = _parse(argv)
    workdir = user_path(args.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    keep_programs(workdir / "programs")
    data = byte_corpus.read().manifest.fingerprint
    file = workdir / SECONDS
    seconds = json.loads(file.read_text()) if file.exists() else {}
    for name in PARTS:
        folder = workdir / name
        options = [f"--workdir={folder}"] + ["--quick"] * args.quick
        if not args.quick:
            begin_record(name, folder / RECORD, data)
        if name == "grid":
            options += ["--all"] * args.all + ([f"--jobs={args.jobs}"] if args.jobs else [])
        report = importlib.import_module(f"flaxae.models.byte_lm.{name}_report")
        began = time.perf_counter()
        code = report.main([name, *options])
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
        write_text(file, json.dumps(seconds, indent=1) + "\n")
        if code:
            return code
    write_text(workdir / "report.md", join(workdir, PARTS, seconds))
    print(f"written to {workdir / 'report.md'}")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.byte_lm.page",
        description="Make all reports on byte language models, and join them in one page. The same "
        "command continues after an interruption.",
    )
    parser.add_argument("--workdir", required=True, help="folder of the page and the reports")
    parser.add_argument("--quick", action="store_true", help="few steps of few variants")
    parser.add_argument("--all", action="store_true", help="the whole grid, hours")
    parser.add_argument(
        "--jobs",
        type=ranged("--jobs", int, COUNT),
        metavar="N",
        help="programs of the grid side by side",
    )
    return parser.parse_args(argv[1:])


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
