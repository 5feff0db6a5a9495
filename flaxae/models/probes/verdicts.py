"""Verdicts on the hypotheses of the original experiment, from the rows of finished runs.

A run stores the difference of two rows for each claim, with the error that its examples cause: a
bootstrap over groups, in which both rows see the same examples. The verdict on an intervention
adds the variation between seeds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxae.errors import require
from flaxae.measures.claims import claims_table, verdict
from flaxae.measures.stats import t_quantile

SETS = {"val": "test ", "OOD": "ood "}  # name in a claim -> beginning of the sets' names
Wanted = dict[str, str]


def _logistic(arm: str, hook: str = "resid_out", role: str = "logistic") -> Wanted:
    return {"role": role, "arm": arm, "hook": hook, "polarity": "both"}


_PROBE = _logistic("adapter")
_FEATURES = _logistic("adapter", "mlp_post")
# Claim -> the row whose mean AUROC it says is higher, and the row that it is compared with.
CLAIMS: dict[str, tuple[Wanted, Wanted]] = {
    "H1: a probe of the adapter's states beats the adapter's own answer (sign of the training "
    "rows)": (_PROBE, {"role": "decoded answer", "arm": "adapter"}),
    "H2: the adapter's states beat the base's": (_PROBE, _logistic("base")),
    "H2b: both together beat the base's": (_logistic("both"), _logistic("base")),
    "H3: IA3's importance as weights helps": (_FEATURES | {"role": "weighted"}, _FEATURES),
    "H3b: the most important tenth of the features is better than all": (
        _FEATURES | {"role": "selected"},
        _FEATURES,
    ),
    "H4: a dictionary's latents beat the states of its layer": (
        {"role": "sae", "arm": "adapter", "polarity": "both"},
        {"role": "sae_states", "arm": "adapter", "polarity": "both"},
    ),
    "A probe of the adapter's states beats the decoded dummy": (_PROBE, {"role": "dummy"}),
}


def row_of(
    name: str, role: str, arm: str, hook: str = "", polarity: str = "both"
) -> dict[str, Any]:
    """Return the entries of a row by which claims find it.

    Args:
        name: shown in tables.
        role: kind of the probe, or "answer", "decoded answer", "dummy", "sae", "sae_states".
        arm: "base", "adapter" or "both".
        hook: name of the hidden states.
        polarity: "affirmative": it was fitted on affirmative statements only; else "both".
    """
    return {"name": name, "role": role, "arm": arm, "hook": hook, "polarity": polarity}


def differences(
    rows: Sequence[dict[str, Any]], draws: Sequence[dict[str, np.ndarray]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the difference of AUROCs of each claim whose rows exist.

    Args:
        rows: entries of `row_of`.
        draws: of each row, set -> AUROC of all examples and then of each resample; all rows have
            the same resamples.

    Returns:
        {claim: {"val" or "OOD": {"value", "error"}}}: means over the sets; the error is the
        standard deviation over resamples.

    Raises:
        ConfigError: if two rows match one side of a claim.
    """
    out: dict[str, dict[str, dict[str, float]]] = {}
    for claim, sides in CLAIMS.items():
        found = [[i for i, row in enumerate(rows) if _matches(row, side)] for side in sides]
        for side, places in zip(sides, found, strict=True):
            require(len(places) < 2, f"several rows are {side}: a claim needs one")
        if not all(found):
            continue
        first, second = (draws[places[0]] for places in found)
        for name, start in SETS.items():
            chosen = [s for s in first if s.startswith(start)]
            if chosen:
                gaps = np.mean([first[s] - second[s] for s in chosen], axis=0)
                entry = {"value": float(gaps[0]), "error": float(np.nanstd(gaps[1:]))}
                out.setdefault(claim, {})[name] = entry
    return out


def _matches(row: dict[str, Any], wanted: Wanted) -> bool:
    return all(row[name] == value for name, value in wanted.items())


def of_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the verdicts of each intervention, for `measures.claims.claims_table`.

    The variance is that of the mean over seeds plus that of the examples. All seeds have the same
    examples, so the errors of the examples do not average out. One seed has no interval.

    Args:
        rows: rows of the record, with "variant", "seed" and "numbers".

    Raises:
        ConfigError: if two seeds of an intervention have the same adapter.
    """
    variants: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        variants.setdefault(row["variant"], []).append(row)
    out = []
    for variant, own in variants.items():
        seen: dict[str, int] = {}
        for row in own:
            first = seen.setdefault(row["numbers"]["adapter"], row["seed"])
            require(
                first == row["seed"],
                f"{variant}: seeds {first} and {row['seed']} trained the same adapter, "
                f"{row['numbers']['adapter']}: an interval over them would be too narrow",
            )
        for claim in CLAIMS:
            for name in SETS:
                found = [row["numbers"]["claims"].get(claim, {}).get(name) for row in own]
                kept = [x for x in found if x is not None and x["value"] is not None]
                out.append({"variant": variant} | _verdict(f"{claim}, {name}", kept))
    return out


def _verdict(claim: str, found: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the verdict of the runs that have the rows of a claim."""
    values = np.asarray([x["value"] for x in found], np.float64)
    count = len(values)
    mean = float(values.mean()) if count else float("nan")
    low = high = float("nan")
    if count > 1:
        of_seeds = values.var(ddof=1) / count
        total = of_seeds + np.mean([x["error"] for x in found]) ** 2
        # Degrees of freedom as of Welch and Satterthwaite; the bootstrap's are unlimited.
        freedom = (count - 1) * (total / of_seeds) ** 2 if of_seeds > 0 else np.inf
        half = t_quantile(float(min(freedom, 1e6))) * float(np.sqrt(total))
        low, high = mean - half, mean + half
    word = verdict(low, high, 0.0, below=False) if count else "not measured"
    named = f"{claim} ({count} {'run' if count == 1 else 'runs'})"
    found_at = {"claim": named, "difference": mean, "low": low, "high": high}
    return found_at | {"bound": 0.0, "below": False, "verdict": word}


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return the verdicts as Markdown, one table per intervention.

    Args:
        rows: see `of_rows`.
    """
    found = of_rows(rows)
    parts = [
        "Differences of mean AUROC on the test sets (val) and on the OOD sets. Intervals add the "
        "variation of the examples (paired bootstrap over groups) to that of the seeds.\n"
    ]
    for variant in dict.fromkeys(x["variant"] for x in found):
        own = [x for x in found if x["variant"] == variant]
        parts.append(f"## Verdicts: {variant}\n\n{claims_table(own, 'difference')}")
    return "\n".join(parts)
