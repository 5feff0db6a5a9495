"""The largest batch of each T5-VAE on each TPU slice, by the compiler alone (extra `tpu`).

    python benchmarks/tpu_batches.py                              # the whole table: hours
    python benchmarks/tpu_batches.py --models base --slices v5e-8 v6e-8

Sentences have 128 tokens, the precision is bfloat16, and parameters and optimizer state are sharded
over fsdp. `flaxae.tpu_compile.find_batch` finds each cell to within an eighth; finished cells are
stored in --file and not compiled again. An earlier table (--near) gives starting points, which
saves compilations.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flaxae import tpu_compile  # noqa: E402
from flaxae.config import Config, copy_config, flags  # noqa: E402

TOKENS = 128
MODELS = {
    "base": "configs/t5_vae/wikipedia_base.py:scratch",
    "large": "configs/t5_vae/wikipedia_large.py:scratch",
    "3b": "configs/t5_vae/wikipedia_3b.py:scratch",
}
# Google's names count chips for v5e and v6e, and cores for v5p, two per chip.
SLICES = {
    "v5e-8": ("v5e:2x4", 8),
    "v5e-32": ("v5e:4x8", 32),
    "v5e-256": ("v5e:16x16", 256),
    "v6e-8": ("v6e:2x4", 8),
    "v5p-8": ("v5p:2x2x1", 4),
}
START = 64  # rows per chip


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def make_config(file: str, chips: int, rows: int) -> Config:
    """Return the config of a file, with rows of one length and the search's first batch."""
    return copy_config(
        flags.load_config(file),
        {
            "data.max_length": TOKENS,
            "data.num_buckets": 1,
            "data.bucket_edges": (),
            "data.batch_size": rows * chips,
        },
    )


def cell(model: str, name: str, effort: float, start: int = START) -> dict[str, Any]:
    """Find the largest batch of a model on a slice."""
    topology, chips = SLICES[name]
    config = make_config(MODELS[model], chips, start)
    found: dict[str, Any] = {"model": model, "slice": name, "effort": effort}
    try:
        report = tpu_compile.find_batch(config, topology, effort=effort, log=_log)
    except tpu_compile.DoesNotFit as error:
        return found | {"fits": False, "message": str(error)}
    return found | report.json()


def table(cells: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| T5-VAE | slice | rows per chip | HBM | accessed per token | best MFU | compilation |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in cells:
        start = f"| {c['model']} | {c['slice']} | "
        if not c["fits"]:
            lines.append(start + "does not fit | | | | |")
            continue
        hbm = f"{c['hbm_bytes'] / 2**30:.1f} of {c['hbm_capacity_bytes'] / 2**30:.0f} GiB"
        each = c["bytes_accessed"] / (c["rows_a_chip"] * TOKENS) / 1e6
        lines.append(
            start + f"{c['rows_a_chip']:.0f} | {hbm} | {each:.2f} MB | {c['mfu_bound']:.2f} | "
            f"{c['compile_seconds']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Find all cells; print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--slices", nargs="+", default=list(SLICES), choices=SLICES)
    parser.add_argument("--effort", type=float, default=-1.0)
    parser.add_argument("--file", type=Path, default=Path("runs/tpu_batches.jsonl"))
    parser.add_argument("--near", type=Path, help="file of earlier cells, as starting points")
    args = parser.parse_args()
    near = args.near.read_text().splitlines() if args.near else []
    starts = {(c["model"], c["slice"]): int(0.95 * c["rows_a_chip"]) for c in map(json.loads, near)}
    args.file.parent.mkdir(parents=True, exist_ok=True)
    lines = args.file.read_text().splitlines() if args.file.exists() else []
    kept = {(c["model"], c["slice"], c["effort"]): c for c in map(json.loads, lines)}
    for model in args.models:
        for name in args.slices:
            key = (model, name, args.effort)
            if key in kept:
                continue
            _log(f"{model} on {name}")
            kept[key] = cell(model, name, args.effort, starts.get((model, name), START))
            with args.file.open("a") as file:
                file.write(json.dumps(kept[key]) + "\n")
    wanted = [kept[m, s, args.effort] for m in args.models for s in args.slices]
    print(table(wanted))
    print(
        json.dumps(
            {
                "benchmark": "tpu_batches",
                "cases": {
                    f"{c['model']} {c['slice']}": {"rows": c.get("rows_a_chip", 0)} for c in wanted
                },
            }
        )
    )


if __name__ == "__main__":
    main()
