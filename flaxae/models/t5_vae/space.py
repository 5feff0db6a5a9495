"""Comparison of latent spaces at equal time: `python -m flaxae.models.t5_vae.space`.

It measures the time of a training step of each setting of configs/t5_vae/space.py, alone, and
derives the number of steps that fills the same minutes. Then it trains and evaluates each setting
with several seeds, and writes report.md with a table and a figure. The steps and one row of numbers
per run are kept beside each other (`--record`), so that the command continues where it ended, and
another machine trains the same runs.
"""

import argparse
import dataclasses
import json
import math
import runpy
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import Config, copy_config
from flaxae.config.locate import user_path
from flaxae.config.ranges import SEEDS, Range, ranged
from flaxae.errors import ConfigError
from flaxae.measures.stats import finite
from flaxae.models.t5_vae import space_page
from flaxae.models.t5_vae.baselines import train_and_evaluate
from flaxae.models.t5_vae.evaluation.studies import Sizes
from flaxae.sweep.record import Row, complete
from flaxae.text_autoencoder.evaluation.headline import headline

CONFIG = "configs/t5_vae/space.py"
MINUTES, RATE = 8.0, 200.0  # the budget of a run is this time at this number of GFLOP/s
QUICK_MINUTES = 0.02
TIMED_STEPS = 30
ROUND = 50  # steps are a multiple of it
QUICK = ("copy", "late_quarter")
Steps = dict[str, Any]  # minutes, gflops, settings: {name: {steps, milliseconds}}


def machine_rate(size: int = 2048, rounds: int = 7) -> float:
    """Return the GFLOP/s of a large matmul in float32, the best of some rounds."""
    import jax
    import jax.numpy as jnp

    x, multiply = jnp.ones((size, size), jnp.float32), jax.jit(jnp.matmul)
    seconds = []
    for _ in range(rounds + 1):  # the first is compiled
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2e-9 * size**3 / min(seconds[1:])


