"""Report: the error after more loops than b, the number of loops in training.

    python -m flaxae.sweep --config=configs/looped/report_past_b.py --workdir=runs/looped_report

`:quick` takes minutes and marks its results as quick. Results are in docs/families/looped.md.
"""

from configs.looped import shared
from flaxae.models.looped.report import Experiment
from flaxae.models.looped.verdicts import Claim

NAMES = ["b=5", "b=10", "b=10 T=5", "b=20 T=5", "b=20 T=10", "b=25 T=10"]
NAMES += ["b random about 20, T=5"]


def drift(run: str, loops: str = "error_60") -> tuple[tuple[str, str], tuple[str, str]]:
    """Return (run, measure) after more loops and after b."""
    return (run, f"loops.{loops}"), (run, "loops.error")


EXPERIMENT = Experiment(
    title="Looping on past the loops of training",
    base=shared.base,
    runs=lambda quick: shared.pick(NAMES, quick),
    measures=("loops",),
    columns={
        "after b": "loops.error",
        "after 60": "loops.error_60",
        "after 60 / after b": "loops.error_60 over loops.error",
        "after 3 b": "loops.error_3b",
        "after 100": "loops.by_loop.99",
        "best": "loops.best",
        "at loop": "loops.best_loop",
    },
    claims=(
        Claim("b=5 (T >= b) drifts by 60 loops", *drift("b=5"), 2.0, below=False),
        Claim("b=10 with T=b drifts by 60 loops", *drift("b=10"), 1.2, below=False),
        Claim("b=20 T=5 is flat to 60 loops", *drift("b=20 T=5"), 1.1),
        Claim("err(3b) / err(b) of b=20 T=5", *drift("b=20 T=5", "error_3b"), 1.05),
        Claim("b random about 20 is flat to 60 loops", *drift("b random about 20, T=5"), 1.1),
    ),
    figures={"by_loop": (), "learning_curves": ()},
)
get_config, get_runs, finish = EXPERIMENT.get_config, EXPERIMENT.get_runs, EXPERIMENT.finish
