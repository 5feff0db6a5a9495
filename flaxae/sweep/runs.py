"""A grid of overrides of one config, run through the same loop: `python -m flaxae.sweep`.

Runs are grouped by shape: those that differ only in traced fields (hparams) train as lanes of one
program. A run's folder is named by the hash of its config, so that sweeps share runs and resume.
Without --grid the config file names the runs: `get_runs(preset)` returns the overrides of each run,
and `finish(rows, workdir, outdir)`, which is optional, makes the sweep's own tables and figures;
preset is the part of the file's name after a ":".
"""

import json
import pickle
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import Config, config_hash, copy_config, flags
from flaxae.config.files import MODULE
from flaxae.config.horizon import check_horizon
from flaxae.errors import ConfigError, NonFiniteError, require
from flaxae.storage import paths
from flaxae.storage import workdir as workdir_lib
from flaxae.storage.lease import Lease
from flaxae.sweep.groups import Group, group_by_shape
from flaxae.sweep.plan import write_table
from flaxae.sweep.workers import Call, Exit, run_all
from flaxae.training.hparams import traced_fields
from flaxae.training.loop import run

CODES = {"sigterm": 75, "sigint": 130}
ENDS = {0: "done", 2: "error", 75: "sigterm", 130: "sigint", -signal.SIGTERM: "sigterm"}


