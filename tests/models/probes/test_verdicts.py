"""Verdicts come from differences of mean AUROCs, with intervals over seeds."""

import runpy

import pytest

from flaxae.config import config_hash
from flaxae.measures.claims import claims_table
from flaxae.models.probes import verdicts


def row(seed, adapter, base, answer):
    def sets(value):
        return {"test a": {"auroc": {"value": value}}, "ood b": {"auroc": {"value": value}}}

    return {
        "seed": seed,
        "numbers": {
            "answers": {"adapter answer": sets(answer), "dummy, decoded (y = 1.00)": sets(0.5)},
            "probes": {
                "logistic (base, resid_out 5, affirmative only)": sets(0.1),
                "logistic (base, resid_out 5)": sets(base),
                "logistic (adapter, resid_out 5)": sets(adapter),
            },
        },
    }


def test_claims_are_confirmed_refuted_or_unclear():
    rows = [row(i, 0.9 + 0.01 * i, 0.95 + 0.01 * i + 0.001 * i, 0.6) for i in range(3)]
    found = {x["claim"][:3]: x for x in verdicts.of_rows(rows)}
    assert found["H1:"]["verdict"] == "confirmed"
    assert found["H1:"]["difference"] == pytest.approx(0.31)
    assert found["H2:"]["verdict"] == "refuted" and found["H3:"]["verdict"] == "unclear"
    # Runs of one seed count once, so one seed has no interval.
    assert verdicts.of_rows([rows[0], rows[0]])[0]["verdict"] == "unclear"
    assert "**refuted**" in claims_table(list(found.values()), "difference")


def test_runs_of_the_report_have_different_configs():
    space = runpy.run_path("configs/probes/report.py")
    sizes = {("", False): 9, ("", True): 30, ("quick", False): 1}
    for (level, everything), count in sizes.items():
        runs = space["get_runs"](level, everything)
        assert len({config_hash(config) for _, config in runs}) == count
