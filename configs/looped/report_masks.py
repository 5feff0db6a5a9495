"""Report: which tokens' states must be passed on between loops (first n, last n, query).

    python -m flaxae.sweep --config=configs/looped/report_masks.py --workdir=runs/looped_report

The prompt is complete at every loop; n counts the 2 points - 1 tokens up to the query. It trains no
run of its own, but measures runs of the other tables. `:quick` takes minutes and marks its results
as quick. Results are in docs/families/looped.md.
"""

from configs.looped import shared
from flaxae.models.looped.report import Experiment
from flaxae.models.looped.verdicts import Claim

NAMES = ["b=20 T=5", "b=20 T=10"]


def claims(run: str) -> tuple[Claim, ...]:
    """Return the claims about a run."""

    def ratio(text: str, top: str, bottom: str, bound: float, below: bool = False) -> Claim:
        ends = (run, f"masks.{top}"), (run, f"masks.{bottom}")
        return Claim(f"{run}: {text}", *ends, bound, below)

    return (
        ratio("keeping half, the first, is worse than all", "first_half", "whole", 1.5),
        ratio("keeping half, the last, is worse than all", "last_half", "whole", 1.5),
        ratio(
            "the query's own state repairs the first half",
            "first_and_query_half",
            "first_half",
            0.8,
            below=True,
        ),
        ratio("3 b loops do not repair the first half", "first_half_3b", "first_half", 0.8),
        ratio("3 b loops do not repair the last half", "last_half_3b", "last_half", 0.8),
    )


EXPERIMENT = Experiment(
    title="States masked between loops",
    base=shared.base,
    runs=lambda quick: shared.pick(NAMES, quick),
    measures=("masks",),
    columns={
        "all carried": "masks.whole",
        "one loop (n = 0)": "masks.one_loop",
        "n": "masks.half_count",
        "first n": "masks.first_half",
        "first n, 3 b loops": "masks.first_half_3b",
        "first n and query": "masks.first_and_query_half",
        "last n": "masks.last_half",
        "last n, 3 b loops": "masks.last_half_3b",
    },
    claims=tuple(claim for run in NAMES for claim in claims(run)),
    figures={"by_kept_tokens": ()},
)
get_config, get_runs, finish = EXPERIMENT.get_config, EXPERIMENT.get_runs, EXPERIMENT.finish
