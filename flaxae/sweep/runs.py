"""A grid of overrides of one config, run through the same loop: `python -m flaxae.sweep`.

Runs are grouped by shape: those that differ only in what may be traced (hparams) train as lanes of
one program. A run's folder is named by the hash of its config, so that sweeps share runs and
resume. Without --grid the config file says what to run: `get_runs(preset)` gives the overrides of
each run, and `finish(rows, workdir, outdir)`, where there is one, makes the sweep's own tables and
figures; preset is what follows the file's name and a ":".
"""

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import Config, config_hash, copy_config
from flaxae.errors import NonFiniteError, require
from flaxae.storage import paths
from flaxae.storage import workdir as workdir_lib
from flaxae.sweep.groups import Group, group_by_shape
from flaxae.sweep.plan import write_table
from flaxae.sweep.workers import Call, Ended, run_all
from flaxae.training.hparams import traced_fields
from flaxae.training.loop import run

CODES = {"sigterm": 75, "sigint": 130}
ENDS = {0: "done", 2: "error", 75: "sigterm", 130: "sigint", -signal.SIGTERM: "sigterm"}


def sweep(
    config: Config, runs: list[dict[str, Any]], outdir: str | Path, lanes: bool = True,
    tables: str | Path = "", jobs: int = 1, cost: Callable[[dict[str, Any]], float] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Trains all runs that are not done, each distinct one once; writes table.csv and table.md.

    Args:
        config: the base.
        runs: overrides of each run (dotted field -> value).
        outdir: one folder a run, named by the hash of its config.
        lanes: train runs of one shape as lanes of one program.
        tables: the folder of the tables; "": outdir.
        jobs: programs that train side by side, if more than one: on the CPU, also where there is
            an accelerator, each on its share of the cores; what they print is in outdir/logs.
        cost: of a run by its overrides, in any unit: with jobs, the longest ones begin first, and
            the time left is told by it.

    Returns:
        A row a run: its hash, overrides, status ("done", "failed", "sigterm", ...) and metrics.

    Raises:
        ConfigError: a config is wrong; side by side its rows say "error", and the others go on.
    """
    outdir = paths.as_workdir(outdir)
    tables = paths.as_workdir(tables) if tables else outdir
    require(jobs >= 1, f"jobs={jobs} must be positive")
    local = not paths.is_remote(outdir)
    require(jobs == 1 or local, f"jobs={jobs} needs a local workdir for its logs, not {outdir}")
    configs = [copy_config(config, overrides) for overrides in runs]
    names = [config_hash(c) for c in configs]
    everything = Group(config, configs, runs, names, outdir)
    ends = {name: _record(outdir / name) for name in dict.fromkeys(names)}
    todo, planned = [], set()
    for group in group_by_shape(config, runs) if lanes else [[i] for i in range(len(runs))]:
        # Two overrides may mean one run.
        missing = {names[i]: i for i in group if not ends[names[i]] and names[i] not in planned}
        planned |= set(missing)
        if missing:
            todo.append(everything.pick(sorted(missing.values())))

    def save() -> list[dict[str, Any]]:
        rows = [{"run": name, **overrides, "status": "not run"} | ends[name]
                for name, overrides in zip(names, runs, strict=True)]  # fmt: skip
        write_table(rows, tables)
        return rows

    if jobs > 1:
        costs = [sum(cost(run) if cost else 1.0 for run in group.runs) for group in todo]
        order = sorted(range(len(todo)), key=lambda i: -costs[i])
        _side_by_side([todo[i] for i in order], [costs[i] for i in order], jobs, ends, save)
        return save()
    for group in todo:
        status, found = _run_group(group)
        ends |= found
        save()
        if status in ("sigterm", "sigint"):
            break
    return save()


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _run_group(group: Group) -> tuple[str, dict[str, dict[str, Any]]]:
    """Trains one group, as lanes where it has several runs.

    Returns:
        How it ended, and each run's status and metrics, which a run that is through keeps in its
        result.json.
    """
    config, configs, runs, names, outdir = group
    single = len(names) == 1
    together = outdir / "groups" / config_hash(config) / "-".join(n[:6] for n in names)[:80]
    try:
        if single:
            result = run(configs[0], outdir / names[0])
        else:
            task = config.task.make(config)
            traced = traced_fields(task)
            shape = {k: v for k, v in runs[0].items() if k not in traced}
            overrides = [{k: v for k, v in one.items() if k in traced} for one in runs]
            result = run(copy_config(config, shape), together, lanes=overrides)
        status, found = result.status, result.metrics
    except NonFiniteError as e:
        status, found = "failed", {}
        print(f"failed: {e}", file=sys.stderr)
    ends = {}
    for lane, name in enumerate(names):
        folder = outdir / name
        metrics = {k: v if single else v[lane] for k, v in found.items()}
        end = status
        if not single:
            source = together / "lanes" / f"{lane:02d}"
            end = "failed" if (source / "FAILED").exists() else status
            if end in ("done", "already_done"):
                paths.copy_folder(source, folder)
        end = "done" if end == "already_done" else end
        ends[name] = {"status": end, **metrics}
        if end in ("done", "failed"):
            folder.mkdir(parents=True, exist_ok=True)
            workdir_lib.write_json(folder / "result.json", ends[name])
    return status, ends


def _side_by_side(
    todo: list[Group], costs: list[float], jobs: int, ends: dict[str, dict[str, Any]],
    save: Callable[[], Any],
) -> None:  # fmt: skip
    """Trains the groups `jobs` at a time; tells of each that ended, and notes how in `ends`."""
    calls = [Call(_title(group), _in_process, (group,),
                  group.outdir / "logs" / f"{group.names[0]}.log") for group in todo]  # fmt: skip
    began, done = time.monotonic(), []

    def ended(how: Ended) -> None:
        done.append(how)
        call, group = calls[how.index], todo[how.index]
        word = ENDS.get(how.code, f"ended with {how.code}")
        for name in group.names:
            ends[name] = _record(group.outdir / name) or {"status": word}
        word = ", ".join(sorted({ends[name]["status"] for name in group.names}))
        share = sum(costs[one.index] for one in done) / sum(costs)
        left = (time.monotonic() - began) * (1 / share - 1)
        line = f"{len(done)}/{len(calls)} {call.name}: {word}, {how.seconds / 60:.1f} min"
        print(f"{line}; about {left / 60:.0f} min left", flush=True)
        if how.code not in (0, *CODES.values(), -signal.SIGTERM):
            print(_last_error(call.log), file=sys.stderr)
        save()

    print(f"{len(calls)} programs to train, {jobs} at a time", flush=True)
    stopped = run_all(calls, jobs, ended)
    if stopped:  # the children were told by SIGTERM, whatever told this process
        for name, found in ends.items():
            if not found or found["status"] in CODES:
                ends[name] = {"status": stopped}


def _last_error(log: Path) -> str:
    """What a log says from its last error on, or its last line."""
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    at = text.rfind("error: ")
    said = text[at:] if at >= 0 else "error: " + (text.splitlines() or ["it said nothing"])[-1]
    return f"{said} ({log})"


def _title(group: Group) -> str:
    shared = {k: v for k, v in group.runs[0].items() if all(r.get(k) == v for r in group.runs)}
    lanes = f" x {len(group.runs)} lanes" if len(group.runs) > 1 else ""
    return ", ".join(f"{k}={v}" for k, v in shared.items()) + lanes


def _in_process(group: Group) -> int:
    """An exit code: 0 too where a run went non-finite, which its result.json says."""
    return run_main(lambda _: CODES.get(_run_group(group)[0], 0), [])


def exit_code(rows: list[dict[str, Any]]) -> int:
    """0: all runs are done; 75 and 130: it was told to stop; 2: a wrong config; 1: some failed."""
    bad = [row["status"] for row in rows if row["status"] != "done"]
    codes = CODES | {"error": 2}
    return next((codes[status] for status in codes if status in bad), 1 if bad else 0)
