"""Bits per byte against the rows of an AutomatonNN, beside tanh RNNs of as many parameters.

`python -m flaxae.models.byte_lm.automaton_report --workdir=W` trains the presets of
configs/byte_lm/automaton.py, and writes a table and a figure.
"""

import sys
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flaxae.command import run_main
from flaxae.data.byte_corpus import SEPARATOR
from flaxae.errors import ConfigError
from flaxae.measures import stats
from flaxae.measures.claims import cell
from flaxae.models.byte_lm import experiment
from flaxae.models.byte_lm.automaton import AutomatonConfig
from flaxae.models.byte_lm.experiment import Experiment, Found
from flaxae.models.byte_lm.grid import GridConfig, Readout, count_parameters
from flaxae.models.byte_lm.network import BYTES
from flaxae.models.byte_lm.recurrence import Dynamic

ROWS = tuple(2**i for i in range(9))  # 1 to 256
TOLERANCE = 0.02  # largest relative difference of an RNN's parameters
TITLES = {
    "hard_16": "16 rows, straight-through",
    "warm_16": "16 rows, temperature 2",
    "hidden_16": "16 rows, a hidden layer of 64 units",
    "layers_16": "16 rows in each of 2 layers",
}


def automaton_size(options: AutomatonConfig) -> int:
    """Return the number of parameters of an AutomatonNN of one layer without hidden units."""
    width, rows = options.inputs + options.width, options.rows
    return BYTES * options.inputs + (width + 1) * rows + rows * options.width + (width + 1) * BYTES


def rnn(states: int) -> GridConfig:
    """Return the config of a tanh RNN whose output is its state."""
    return GridConfig(states=states, dynamic=Dynamic.TANH, readout=Readout.STATE)


def rnn_states(size: int) -> int:
    """Return the states of the tanh RNN whose parameters are nearest to a number.

    Args:
        size: the number of parameters.

    Raises:
        ConfigError: if the nearest number differs by more than 2 %.
    """
    # 2 n**2 + 513 n + 256 parameters: maps of the byte, the input, the state and the output.
    root = ((513**2 + 8 * max(size - 256, 0)) ** 0.5 - 513) / 4
    states = max(1, round(root))
    found = count_parameters(rnn(states))
    if abs(found - size) > TOLERANCE * size:
        raise ConfigError(
            f"no tanh RNN has {size} parameters within 2 %: the nearest has {states} states and "
            f"{found} parameters; choose a larger size"
        )
    return states


def bigram_entropy(data: UInt8[np.ndarray, " n"]) -> float:
    """Return a text's bits per byte by the frequencies of its own pairs of bytes.

    The first byte follows a separator. A model that reads only the last byte has at least as many
    bits on this text.
    """
    x = np.concatenate([np.frombuffer(SEPARATOR, np.uint8), data]).astype(np.int64)
    counts = np.bincount(BYTES * x[:-1] + x[1:], minlength=BYTES**2).reshape(BYTES, BYTES)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return float(-(counts * np.log2(np.where(share > 0, share, 1))).sum() / counts.sum())


def equal_rnn(rows: int) -> str:
    """Return the preset of the RNN with as many parameters as an automaton of R rows."""
    return f"rnn_{rnn_states(automaton_size(AutomatonConfig(rows=rows)))}"


def page(found: Found, outdir: Path) -> str:
    """Return the text of report.md, and draw bits per byte against rows."""
    bigram = bigram_entropy(found.corpus.splits["test"])
    lines = [
        "# AutomatonNN: rows of the table",
        *([f"\n{found.note}"] if found.note else []),
        "\nBits per byte, mean [95 % interval over seeds]. Each RNN is the tanh RNN with as many "
        "parameters as the automaton, within 2 %.\n",
        "| rows | parameters | seeds | dev | test | largest p | rows used | RNN states "
        "| RNN test |",
        "|---" * 9 + "|",
    ]
    titles = {f"rows_{rows}": (str(rows), equal_rnn(rows)) for rows in ROWS}
    titles |= {preset: (title, "") for preset, title in TITLES.items()}
    lines += [_line(found, preset, *names) for preset, names in titles.items()]
    lines.append(
        f"\nThe test split's own pairs of bytes have {bigram:.3f} bits per byte. With one row an "
        "automaton reads only the last byte, and cannot have less.\n"
    )
    if draw(found, bigram, outdir / "rows.png"):
        lines.append("![bits per byte against rows](rows.png)\n")
    names = {f"rows_{rows}": f"AutomatonNN, {rows} rows" for rows in ROWS}
    names |= {preset: f"AutomatonNN, {title}" for preset, title in TITLES.items()}
    names |= {preset: f"tanh RNN, {preset[4:]} states" for preset in map(equal_rnn, ROWS)}
    lines += ["Beside the baselines on the test split:\n", found.beside_baselines(names)]
    return "\n".join(line for line in lines if line) + "\n"


def draw(found: Found, bigram: float, file: Path) -> bool:
    """Draw bits per byte of the test split against rows, with 95 % intervals over seeds.

    Args:
        found: the rows of the experiment.
        bigram: bits per byte of the split's own pairs of bytes.
        file: PNG file to write.

    Returns:
        False if no preset of the figure has a row: then nothing is drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    kinds = {
        "AutomatonNN": ({rows: f"rows_{rows}" for rows in ROWS}, "#0072B2", "o-"),
        "tanh RNN of as many parameters": (
            {rows: equal_rnn(rows) for rows in ROWS},
            "#D55E00",
            "s--",
        ),
    }
    drawn = False
    for label, (presets, colour, style) in kinds.items():
        values = {rows: found.numbers(preset, "test") for rows, preset in presets.items()}
        values = {rows: each for rows, each in values.items() if each}
        if values:
            ends = [stats.t_interval(each) for each in values.values()]
            bars = np.nan_to_num([[e.value - e.low, e.high - e.value] for e in ends]).T
            means = [e.value for e in ends]
            axes.errorbar(
                list(values), means, yerr=bars, fmt=style, color=colour, label=label, capsize=3
            )
            drawn = True
    axes.axhline(bigram, color="gray", linestyle=":", label="pairs of bytes of the split itself")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="rows R", ylabel="bits per byte of the test split")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    if found.note:
        figure.supxlabel(found.note.strip("*"), fontsize=8)
    if drawn:
        figure.savefig(file, dpi=120)
    return drawn


def _line(found: Found, preset: str, title: str, rnn_preset: str) -> str:
    """Return a row of the table, "" if the preset has no runs."""
    if preset not in found.rows:
        return ""
    dev, test = (found.numbers(preset, split) for split in ("dev", "test"))
    largest, used = (found.numbers(preset, f"layer_0/{name}") for name in ("max_p", "rows_used"))
    size = found.rows[preset][0]["numbers"]["parameters"]
    columns = [title, f"{size:,}", str(len(test)), cell(dev), cell(test), cell(largest), cell(used)]
    columns += [rnn_preset[4:], cell(found.numbers(rnn_preset, "test")) if rnn_preset else ""]
    return "| " + " | ".join(columns) + " |"


EXPERIMENT = Experiment(
    module="flaxae.models.byte_lm.automaton_report",
    file="configs/byte_lm/automaton.py",
    description="Measure an AutomatonNN by the rows of its table, beside RNNs of equal size.",
    page=page,
)


def main(argv: list[str]) -> int:
    """Run the command."""
    return experiment.main(EXPERIMENT, argv)


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
