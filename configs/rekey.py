"""Renaming of stored runs whose config has gained or lost fields since they were trained.

    python -m configs.rekey --outdir runs/looped_report
    python -m configs.rekey --record configs/t5_vae/baselines.jsonl
    python -m configs.rekey --record configs/funnel_ae/report.jsonl

Runs of a sweep, and rows of a record, are named by the hash of their config. A new field changes
every hash, and finished runs would be trained again under their new names. This command gives them
the new names: `--outdir` is the folder of a sweep (folders of runs and of groups of unfinished runs
are renamed, their config.json is rewritten), `--record` a JSONL file of `flaxae.sweep.record`. A
run whose config.json does not belong to its name, or whose task is not part of flaxae, is reported
and left as it is. Needed once for runs from before November 2026, when fields of texts left the
data section of other families.
"""

import argparse
import hashlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import Config, config_hash, copy_config, from_json, to_json
from flaxae.errors import ConfigError

BASELINES = Path(__file__).parent / "t5_vae" / "baselines.py"
SPACE = BASELINES.with_name("space.py")


def new_config(stored: dict[str, Any], name: str) -> Config | None:
    """Return the config that gave a run its name, with today's fields.

    Args:
        stored: contents of the run's config.json.
        name: name of the run's folder.

    Returns:
        None if the stored config gives another name.

    Raises:
        ConfigError: if the run's task is not part of flaxae.
    """
    # A workdir keeps the schedule's horizon as resolved; the name is of the config before that.
    for horizon in (0, stored["optim"]["decay_steps"]):
        asked = {**stored, "optim": {**stored["optim"], "decay_steps": horizon}}
        text = json.dumps(asked, sort_keys=True)
        if hashlib.sha256(text.encode()).hexdigest()[:10] == name:
            return from_json(asked)
    return None


def rekey_runs(outdir: Path) -> int:
    """Rename the run folders of a sweep, and the folders of its groups.

    Returns:
        The number of folders that were left as they are and are not up to date.
    """
    files = [*sorted(outdir.glob("*/config.json")), *sorted(outdir.glob("groups/*/*/config.json"))]
    left = 0
    for file in files:
        try:
            _rekey(outdir, file)
        except ConfigError as e:
            left += 1
            print(f"{file.parent}: left: {e}")
    return left


def _rekey(outdir: Path, file: Path) -> None:
    """Rename the folder of a config.json, of a run or a group; raise ConfigError if it is left."""
    folder, stored = file.parent, json.loads(file.read_text())
    lanes = stored.pop("lanes", None)
    # A group's folder is groups/BASE/RUNS, where BASE is the hash of the sweep's base config.
    old = folder.name if lanes is None else folder.parent.name
    config = new_config(stored, old)
    if config is None:
        resolved = from_json(stored)
        asked = copy_config(resolved, {"optim.decay_steps": 0})
        if old in (config_hash(asked), config_hash(resolved)):
            print(f"{folder}: up to date")
            return
        names = [config_hash(copy_config(asked, lane)) for lane in lanes or []]
        if names and all((outdir / name / "result.json").exists() for name in names):
            print(f"{folder}: not needed, its runs are finished")
            return
        raise ConfigError("its config has another name")
    new = outdir / config_hash(config)
    if lanes is not None:
        runs = [config_hash(copy_config(config, lane))[:6] for lane in lanes]
        new = outdir / "groups" / new.name / "-".join(runs)[:80]  # as in flaxae.sweep.runs
    if new.exists() and new != folder:
        raise ConfigError(f"{new} exists already")
    config.optim.decay_steps = stored["optim"]["decay_steps"]
    contents = to_json(config) | ({} if lanes is None else {"lanes": lanes})
    file.write_text(json.dumps(contents, indent=2) + "\n")
    new.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(new)
    print(f"{folder} -> {new.relative_to(outdir)}")


def rekey_record(path: Path) -> None:
    """Rewrite the names in a record, by the variants of the config file of the same name.

    A record without one, such as runs.jsonl or space.jsonl of a workdir, is one of the T5-VAE's
    baselines or of its latent spaces, by the fields of its rows.

    Raises:
        ConfigError: if the config file of a row is not known.
    """
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    files = [_config_file(path, row) for row in rows]
    spaces = {file: runpy.run_path(str(file)) for file in set(files)}
    for row, file in zip(rows, files, strict=True):
        space = spaces[file]
        try:
            if "VARIANTS" in space:
                preset = [row["dataset"]] if "dataset" in row else []
                overrides = space["VARIANTS"][row["variant"]]
                config = copy_config(space["get_config"](*preset), overrides)
            else:
                config = space["get_config"](row["variant"], **_measured(row))
        except KeyError as e:
            raise ConfigError(
                f"{path}: {file} does not have {e} of a row; nothing is changed"
            ) from e
        if row.get("quick"):
            config = copy_config(config, space["QUICK"])
        row["run"] = config_hash(copy_config(config, {"seed": row["seed"]}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _config_file(path: Path, row: dict[str, Any]) -> Path:
    """Return the config file that defines the variants of a record's row."""
    beside = path.with_suffix(".py")
    if beside.exists():
        return beside
    if row.get("timed"):
        return SPACE
    if "dataset" in row:
        return BASELINES
    raise ConfigError(
        f"{path}: no {beside.name} beside it, and its rows are neither of the T5-VAE's baselines "
        "nor of its latent spaces"
    )


def _measured(row: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of get_config that were measured for a row of the latent spaces."""
    return {"steps": row["steps"]} if row.get("timed") else {}


def main(argv: list[str]) -> int:
    """Run the command; exit code 1 if a run was left as it is."""
    parser = argparse.ArgumentParser(
        prog="python -m configs.rekey", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--outdir", type=Path, help="folder of a sweep")
    parser.add_argument("--record", type=Path, help="JSONL file of a record")
    args = parser.parse_args(argv[1:])
    if args.record:
        rekey_record(args.record)
    return 1 if args.outdir and rekey_runs(args.outdir) else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
