"""Verdicts on the hypotheses of the original experiment, from the rows of finished runs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxae.measures import stats
from flaxae.measures.claims import verdict

Numbers = dict[str, Any]


def auroc(rows: dict[str, Any], start: str, has: str = "", without: str = "only") -> float:
    """Return the mean AUROC over the evaluated sets of the first row of a name; nan if none.

    Args:
        rows: "answers" or "probes" of `report.measure_run`.
        start: beginning of the row's name.
        has: a part of its name.
        without: a text that is not in its name; "only" is in those of affirmative statements only.
    """
    for name, sets in rows.items():
        if name.startswith(start) and has in name and without not in name:
            values = [x["auroc"]["value"] for x in sets.values()]
            return float(np.mean([np.nan if v is None else v for v in values]))
    return float("nan")


# Claim -> the difference of mean AUROCs that it says is above 0.
CLAIMS: dict[str, Callable[[Numbers], float]] = {
    "H1: a probe of the adapter's states beats the adapter's own answer": lambda n: (
        auroc(n["probes"], "logistic (adapter, resid_out") - auroc(n["answers"], "adapter answer")
    ),
    "H2: the adapter's states beat the base's": lambda n: (
        auroc(n["probes"], "logistic (adapter, resid_out")
        - auroc(n["probes"], "logistic (base, resid_out")
    ),
    "H2b: both together beat the base's": lambda n: (
        auroc(n["probes"], "logistic (both, resid_out")
        - auroc(n["probes"], "logistic (base, resid_out")
    ),
    "H3: IA3's importance as weights helps": lambda n: (
        auroc(n["probes"], "weighted") - auroc(n["probes"], "logistic (adapter, mlp_post")
    ),
    "H3b: the most important tenth of the features is better than all": lambda n: (
        auroc(n["probes"], "selected") - auroc(n["probes"], "logistic (adapter, mlp_post")
    ),
    "H4: a dictionary's latents beat the states": lambda n: (
        auroc(n["probes"], "sae (adapter") - auroc(n["probes"], "logistic (adapter, resid_out")
    ),
    "A probe of the adapter's states beats the decoded dummy": lambda n: (
        auroc(n["probes"], "logistic (adapter, resid_out") - auroc(n["answers"], "dummy")
    ),
}


def of_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the verdicts, for `measures.claims.claims_table`.

    The interval is over seeds: a seed's difference is the mean over its interventions, so that
    runs of one seed, which share examples and the base's states, count once.

    Args:
        rows: rows of the record, with "seed" and "numbers".
    """
    out = []
    for claim, difference in CLAIMS.items():
        by_seed: dict[int, list[float]] = {}
        for row in rows:
            by_seed.setdefault(row["seed"], []).append(difference(row["numbers"]))
        found = stats.t_interval([float(np.mean(values)) for values in by_seed.values()])
        out.append(
            {
                "claim": claim,
                "difference": found.value,
                "low": found.low,
                "high": found.high,
                "bound": 0.0,
                "below": False,
                "verdict": verdict(found.low, found.high, 0.0, below=False),
            }
        )
    return out
