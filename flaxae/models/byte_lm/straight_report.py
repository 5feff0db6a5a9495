"""Codings of the input of StraightBytes: `python -m flaxae.models.byte_lm.straight_report`.

It trains the presets of configs/byte_lm/straight.py, which differ in how the last bytes are coded,
and writes a table of bits per byte beside the baselines.
"""

import sys
from pathlib import Path

from flaxae.command import run_main
from flaxae.measures.claims import cell
from flaxae.models.byte_lm import experiment
from flaxae.models.byte_lm.experiment import Experiment, Found

TITLES = {
    "bits": "bits as -1 and 1",
    "permuted": "bits of a random permutation of the values",
    "learned": "8 learned numbers",
    "one_hot": "one-hot",
    "zero_one": "bits as 0 and 1",
    "bernoulli": "bits as -1 and 1, to 8 independent bits",
}


def page(found: Found, outdir: Path) -> str:
    """Return the text of report.md."""
    lines = [
        "# StraightBytes: codings of the input",
        *([f"\n{found.note}"] if found.note else []),
        "\nBits per byte, mean [95 % interval over seeds]. The last column pairs seeds.\n",
        "| coding | parameters | seeds | dev | test | test, minus bits as -1 and 1 |",
        "|---" * 6 + "|",
    ]
    shown = {preset: title for preset, title in TITLES.items() if preset in found.rows}
    for preset, title in shown.items():
        dev, test = (found.numbers(preset, split) for split in ("dev", "test"))
        size = found.rows[preset][0]["numbers"]["parameters"]
        difference = "" if preset == "bits" else cell(found.differences(preset, "bits"))
        lines.append(
            f"| {title} | {size:,} | {len(test)} | {cell(dev)} | {cell(test)} | {difference} |"
        )
    names = {preset: f"StraightBytes, {title}" for preset, title in shown.items()}
    lines += ["\nBeside the baselines on the test split:\n", found.beside_baselines(names)]
    return "\n".join(lines) + "\n"


EXPERIMENT = Experiment(
    module="flaxae.models.byte_lm.straight_report",
    file="configs/byte_lm/straight.py",
    description="Compare codings of the last bytes in StraightBytes.",
    page=page,
)


def main(argv: list[str]) -> int:
    """Run the command."""
    return experiment.main(EXPERIMENT, argv)


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
