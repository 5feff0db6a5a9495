"""Report: b that grows during training or is drawn at random, against fixed b.

    python -m flaxae.sweep --config=configs/looped/report_schedule.py --workdir=runs/looped_report

Growing b starts at 5 loops and increases by two every 100 steps up to 20. `:quick` takes minutes
and marks its results as quick. Results are in docs/families/looped.md.
"""

from configs.looped import shared
from flaxae.models.looped.report import Experiment
from flaxae.models.looped.verdicts import EQUAL_STEPS, Claim

FIXED, GROWING = "b=20 T=5", "b growing to 20, T=5"
NAMES = [FIXED, GROWING, "b random about 20, T=5"]

EXPERIMENT = Experiment(
    title="Growing and random b",
    base=shared.base,
    runs=lambda quick: shared.pick(NAMES, quick),
    measures=("loops",),
    columns={
        "after b": "loops.error",
        "after 60": "loops.error_60",
        "plateau left at step": "curve.plateau_step",
    },
    claims=(
        Claim(
            "growing b gives a lower error than fixed b, after equal steps",
            (GROWING, EQUAL_STEPS),
            (FIXED, EQUAL_STEPS),
        ),
        Claim(
            "growing b leaves the plateau earlier",
            (GROWING, "curve.plateau_step"),
            (FIXED, "curve.plateau_step"),
        ),
    ),
    figures={"learning_curves": (), "by_loop": ()},
)
get_config, get_runs, finish = EXPERIMENT.get_config, EXPERIMENT.get_runs, EXPERIMENT.finish
