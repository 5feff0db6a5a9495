"""Report: L = 1, 2 and 4 layers in the loop, for several b and T.

    python -m flaxae.sweep --config=configs/looped/report_layers.py --workdir=runs/looped_report

It measures the drift of the error after b loops and the step at which the plateau is left.
`:quick` takes minutes and marks its results as quick. Results are in docs/families/looped.md.
"""

from configs.looped import shared
from flaxae.models.looped.report import Experiment
from flaxae.models.looped.verdicts import Claim

NAMES = [
    *("b=10 T=5", "L=2 b=10 T=5", "L=4 b=10 T=5"),
    *("b=10", "L=2 b=10 T=10", "L=4 b=10 T=10"),
    *("b=20 T=5", "L=2 b=20 T=5", "L=4 b=20 T=5"),
]
PLATEAU = "curve.plateau_step"
DRIFT = "loops.error_60 over loops.error"


def runs(quick: bool):
    """Return the runs; L=1 is the longer run of other tables, so that it is trained once."""
    return shared.pick(NAMES, quick)


EXPERIMENT = Experiment(
    title="Layers in the loop",
    base=shared.base,
    runs=runs,
    measures=("loops",),
    columns={
        "after b": "loops.error",
        "after 60": "loops.error_60",
        "after 60 / after b": DRIFT,
        "best": "loops.best",
        "plateau left at step": PLATEAU,
    },
    claims=(
        Claim(
            "L=4 drifts less than L=1 by 60 loops (b=10, T=5)",
            ("L=4 b=10 T=5", DRIFT),
            ("b=10 T=5", DRIFT),
        ),
        Claim(
            "L=4 drifts less than L=1 by 60 loops (b=10, T=10)",
            ("L=4 b=10 T=10", DRIFT),
            ("b=10", DRIFT),
        ),
        Claim(
            "L=4 leaves the plateau later than L=1 (b=10, T=5)",
            ("L=4 b=10 T=5", PLATEAU),
            ("b=10 T=5", PLATEAU),
            below=False,
        ),
        Claim(
            "L=4 leaves the plateau later than L=1 (b=20, T=5)",
            ("L=4 b=20 T=5", PLATEAU),
            ("b=20 T=5", PLATEAU),
            below=False,
        ),
    ),
    figures={"learning_curves": (), "by_loop": ()},
)
get_config, get_runs, finish = EXPERIMENT.get_config, EXPERIMENT.get_runs, EXPERIMENT.finish
