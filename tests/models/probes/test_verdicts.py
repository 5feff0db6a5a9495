"""Verdicts come from paired differences of AUROCs, with the errors of examples and of seeds."""

import runpy

import numpy as np
import pytest

from flaxae.config import config_hash
from flaxae.errors import ConfigError
from flaxae.models.probes import verdicts

H2 = "H2: the adapter's states beat the base's"


def row(seed, value, error=0.01, adapter="", variant="flip ia3", claims=(H2,)):
    found = {"val": {"value": value, "error": error}, "OOD": {"value": -value, "error": error}}
    numbers = {"claims": dict.fromkeys(claims, found), "adapter": adapter or f"a{seed}"}
    return {"seed": seed, "variant": variant, "numbers": numbers}


def found(rows, variant="flip ia3"):
    return {x["claim"]: x for x in verdicts.of_rows(rows) if x["variant"] == variant}


def test_claims_are_confirmed_refuted_unclear_or_not_measured():
    rows = [row(i, 0.2 + 0.01 * i) for i in range(3)]
    # Runs without the rows of a claim are left out and counted.
    rows.append(row(3, 0.9, claims=()))
    other = [row(i, -0.2, variant="truth ia3", adapter=f"t{i}") for i in range(2)]
    out = found(rows + other)
    val = out[f"{H2}, val (3 runs)"]
    assert val["difference"] == pytest.approx(0.21) and val["verdict"] == "confirmed"
    assert out[f"{H2}, OOD (3 runs)"]["verdict"] == "refuted"
    assert found(rows + other, "truth ia3")[f"{H2}, val (2 runs)"]["verdict"] == "refuted"
    assert [x["verdict"] for name, x in out.items() if name.startswith("H4")] == [
        "not measured",
        "not measured",
    ]
    assert found(rows[:1])[f"{H2}, val (1 run)"]["verdict"] == "unclear"
    assert "**not measured**" in verdicts.tables(rows)


def test_an_interval_contains_the_errors_of_examples():
    narrow, wide = (
        found([row(i, 0.2 + 1e-4 * i, error=error) for i in range(3)])[f"{H2}, val (3 runs)"]
        for error in (1e-9, 0.15)
    )
    assert narrow["verdict"] == "confirmed" and narrow["high"] - narrow["low"] < 1e-3
    # All seeds have the same examples: their error is not divided by the number of seeds.
    assert wide["high"] - wide["low"] == pytest.approx(2 * 1.96 * 0.15, rel=0.01)
    assert wide["verdict"] == "unclear"


def test_seeds_with_one_adapter_are_an_error():
    with pytest.raises(ConfigError, match="seeds 0 and 1 trained the same adapter, same"):
        verdicts.of_rows([row(i, 0.2, adapter="same") for i in range(2)])


def test_differences_are_paired_and_found_by_their_entries():
    rows = [
        verdicts.row_of("logistic (base, affirmative)", "logistic", "base", "resid_out", "x"),
        verdicts.row_of("logistic (base)", "logistic", "base", "resid_out"),
        verdicts.row_of("logistic (adapter)", "logistic", "adapter", "resid_out"),
        verdicts.row_of("logistic (adapter, mlp)", "logistic", "adapter", "mlp_post"),
    ]
    noise = np.random.default_rng(0).normal(size=50)
    values = [9 + noise, 0.5 + noise, 0.6 + noise, 9 + noise]
    draws = [{"test a": x, "test b": x, "ood c": 2 * x} for x in values]
    out = verdicts.differences(rows, draws)
    assert set(out) == {H2}
    assert out[H2]["val"]["value"] == pytest.approx(0.1)
    assert out[H2]["OOD"]["value"] == pytest.approx(0.2)
    assert out[H2]["val"]["error"] < 1e-12  # the noise of the examples is that of both rows
    with pytest.raises(ConfigError, match="a claim needs one"):
        verdicts.differences([*rows, rows[1]], [*draws, draws[1]])


def test_runs_of_the_report_have_different_configs():
    space = runpy.run_path("configs/probes/report.py")
    sizes = {("", False): 9, ("", True): 30, ("quick", False): 1}
    for (level, everything), count in sizes.items():
        runs = space["get_runs"](level, everything)
        assert len({config_hash(config) for _, config in runs}) == count
