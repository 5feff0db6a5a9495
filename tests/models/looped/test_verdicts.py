"""Intervals and verdicts for numbers with known answers."""

import math

import numpy as np
import pytest
from scipy import stats

from flaxae.measures.claims import claims_table, look_up
from flaxae.models.looped.verdicts import (
    EQUAL_STEPS,
    Claim,
    at_step,
    cell,
    mean_interval,
    ratio_interval,
)


def test_mean_intervals_are_t_intervals_of_logarithms():
    values = [0.1, 0.2, 0.15]
    logs = np.log(values)
    expected = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(np.exp(logs.mean()))
    assert (low, high) == pytest.approx(tuple(np.exp(expected)))


def test_ratio_intervals_are_paired_or_welchs():
    a, b = [0.2, 0.4, 0.8], [0.1, 0.2, 0.4]
    assert ratio_interval(a, b, paired=True) == pytest.approx((2.0, 2.0, 2.0))
    test = stats.ttest_ind(np.log(a), np.log(b), equal_var=False).confidence_interval()
    ratio, low, high = ratio_interval(a, b, paired=False)
    assert ratio == pytest.approx(2.0)
    assert (low, high) == pytest.approx((math.exp(test.low), math.exp(test.high)))


def verdict_of(top, bottom, **options):
    results = {"a": [{"m": {"x": x}} for x in top], "b": [{"m": {"x": x}} for x in bottom]}
    return Claim("c", ("a", "m.x"), ("b", "m.x"), **options).evaluate(results)["verdict"]


def test_a_verdict_depends_on_the_bound_and_the_interval():
    low, high = [0.10, 0.11, 0.12], [1.0, 1.1, 1.2]
    assert verdict_of(low, high) == "confirmed"
    assert verdict_of(high, low) == "refuted"
    assert verdict_of(high, low, below=False) == "confirmed"
    assert verdict_of(low, high, below=False) == "refuted"
    assert verdict_of([0.1, 1.0, 3.0], high) == "unclear"
    assert verdict_of(low, high, bound=0.1) == "unclear"
    # If a seed has no such number (the plateau was never left), the verdict is unclear.
    assert verdict_of([0.1, 0.1, None], high) == "unclear"
    assert verdict_of([0.1], [1.0]) == "unclear"


def test_runs_of_unequal_length_are_compared_after_equal_steps():
    steps = list(range(10, 210, 10))
    long = {"steps": steps, "error": [1.0] * 10 + [0.1] * 10, "trained": 200}
    short = {"steps": steps[:10], "error": [0.5] * 10, "trained": 100}
    assert at_step(long, 100) == 1.0 and at_step(long, 200) == pytest.approx(0.1)
    assert math.isnan(at_step(short | {"steps": [], "error": []}, 100))
    results = {"a": [{"curve": long}] * 2, "b": [{"curve": short}] * 2}
    row = Claim("c", ("a", EQUAL_STEPS), ("b", EQUAL_STEPS)).evaluate(results)
    # At its end the longer run is better; after 100 steps it is worse.
    assert row["ratio"] == pytest.approx(2.0) and row["verdict"] == "refuted"


def test_paths_look_up_numbers_and_cells_format_them():
    found = {"loops": {"by_loop": [1.0, 0.5], "none": None}}
    assert look_up(found, "loops.by_loop.1") == 0.5
    assert look_up(found, "loops.by_loop.0 over loops.by_loop.1") == 2.0
    assert math.isnan(look_up(found, "loops.by_loop.9"))
    assert all(math.isnan(look_up(found, p)) for p in ("loops.none", "loops.x", "y"))
    assert cell([0.5]) == "0.5" and cell([math.nan]) == "-"
    assert cell([100.0, math.nan]) == "100 (1 never)"
    assert cell([0.5, 0.5]) == "0.5 [0.5, 0.5]"
    row = Claim("less", ("a", "m.x"), ("b", "m.x")).evaluate(
        {"a": [{"m": {"x": 1.0}}] * 2, "b": [{"m": {"x": 2.0}}] * 2}
    )
    assert "| less | 0.5 [0.5, 0.5] | < 1 | **confirmed** |" in claims_table([row])