def step_seconds(config: Config, count: int = TIMED_STEPS) -> float | None:
    """Return the median seconds of a training step, its batch included, after the first steps.

    Args:
        config: the config of a run.
        count: number of steps.

    Returns:
        The seconds; None if a signal interrupted the steps.
    """
    from flaxae.storage.metrics_file import Writer
    from flaxae.training.loop import run

    short = {"steps": count, "log.every": 1, "optim.warmup": 0, "optim.decay_steps": config.steps}
    quiet = {"log.progress": False, "log.tensorboard": False, "eval.splits": ()}
    config = copy_config(config, {**short, **quiet, "eval.num_samples": 0, "save.every": count})
    with tempfile.TemporaryDirectory() as folder:
        if not run(config, folder).finished:
            return None
        rows = Writer(Path(folder), config.log).rows()
    rates = [row["time/steps_per_second"] for row in rows if row["split"] == "train"]
    return 1 / statistics.median(rates[min(5, count // 2) :])


def measured_steps(
    path: Path,
    space: dict[str, Any],
    names: list[str],
    minutes: float | None,
    fields: dict,
    option: str = "",
) -> Steps | None:
    """Return the steps of each setting that fill the minutes; measured ones are read.

    Args:
        path: the file of the steps; it need not exist.
        space: contents of the config file.
        names: the settings.
        minutes: training time per run; None: that of the file, else MINUTES at RATE.
        fields: overrides of all settings.
        option: the option that decides the minutes, for the message; "": --minutes.

    Returns:
        The steps; None if a signal interrupted it.

    Raises:
        ConfigError: if the file has steps for other minutes.
    """
    found: Steps = json.loads(path.read_text()) if path.exists() else {}
    if found and minutes is not None and not math.isclose(minutes, found["minutes"]):
        way = "name another --workdir or --record"
        raise ConfigError(
            f"{option or f'--minutes={minutes:g}'}: the steps in {path} fill "
            f"{found['minutes']:g} minutes, and its runs would not be comparable; "
            + (way if option else f"leave --minutes out, or {way}")
        )
    if not found:
        rate = machine_rate()
        budget = MINUTES * RATE / rate if minutes is None else minutes
        found = {"minutes": budget, "gflops": round(rate), "settings": {}}
    for name in names:
        if name in found["settings"]:
            continue
        seconds = step_seconds(copy_config(space["get_config"](name), fields))
        if seconds is None:
            return None
        steps = max(round(found["minutes"] * 60 / seconds / ROUND), 1) * ROUND
        found["settings"][name] = {"steps": steps, "milliseconds": round(1e3 * seconds, 1)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{name}: {1e3 * seconds:.0f} ms per step, {steps} steps", flush=True)
    return found


def run_all(
    configs: list[tuple[str, Config]], outdir: Path, record: Path, steps: Steps, quick: bool
) -> bool:
    """Train and evaluate runs; update the report after each.

    Args:
        configs: setting and config of each run.
        outdir: receives one folder per run, and the report.
        record: file with one row per run; runs with a row are not trained.
        steps: see `measured_steps`.
        quick: whether runs are evaluated on few lines.

    Returns:
        False if a signal ended it; the same call then continues.
    """
    sizes = Sizes(samples=500, pairs=60, factors=500, draws=300)
    if quick:
        # One number of rows for all parts, and so few compiled programs.
        few = dict.fromkeys(("lines", "samples", "pulled", "texts", "mmd", "references"), 128)
        sizes = Sizes(**few, codes=256, pairs=14, factors=128, draws=30)

    # For configs/rekey.py: the steps are an argument of get_config, the model may be that of QUICK.
    kind = {"timed": True} | ({"quick": True} if quick else {})

    def measure(config: Config, key: str) -> Row | None:
        found = train_and_evaluate(config, outdir / key, sizes)
        if found is None:
            return None
        numbers = finite(headline(found))
        return {"numbers": numbers, "steps": config.steps, **kind, "order": found["order"]}

    return complete(
        record,
        configs,
        measure,
        columns=space_page.COLUMNS.values(),
        settings=dataclasses.asdict(sizes),
        after=lambda rows: space_page.write(rows, outdir, steps),
    )


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.t5_vae.space",
        description="Compare latent spaces of T5-VAEs at equal time, over several seeds.",
    )
    parser.add_argument("--workdir", required=True, help="one folder per run, and the report")
    parser.add_argument("--config", default=CONFIG, help="defines get_config, SETTINGS and QUICK")
    parser.add_argument("--settings", nargs="+", default=[], metavar="NAME", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=ranged("--seeds", int, SEEDS), default=[])
    minutes = ranged("--minutes", float, Range(0, 1000, "(]"))
    help_ = f"training time per run; default: {MINUTES:g} at {RATE:g} GFLOP/s"
    parser.add_argument("--minutes", type=minutes, help=help_)
    parser.add_argument(
        "--record", metavar="FILE", help="rows of finished runs; default: WORKDIR/space.jsonl"
    )
    parser.add_argument("--quick", action="store_true", help="two settings of a tiny model")
    args = parser.parse_args(argv[1:])
    file = user_path(args.config)
    if not file.is_file():
        raise ConfigError(f"--config={args.config}: no such file; run this in flaxae's repository")
    space = runpy.run_path(str(file))
    if missing := {"SETTINGS", "QUICK", "get_config"} - set(space):
        raise ConfigError(f"--config={args.config} defines no {' and no '.join(sorted(missing))}")
    settings = space["SETTINGS"]
    if unknown := set(args.settings) - set(settings):
        raise ConfigError(f"--settings: no {', '.join(unknown)}; there are {', '.join(settings)}")
    chosen = args.settings or (QUICK if args.quick else settings)
    names = [name for name in settings if name in chosen]
    fields = space["QUICK"] if args.quick else {}
    workdir = user_path(args.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    record = user_path(args.record) if args.record else workdir / "space.jsonl"
    quickly = args.quick and args.minutes is None
    budget = QUICK_MINUTES if quickly else args.minutes
    path = record.with_name(f"{record.stem}_steps.json")
    steps = measured_steps(path, space, names, budget, fields, "--quick" if quickly else "")
    if steps is None:
        return 75
    configs = []
    seeds = args.seeds or ([0] if args.quick else [0, 1, 2])
    for seed in seeds:  # all settings before the next seed
        for name in names:
            config = space["get_config"](name, steps["settings"][name]["steps"])
            configs.append((name, copy_config(config, {**fields, "seed": seed})))
    if not run_all(configs, workdir, record, steps, args.quick):
        return 75
    print((workdir / space_page.REPORT).read_text())
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
