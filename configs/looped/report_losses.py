"""Report: the error after the last loop, by b and T, against single passes.

    python -m flaxae.sweep --config=configs/looped/report_losses.py --workdir=runs/looped_report

If b <= 10, T = 20 equals T = 10 and has no run. `:quick` takes minutes and marks its results as
quick. Results are in docs/families/looped.md.
"""

from configs.looped import shared
from flaxae.models.looped.report import Experiment
from flaxae.models.looped.verdicts import EQUAL_STEPS, Claim

ERROR = "loops.error"


def runs(quick: bool):
    """Return the runs."""
    names = ["b=5", "b=10", "b=20 T=10", "b=20 T=20", "b=25 T=10", "b=25 T=20"]
    names += ["one pass, L=1", "one pass, L=4", "one pass, L=12"]
    return shared.pick(names, quick)


EXPERIMENT = Experiment(
    title="Loops and gradient loops against a single pass",
    base=shared.base,
    runs=runs,
    measures=("loops", "shifts"),
    columns={
        "error after b": ERROR,
        "best over loops": "loops.best",
        "at loop": "loops.best_loop",
        "least squares": "loops.baselines.least squares",
        "averaging": "loops.baselines.averaging",
        "under y * 3": "shifts.y * 3.error",
        "under x * 3": "shifts.x * 3.error",
        "opposite quadrant": "shifts.quadrants.error",
    },
    claims=(
        Claim(
            "looped L=1 (b=20, T=10) is far below one pass of L=1",
            ("b=20 T=10", ERROR),
            ("one pass, L=1", ERROR),
            0.5,
        ),
        Claim(
            "looped L=1 (b=20, T=10) is within a factor 2 of L=12, with 1/12 of its blocks",
            ("b=20 T=10", ERROR),
            ("one pass, L=12", ERROR),
            2.0,
        ),
        Claim(
            "T=20 is no better than T=10 at b=20, after equal steps",
            ("b=20 T=20", EQUAL_STEPS),
            ("b=20 T=10", EQUAL_STEPS),
            0.8,
            below=False,
        ),
        Claim(
            "b=20 (T=10) is better than b=5, after equal steps",
            ("b=20 T=10", EQUAL_STEPS),
            ("b=5", EQUAL_STEPS),
        ),
    ),
    figures={"learning_curves": (), "by_loop": ("b=5", "b=10", "b=20 T=10", "b=25 T=10")},
)
get_config, get_runs, finish = EXPERIMENT.get_config, EXPERIMENT.get_runs, EXPERIMENT.finish
