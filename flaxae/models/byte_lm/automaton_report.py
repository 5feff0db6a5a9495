"""Bits per byte against the rows of an AutomatonNN, beside tanh RNNs of as many parameters.

`python -m flaxae.models.byte_lm.automaton_report --workdir=W` trains the presets of
configs/byte_lm/automaton.py, and writes a table and a figure.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flaxae.command import run_main
from flaxae.config.locate import user_path
from flaxae.data.byte_corpus import SEPARATOR, ByteCorpus
from flaxae.errors import ConfigError
from flaxae.machine.compile_cache import keep_programs
from flaxae.measures import stats
from flaxae.measures.claims import cell
from flaxae.models.byte_lm.automaton import AutomatonConfig
from flaxae.models.byte_lm.evaluation import compared
from flaxae.models.byte_lm.experiments import (
    DEV,
    QUICK,
    TEST,
    Experiment,
    chosen,
    parse,
    read_space,
)
from flaxae.models.byte_lm.grid import GridConfig, Readout, count_parameters
from flaxae.models.byte_lm.network import BYTES
from flaxae.models.byte_lm.recurrence import Dynamic

ROWS = tuple(2**i for i in range(9))  # 1 to 256
TOLERANCE = 0.02  # largest relative difference of an RNN's parameters
CONFIG = "configs/byte_lm/automaton.py"


def automaton_size(options: AutomatonConfig) -> int:
    """Return the number of parameters of an AutomatonNN of one layer without hidden units."""
    width, rows = options.inputs + options.width, options.rows
    return BYTES * options.inputs + (width + 1) * rows + rows * options.width + (width + 1) * BYTES


def rnn(states: int, bptt: int = 8) -> GridConfig:
    """Return the config of a tanh RNN whose output is its state."""
    return GridConfig(states=states, dynamic=Dynamic.TANH, readout=Readout.STATE, bptt=bptt)


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


def equal_rnn(rows: int) -> int:
    """Return the states of the RNN with as many parameters as an automaton of R rows."""
    return rnn_states(automaton_size(AutomatonConfig(rows=rows)))


class Found:
    """The rows of a record, of automata and of RNNs.

    Args:
        automata: the experiment on automata.
        rnns: the experiment on RNNs.
    """

    def __init__(self, automata: Experiment, rnns: Experiment):
        self._of = {name: e for e in (automata, rnns) for name in e.variants}
        self.names = list(automata.variants)

    def numbers(self, name: str, number: str = TEST) -> list[float]:
        """Return a number of each seed of a variant; [] if the record has no rows of it."""
        rows = self._of[name].rows(name) if name in self._of else []
        return [row["numbers"][number] for row in rows]

    def means(self) -> dict[str, float]:
        """Return the mean bits per byte of the test split of every variant with a row."""
        found = {name: self.numbers(name) for name in self._of}
        titles = {name: f"AutomatonNN, {name}" if name in self.names else name for name in found}
        return {titles[name]: sum(each) / len(each) for name, each in found.items() if each}

    def by_rows(self, name: Callable[[int], str]) -> dict[int, list[float]]:
        """Return R -> the test split's bits per byte of each seed, for a variant named by R."""
        found = {rows: self.numbers(name(rows)) for rows in ROWS}
        return {rows: each for rows, each in found.items() if each}


def automaton_name(rows: int) -> str:
    """Return the variant of R rows."""
    return f"R = {rows}"


def rnn_name(states: int) -> str:
    """Return the variant of an RNN."""
    return f"tanh RNN, {states} states"


def table(found: Found) -> str:
    """Return a Markdown table of automata, each beside the RNN of equal size."""
    lines = [
        "| variant | parameters | seeds | dev | test | largest p | rows used | RNN states "
        "| RNN parameters | RNN test |",
        "|---" * 10 + "|",
    ]
    beside = {automaton_name(rows): rows for rows in ROWS}
    for name in found.names:
        test = found.numbers(name)
        if not test:
            continue
        keys = DEV, TEST, "test/layer_0/max_p", "test/layer_0/rows_used"
        cells = [cell(found.numbers(name, key)) for key in keys]
        size, rest = "", ["", "", ""]
        if rows := beside.get(name):
            size = f"{automaton_size(AutomatonConfig(rows=rows)):,}"
            states = equal_rnn(rows)
            rest = [str(states), f"{count_parameters(rnn(states)):,}"]
            rest.append(cell(found.numbers(rnn_name(states))))
        lines.append("| " + " | ".join([name, size, str(len(test)), *cells, *rest]) + " |")
    return "\n".join(lines) + "\n"


