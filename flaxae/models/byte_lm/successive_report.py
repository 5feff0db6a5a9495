"""Memory of autoencoders and reservoirs: `python -m flaxae.models.byte_lm.successive_report`.

It trains the variants of configs/byte_lm/successive.py, measures how many bits of past bytes are
linear functions of their states, for independent uniform bytes and for text, and writes W/report.md
with tables and memory curves. Rows of finished runs are in the record, from which the report is
made; the same command continues after an interruption.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from flaxae.command import run_main
from flaxae.config import Config, config_hash, copy_config
from flaxae.data import byte_corpus
from flaxae.machine.compile_cache import keep_programs
from flaxae.measures.claims import cell
from flaxae.models.byte_lm import memory
from flaxae.models.byte_lm.experiments import (
    DEV,
    PATH,
    QUICK,
    TEST,
    Experiment,
    Variant,
    chosen,
    grid,
    parse,
    read_space,
    trained,
)
from flaxae.models.byte_lm.network import ByteNetwork
from flaxae.sweep.record import Row, add_to_record, read_record, running_commit

CONFIG = "configs/byte_lm/successive.py"
NOISES = (0.0, 0.1)  # on the states that are measured
STREAMS, LENGTH = 16, 2048  # of the measures
SCAN = "untrained reservoir"
UNIFORM_BYTES = 2_000_000  # of the file of independent bytes

Numbers = dict[str, Any]


def write_uniform(path: Path) -> None:
    """Write the file of independent bytes, if it does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.random.default_rng(0).integers(0, 256, UNIFORM_BYTES, dtype=np.uint8).tofile(path)


@functools.cache
def inputs() -> dict[str, Int[np.ndarray, "B n"]]:
    """Return the streams whose memory is measured: uniform bytes, and the library's dev split."""
    dev = byte_corpus.read().splits["dev"]
    return {
        "uniform": memory.uniform_bytes(STREAMS, LENGTH, seed=1),
        "text": memory.text_rows(dev, STREAMS, LENGTH),
    }


def memories(network: ByteNetwork, hparams: dict[str, Array]) -> Numbers:
    """Return capacity, depth and curve of a network, by data and noise on the states."""
    found: Numbers = {}
    for name, x in inputs().items():
        states = memory.collect_states(network, hparams, x)
        found[f"{name} rms"] = float(np.sqrt(np.square(states).mean()))
        for noise in NOISES:
            measured = memory.measure(states, x, noise=noise)
            key = f"{name}, noise {noise:g}"
            found[f"{key}: capacity"] = round(measured.capacity, 3)
            found[f"{key}: depth"] = measured.depth
            found[f"{key}: curve"] = [float(f"{bits:.3g}") for bits in measured.bits]
    return found


def memories_of_run(workdir: Path) -> Numbers:
    """Return the memories of a trained run."""
    return memories(*trained(workdir))


def scan(base: Config, settings: Sequence[dict[str, Any]], record: Path) -> list[Row]:
    """Measure reservoirs without training: their states do not depend on the readout.

    Args:
        base: the config of the reservoirs.
        settings: overrides of each.
        record: the file of rows; those that it has are not measured again.

    Returns:
        One row per setting.
    """
    from flaxae.training.hparams import make_hparams

    done, rows = read_record(record), []
    data = base.task.make(base).corpus.manifest.fingerprint
    for overrides in settings:
        config = copy_config(base, {**overrides, "steps": base.steps_per_call})
        if (key := config_hash(config)) not in done:
            task = config.task.make(config)
            network = task.init(nnx.Rngs(params=0, frozen=config.frozen_seed))
            numbers = memories(network, make_hparams(task, [config], lanes=False))
            row = {"run": key, "variant": SCAN, "seed": 0, "commit": running_commit()}
            done[key] = row | {"data": data} | {"overrides": overrides, "numbers": numbers}
            add_to_record(record, done[key])
        rows.append(done[key])
    return rows


def best_of_scan(rows: list[Row], key: str) -> Row:
    """Return the row of the scan with the largest number."""
    return max(rows, key=lambda row: row["numbers"][key])


def add_best(variants: dict[str, Variant], scanned: list[Row]) -> None:
    """Add the settings of the largest capacities to those that trained reservoirs try."""
    keys = [capacity_key(*key) for key in itertools.product(inputs(), NOISES)]
    best = [best_of_scan(scanned, key)["overrides"] for key in keys]
    for name, variant in variants.items():
        more = [one for i, one in enumerate(best) if one not in best[:i]]
        candidates = (*variant.candidates, *more)
        variants[name] = dataclasses.replace(variant, candidates=candidates)


def selected(experiments: list[Experiment], scanned: list[Row]) -> dict[str, list[Row]]:
    """Return the rows of a table by label: best settings, and untrained reservoirs by capacity."""
    found = {
        name: rows
        for experiment in experiments
        for name in experiment.variants
        if (rows := experiment.rows(name))
    }
    for key in itertools.product(inputs(), NOISES):
        if scanned:
            best = best_of_scan(scanned, capacity_key(*key))
            found[f"{SCAN}, {_setting(best)}"] = [best]
    return found


