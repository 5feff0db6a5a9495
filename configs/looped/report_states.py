"""Report: a linear probe of the states for w_OLS, kinds of prompt injection, and early halting.

    python -m flaxae.sweep --config=configs/looped/report_states.py --workdir=runs/looped_report

`:quick` takes minutes and marks its results as quick. Results are in docs/families/looped.md.
"""

from configs.looped import shared
from flaxae.models.looped.report import Experiment
from flaxae.models.looped.verdicts import EQUAL_STEPS, Claim

PLAIN, PASS = "b=20 T=5", "one pass, L=12"
NONE = "no re-injection, b=20 T=5"
OTHERS = ["learned scale, b=20 T=5", "linear, b=20 T=5", "multiply, b=20 T=5"]

EXPERIMENT = Experiment(
    title="States, injections, halting",
    base=shared.base,
    runs=lambda quick: shared.pick([PLAIN, *OTHERS, NONE, PASS], quick),
    measures=("loops", "probes", "halting"),
    columns={
        "after b": "loops.error",
        "after 60": "loops.error_60",
        "probe, first": "probes.first",
        "probe, best": "probes.best",
        "at depth": "probes.best_depth",
        "probe, last": "probes.last",
        "halting, at most b/2 loops": "halting.error_at_half",
    },
    claims=(
        Claim(
            "the looped model's probe improves over the loops",
            (PLAIN, "probes.last"),
            (PLAIN, "probes.first"),
            0.8,
        ),
        Claim(
            "L=12's probe is best before its last layer",
            (PASS, "probes.best"),
            (PASS, "probes.last"),
            0.9,
        ),
        Claim(
            "without re-injection it learns less than with it",
            (NONE, "loops.error"),
            (PLAIN, "loops.error"),
            1.5,
            below=False,
        ),
        Claim(
            "a learned scale is better than plain addition, after equal steps",
            (OTHERS[0], EQUAL_STEPS),
            (PLAIN, EQUAL_STEPS),
        ),
        Claim(
            "halting keeps the error within 5 % at half the loops",
            (PLAIN, "halting.error_at_half"),
            (PLAIN, "halting.whole"),
            1.05,
        ),
    ),
    figures={"by_depth": (PLAIN, PASS), "by_halting": (PLAIN, OTHERS[0]), "by_loop": ()},
)
get_config, get_runs, finish = EXPERIMENT.get_config, EXPERIMENT.get_runs, EXPERIMENT.finish
