"""Codings of the input of StraightBytes: `python -m flaxae.models.byte_lm.straight_report`.

It trains the variants of configs/byte_lm/straight.py, which differ in how the last bytes are coded,
and writes a table of bits per byte beside the baselines.
"""

import sys
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from flaxae.command import run_main
from flaxae.config.locate import user_path
from flaxae.data.byte_corpus import ByteCorpus
from flaxae.machine.compile_cache import keep_programs
from flaxae.measures.claims import cell
from flaxae.models.byte_lm.evaluation import compared
from flaxae.models.byte_lm.experiments import (
    DEV,
    QUICK,
    TEST,
    Experiment,
    chosen,
    pairs,
    parse,
    read_space,
)

CONFIG = "configs/byte_lm/straight.py"
CONTROL = "bits"  # the variant that the others are compared with


def parameters(experiment: Experiment, name: str) -> int:
    """Return the number of parameters of a variant."""
    task: Any = experiment.config(experiment.best_setting(name), 0).task
    model = nnx.eval_shape(lambda: task.network(1, nnx.Rngs(params=0, frozen=0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def table(experiment: Experiment) -> str:
    """Return a Markdown table with one row per variant."""
    lines = [
        f"| coding | parameters | seeds | dev | test | test, minus that of {CONTROL} |",
        "|---" * 6 + "|",
    ]
    control = experiment.rows(CONTROL)
    for name in experiment.variants:
        rows = experiment.rows(name)
        if not rows:
            continue
        dev, test = ([row["numbers"][key] for row in rows] for key in (DEV, TEST))
        both = pairs(rows, control) if name != CONTROL else []
        differences = [a["numbers"][TEST] - b["numbers"][TEST] for a, b in both]
        cells = [cell(dev), cell(test), cell(differences) if differences else ""]
        size = f"{parameters(experiment, name):,}"
        lines.append("| " + " | ".join([name, size, str(len(rows)), *cells]) + " |")
    return "\n".join(lines) + "\n"


def write(
    experiment: Experiment, corpus: ByteCorpus, outdir: Path, cache: Path, note: str = ""
) -> str:
    """Write report.md from the rows of the record; return the text.

    Args:
        experiment: the experiment.
        corpus: its data.
        outdir: folder of the report.
        cache: folder of measured baselines.
        note: a remark on all numbers.
    """
    found = {
        name: [row["numbers"][TEST] for row in experiment.rows(name)]
        for name in experiment.variants
    }
    means = {f"StraightBytes, {name}": sum(x) / len(x) for name, x in found.items() if x}
    text = "# StraightBytes, bits per byte by coding of the input\n\n"
    text += f"{note}\n\n" if note else ""
    text += (
        f"Mean [95 % interval over seeds].\n\n{table(experiment)}\n"
        f"Beside the baselines on the test split:\n\n{compared(corpus, means, 'test', cache)}\n"
    )
    (outdir / "report.md").write_text(text)
    return text


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    args = parse(
        argv[1:],
        "python -m flaxae.models.byte_lm.straight_report",
        "Train StraightBytes with several codings of the last bytes, and write a report.",
    )
    space = read_space(CONFIG)
    preset = "quick" if args.quick else "full"
    base, variants = space["get_config"](preset), space["variants"](preset)
    keep_programs(args.workdir / "programs")
    if not Experiment(base, chosen(variants, args.only), args.record).train(args.workdir):
        return 75
    corpus = base.task.make(base).corpus
    note = QUICK if args.quick else ""
    runs = Experiment(base, variants, args.record)
    print(write(runs, corpus, args.workdir, user_path(base.data.cache), note))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