def draw(found: Found, bigram: float, file: Path, note: str = "") -> None:
    """Draw bits per byte of the test split against rows, with 95 % intervals over seeds.

    Args:
        found: the rows of the record.
        bigram: bits per byte of the split's own pairs of bytes.
        file: PNG file to write.
        note: a line below the figure.
    """
    from flaxae.text_autoencoder.figures import subplots

    figure, axes = subplots(1, 1, (6, 4))
    axis = axes[0, 0]
    kinds = {
        "AutomatonNN": (automaton_name, "#0072B2", "o-"),
        "tanh RNN of as many parameters": (
            lambda rows: rnn_name(equal_rnn(rows)),
            "#D55E00",
            "s--",
        ),
    }
    for label, (name, colour, style) in kinds.items():
        if values := found.by_rows(name):
            ends = [stats.t_interval(each) for each in values.values()]
            bars = np.nan_to_num([[e.value - e.low, e.high - e.value] for e in ends]).T
            means = [e.value for e in ends]
            axis.errorbar(
                list(values), means, yerr=bars, fmt=style, color=colour, label=label, capsize=3
            )
    axis.axhline(bigram, color="gray", linestyle=":", label="pairs of bytes of the split itself")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("rows R")
    axis.set_ylabel("bits per byte of the test split")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    if note:
        figure.supxlabel(note, fontsize=8)
    figure.savefig(file, dpi=120)


def write(found: Found, corpus: ByteCorpus, outdir: Path, cache: Path, note: str = "") -> str:
    """Write report.md and the figure from the rows of the record; return the text.

    Args:
        found: the rows.
        corpus: the data.
        outdir: folder of both.
        cache: folder of measured baselines.
        note: a remark on all numbers.
    """
    bigram = bigram_entropy(corpus.splits["test"])
    draw(found, bigram, outdir / "rows.png", note)
    text = "# AutomatonNN, bits per byte by rows\n\n" + (f"{note}\n\n" if note else "")
    text += (
        "Mean [95 % interval over seeds]. The RNN is a tanh RNN of as many parameters.\n\n"
        f"{table(found)}\n"
        f"The test split's own pairs of bytes have {bigram:.3f} bits per byte. With one row an "
        "automaton reads only the last byte, and cannot have less.\n\n"
        "![bits per byte against rows](rows.png)\n\n"
        "Beside the baselines on the test split:\n\n"
        f"{compared(corpus, found.means(), 'test', cache)}\n"
    )
    (outdir / "report.md").write_text(text)
    return text


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    args = parse(
        argv[1:],
        "python -m flaxae.models.byte_lm.automaton_report",
        "Train automata of 1 to 256 rows and RNNs of equal size, and write a report.",
    )
    space = read_space(CONFIG)
    presets = ("quick", "rnn_quick") if args.quick else ("full", "rnn")
    bases = [space["get_config"](preset) for preset in presets]
    all_variants = [space["variants"](preset) for preset in presets]
    wanted = chosen(all_variants[0] | all_variants[1], args.only)
    keep_programs(args.workdir / "programs")
    for base, of_base in zip(bases, all_variants, strict=True):
        variants = {name: one for name, one in of_base.items() if name in wanted}
        if not Experiment(base, variants, args.record).train(args.workdir):
            return 75
    found = Found(
        *(Experiment(*pair, args.record) for pair in zip(bases, all_variants, strict=True))
    )
    corpus = bases[0].task.make(bases[0]).corpus
    note = QUICK if args.quick else ""
    print(write(found, corpus, args.workdir, user_path(bases[0].data.cache), note))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
