"""Report: noisy linear regression (standard deviation .1) against ridge, the optimal estimator.

    python -m flaxae.sweep --config=configs/looped/report_noisy.py --workdir=runs/looped_report

Errors are against the noisy y, divided by d. `:quick` takes minutes and marks its results as quick.
Results are in docs/families/looped.md.
"""

from configs.looped import shared
from flaxae.models.looped.report import Experiment
from flaxae.models.looped.verdicts import Claim

LOOPED, PASS = "noisy, b=20 T=5", "noisy, one pass, L=12"

EXPERIMENT = Experiment(
    title="Noisy linear regression",
    base=shared.base,
    runs=lambda quick: shared.pick([LOOPED, PASS], quick),
    measures=("loops",),
    columns={
        "after b": "loops.error",
        "after 60": "loops.error_60",
        "ridge": "loops.baselines.ridge",
        "least squares": "loops.baselines.least squares",
        "3 nearest": "loops.baselines.3 nearest",
    },
    claims=(
        Claim(
            "looped is not below ridge",
            (LOOPED, "loops.error"),
            (LOOPED, "loops.baselines.ridge"),
            1.0,
            below=False,
        ),
        Claim(
            "looped is below 3 nearest",
            (LOOPED, "loops.error"),
            (LOOPED, "loops.baselines.3 nearest"),
        ),
    ),
    figures={"by_loop": (LOOPED,), "learning_curves": ()},
)
get_config, get_runs, finish = EXPERIMENT.get_config, EXPERIMENT.get_runs, EXPERIMENT.finish