def capacity_key(data: str, noise: float) -> str:
    """Return the name of a capacity among the numbers of a row."""
    return f"{data}, noise {noise:g}: capacity"


def table(found: dict[str, list[Row]]) -> str:
    """Return a Markdown table of bits per byte, capacities and depths."""
    columns = [
        f"{data}, noise {noise:g}: {what}"
        for data, noise, what in itertools.product(
            ("uniform", "text"), NOISES, ("capacity", "depth")
        )
    ]
    lines = [
        f"| network | seeds | dev | test | state rms (text) | {' | '.join(columns)} |",
        "|---" * (len(columns) + 5) + "|",
    ]
    for name, rows in found.items():
        numbers = [row["numbers"] for row in rows]
        if PATH in rows[0]["overrides"]:  # bits per byte of another text do not compare
            numbers = [{k: v for k, v in each.items() if k not in (DEV, TEST)} for each in numbers]
        keys = (DEV, TEST, "text rms", *columns)
        cells = [cell([each.get(key) for each in numbers]) for key in keys]
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def tuning(experiments: list[Experiment], scanned: list[Row]) -> str:
    """Return a Markdown table of all settings of the reservoirs."""
    lines = [
        "| reservoir | dev | uniform, noise 0 | uniform, noise 0.1 | text, noise 0.1 |",
        "|---" * 5 + "|",
    ]
    measured = [
        row
        for experiment in experiments
        for name, variant in experiment.variants.items()
        if len(variant.candidates) > 1
        for _, row in experiment.measured(name)
    ]
    for row in [*measured, *scanned]:
        numbers = row["numbers"]
        capacities = [
            numbers.get(f"{key}: capacity")
            for key in ("uniform, noise 0", "uniform, noise 0.1", "text, noise 0.1")
        ]
        cells = [cell([x]) for x in (numbers.get(DEV), *capacities)]
        lines.append(f"| {_setting(row)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _setting(row: Row) -> str:
    fields = ("scale", "radius", "orthogonal")
    found = {name: row["overrides"].get(f"task.{name}") for name in fields}
    return ", ".join(f"{name} {value}" for name, value in found.items() if value is not None)


def draw(found: dict[str, list[Row]], path: Path) -> Path:
    """Draw memory curves: bits of the byte j steps ago, for uniform bytes and for text."""
    from flaxae.text_autoencoder.figures import subplots

    figure, axes = subplots(2, len(NOISES), (11, 4.2 * len(NOISES)))
    for axis, (noise, data) in zip(
        axes.flat, itertools.product(NOISES, ("uniform", "text")), strict=True
    ):
        for name, rows in found.items():
            of_scan = name.startswith(SCAN)
            curve = rows[0]["numbers"].get(f"{data}, noise {noise:g}: curve")
            if curve is not None:
                axis.plot(curve, "--" if of_scan else "-", label=name, linewidth=1)
        axis.set_title(f"{data} bytes, noise {noise:g}", fontsize=10)
        axis.set_xlabel("steps back", fontsize=9)
        axis.set_ylabel("bits (held-out R², sum over 8)", fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    figure.savefig(path, dpi=120)
    return path


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    args = parse(
        argv[1:],
        "python -m flaxae.models.byte_lm.successive_report",
        "Compare the memory of successive autoencoders and reservoirs, and write a report.",
    )
    space = read_space(CONFIG)
    preset = "quick" if args.quick else "full"
    keep_programs(args.workdir / "programs")
    write_uniform(Path(space["UNIFORM"]))
    points = grid(
        task__scale=space["SCALES"], task__radius=space["RADII"], task__orthogonal=(False, True)
    )
    experiments = [
        Experiment(base, variants, args.record)
        for base, variants in (
            (space["get_config"](preset), space["autoencoders"](preset)),
            (space["reservoir"](preset), space["reservoirs"](preset)),
        )
    ]
    known = {name: v for each in experiments for name, v in each.variants.items()}
    only = set(chosen(known, args.only))
    scanned = scan(experiments[1].base, points[:2] if args.quick else points, args.record)
    add_best(experiments[1].variants, scanned)
    for each in experiments:
        mine = {name: v for name, v in each.variants.items() if name in only}
        if not Experiment(each.base, mine, args.record).train(args.workdir, memories_of_run):
            return 75
    found = selected(experiments, scanned)
    text = "# Memory of autoencoders and reservoirs\n\n"
    text += f"{QUICK}\n\n" if args.quick else ""
    text += f"{table(found)}\n![memory]({draw(found, args.workdir / 'memory.png').name})\n"
    text += f"\n## Reservoirs\n\n{tuning(experiments, scanned)}"
    (args.workdir / "report.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
