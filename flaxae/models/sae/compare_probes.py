"""A comparison of dictionaries by probes: `python -m flaxae.models.sae.compare_probes RUN RUN ...`.

The runs have read the same states, and differ for example in `task.importance`. Probes of their
outputs and of few latents judge statements on cities, and every run is compared with the first one
on the same statements.
"""

import argparse
import sys
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.command import run_main
from flaxae.config.locate import user_path
from flaxae.config.ranges import COUNT, ranged
from flaxae.errors import require
from flaxae.measures.stats import auroc, bootstrap_indices
from flaxae.models.sae import evaluation, probing, states
from flaxae.models.sae.options import QUANTISED
from flaxae.training.load import load


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.sae.compare_probes",
        description="Compare trained dictionaries by probes of their outputs and of few latents, "
        "with and without the features' importance (task.importance).",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdirs, the baseline first")
    facts = ranged("--facts", int, COUNT)
    parser.add_argument(
        "--facts", type=facts, default=probing.FACTS, help="facts on cities (default: %(default)s)"
    )
    args = parser.parse_args(argv[1:])
    print(compare({run: load(user_path(run)) for run in args.runs}, args.facts))
    return 0


def compare(runs: dict[str, Any], facts: int = probing.FACTS) -> str:
    """Return a table of the AUROC of probes.

    Args:
        runs: name -> opened run, the baseline first.
        facts: number of facts on cities, each with a true and a false statement.

    Raises:
        ConfigError: if the runs have read different states or have different importances, or one
            of them has no latents.
    """
    tasks = [loaded.task for loaded in runs.values()]
    source, options = tasks[0].source, tasks[0].options
    for name, task in zip(runs, tasks, strict=True):
        own = task.options
        require(
            own.architecture not in QUANTISED,
            f"{name}: {own.architecture.value} has codes, and no latents to probe",
        )
        require(
            _states(task) == _states(tasks[0]),
            f"{name} has read other states than {next(iter(runs))}: {_states(task)}, "
            f"{_states(tasks[0])}",
        )
    given = [task.importance for task in tasks if task.importance is not None]
    require(
        all(np.array_equal(x, given[0]) for x in given),
        "the runs have different task.importance: compare those of one importance at a time",
    )
    importance = given[0] if given else None
    hook, layers = options.hook, options.layers or (options.layer,)
    data = probing.city_states(source, hook, layers, facts)
    rows: list[tuple[str, str, str, dict[str, np.ndarray]]] = []
    for (name, loaded), task in zip(runs.items(), tasks, strict=True):
        found = evaluation.encoded(loaded, data.states[hook], importance)
        trained = "no" if task.importance is None else "yes"
        for weighted in (False, True) if given else (False,):
            scores = data.probe_scores(found, weighted=weighted)
            rows.append((name, trained, "yes" if weighted else "no", scores))
    columns = list(rows[0][-1])
    lines = [
        f"AUROC of a regression on the states: {data.dense(hook):.3f}",
        "",
        f"| run | trained with importance | probed with importance | {' | '.join(columns)} |",
        "|---" * (3 + len(columns)) + "|",
    ]
    labels = data.labels[data.cut :]
    for i, (*names, scores) in enumerate(rows):
        cells = [
            _cell(scores[column], rows[0][-1][column] if i else None, labels) for column in columns
        ]
        lines.append(f"| {' | '.join([*names, *cells])} |")
    lines += ["", "In brackets: difference to the first row, with its 95 % interval over facts."]
    return "\n".join(lines)


def _states(task: Any) -> tuple[str, str, tuple[int, ...]]:
    """Return the model, hook and layers of the states that a run has read."""
    options = task.options
    layers = options.layers or (options.layer,)
    return states.mark_of(task.source, options), options.hook, tuple(layers)


def _cell(
    scores: Float[np.ndarray, "M"],
    baseline: Float[np.ndarray, "M"] | None,
    labels: np.ndarray,
) -> str:
    """Return an AUROC, and its difference to a baseline's with a paired interval over facts."""
    value = f"{auroc(scores, labels):.3f}"
    if baseline is None:
        return value

    def difference(facts: Int[np.ndarray, " n"]) -> float:
        at = np.concatenate([2 * facts, 2 * facts + 1])  # both statements of each fact
        return auroc(scores[at], labels[at]) - auroc(baseline[at], labels[at])

    found = bootstrap_indices(len(labels) // 2, difference, draws=1000)
    return f"{value} ({found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}])"


if __name__ == "__main__":
    sys.exit(run_main(main))