def sweep(
    config: Config,
    runs: list[dict[str, Any]],
    outdir: str | Path,
    lanes: bool = True,
    tables: str | Path = "",
    jobs: int = 1,
    cost: Callable[[dict[str, Any]], float] | None = None,
) -> list[dict[str, Any]]:
    """Train all runs that are not done, each distinct one once; write table.csv and table.md.

    Args:
        config: the base config.
        runs: overrides of each run (dotted field -> value).
        outdir: the folder with one folder per run, named by the hash of its config.
        lanes: whether to train runs of one shape as lanes of one program.
        tables: the folder of the tables; "": outdir.
        jobs: the number of programs that train side by side. If above 1 they train on the CPU, also
            if there is an accelerator, each on its share of the cores; their output is in
            outdir/logs.
        cost: the cost of a run by its overrides, in any unit: with jobs, the longest runs begin
            first, and the time left is estimated by it.

    Returns:
        One row per run: its hash, overrides, status ("done", "failed", "sigterm", ...) and metrics.

    Raises:
        ConfigError: if a config is wrong, before anything is trained; or if one does not fit the
            data or the devices. With jobs, the status of its rows is "error" instead in the second
            case, and the other runs continue; but it is raised if a class of the config is defined
            in the config file.
    """
    outdir = paths.as_workdir(outdir)
    tables = paths.reachable(tables) if tables else outdir
    require(jobs >= 1, f"jobs={jobs} must be positive")
    local = not paths.is_remote(outdir)
    require(jobs == 1 or local, f"jobs={jobs} needs a local workdir for its logs, not {outdir}")
    # A new process cannot import the module of a config file.
    require(
        jobs == 1 or MODULE.encode() not in pickle.dumps(config),
        f"jobs={jobs} needs classes that other processes can import, and the config has a class "
        "that is defined in the config file: move it into a module, or set jobs=1",
    )
    configs = [copy_config(config, overrides) for overrides in runs]
    names = [config_hash(c) for c in configs]
    for name, one in zip(names, configs, strict=True):
        flags.validate(one)  # before the first run, not when its turn comes
        if not (outdir / name / "config.json").exists():
            check_horizon(one, None, outdir / name)
    try:
        tables.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"cannot write tables into {tables}: {paths.reason(e)}") from None
    everything = Group(config, configs, runs, names, outdir)
    ends = {name: _record(outdir / name) for name in dict.fromkeys(names)}
    todo, planned = [], set()
    for group in group_by_shape(config, runs) if lanes else [[i] for i in range(len(runs))]:
        # Different overrides may be the same run.
        missing = {names[i]: i for i in group if not ends[names[i]] and names[i] not in planned}
        planned |= set(missing)
        if missing:
            todo.append(everything.pick(sorted(missing.values())))

    def save() -> list[dict[str, Any]]:
        rows = [
            {"run": name, **overrides, "status": "not run"} | ends[name]
            for name, overrides in zip(names, runs, strict=True)
        ]
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
    """Return the status and metrics of a finished run; {} for any other."""
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _run_group(group: Group) -> tuple[str, dict[str, dict[str, Any]]]:
    """Train one group, as lanes if it has several runs.

    Returns:
        The group's status, and each run's status and metrics. Those of a finished run are written
        to its result.json.
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
                with Lease(folder) as lease:
                    lease.take(lambda: True)
                    paths.copy_folder(source, folder)
        end = "done" if end == "already_done" else end
        ends[name] = {"status": end, **metrics}
        if end in ("done", "failed"):
            folder.mkdir(parents=True, exist_ok=True)
            workdir_lib.write_json(folder / "result.json", ends[name])
    return status, ends


def _side_by_side(
    todo: list[Group],
    costs: list[float],
    jobs: int,
    ends: dict[str, dict[str, Any]],
    save: Callable[[], Any],
) -> None:
    """Train the groups, `jobs` at a time; print each end, and record it in `ends`."""
    calls = [
        Call(_title(g), _in_process, (g,), g.outdir / "logs" / f"{g.names[0]}.log") for g in todo
    ]
    began, done = time.monotonic(), []

    def on_exit(end: Exit) -> None:
        done.append(end)
        call, group = calls[end.index], todo[end.index]
        status = ENDS.get(end.code, f"ended with {end.code}")
        for name in group.names:
            ends[name] = _record(group.outdir / name) or {"status": status}
        status = ", ".join(sorted({ends[name]["status"] for name in group.names}))
        share = sum(costs[one.index] for one in done) / sum(costs)
        left = (time.monotonic() - began) * (1 / share - 1)
        line = f"{len(done)}/{len(calls)} {call.name}: {status}, {end.seconds / 60:.1f} min"
        print(f"{line}; about {left / 60:.0f} min left", flush=True)
        if end.code not in (0, *CODES.values(), -signal.SIGTERM):
            print(_last_error(call.log), file=sys.stderr)
        save()

    print(f"{len(calls)} programs to train, {jobs} at a time", flush=True)
    stopped = run_all(calls, jobs, on_exit)
    if stopped:  # the children got SIGTERM, whichever signal this process got
        for name, found in ends.items():
            if not found or found["status"] in CODES:
                ends[name] = {"status": stopped}


def _last_error(log: Path) -> str:
    """Return a log's text from its last error on, or its last line."""
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    at = text.rfind("error: ")
    last = text[at:] if at >= 0 else "error: " + (text.splitlines() or ["it printed nothing"])[-1]
    return f"{last} ({log})"


def _title(group: Group) -> str:
    """Return the overrides that all runs of a group share, and the number of lanes."""
    shared = {k: v for k, v in group.runs[0].items() if all(r.get(k) == v for r in group.runs)}
    lanes = f" x {len(group.runs)} lanes" if len(group.runs) > 1 else ""
    return ", ".join(f"{k}={v}" for k, v in shared.items()) + lanes


def _in_process(group: Group) -> int:
    """Train a group; return an exit code. It is 0 for a non-finite run too (see result.json)."""
    return run_main(lambda _: CODES.get(_run_group(group)[0], 0), [])


def exit_code(rows: list[dict[str, Any]]) -> int:
    """Return 0: all runs are done; 75, 130: a signal; 2: a wrong config; 1: some runs failed."""
    bad = [row["status"] for row in rows if row["status"] != "done"]
    codes = CODES | {"error": 2}
    return next((codes[status] for status in codes if status in bad), 1 if bad else 0)
