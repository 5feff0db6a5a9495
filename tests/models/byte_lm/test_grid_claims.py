"""Tests of the grid's effects, the bet and the verdicts, on made-up numbers."""

import math

import numpy as np
import pytest

from flaxae.models.byte_lm.grid_bet import (
    Bet,
    at_equal_time,
    bet_table,
    capped,
    has_diverged,
    reference,
    triple_means,
)
from flaxae.models.byte_lm.grid_cells import Cell, all_cells, fraction, whole_updates
from flaxae.models.byte_lm.grid_claims import effect, effects_table, findings
from flaxae.models.byte_lm.recurrence import Dynamic


def made_up(cell: Cell) -> float:
    """Return bits per byte that are a sum of effects."""
    value = 3.0 - 0.1 * (cell.dynamic is Dynamic.GATED) - 0.3 * cell.same_step
    value += 0.05 * cell.output_gate - 0.2 * (cell.hidden > 0) - 0.1 * (cell.hidden == 256)
    value += {1: 0.1, 2: 0.0, 3: 0.02}[cell.layers] - 0.4 * (cell.states == 256)
    return value + {1: 0.2, 2: 0.0, 4: -0.05}[cell.bptt]


def noisy(cells: list[Cell], scale: float) -> dict[Cell, float]:
    noise = np.random.default_rng(0).normal(size=len(cells))
    return {cell: made_up(cell) + scale * x for cell, x in zip(cells, noise, strict=True)}


@pytest.mark.parametrize("cells", [fraction(), all_cells()], ids=["fraction", "all"])
def test_effects_without_interactions_are_found_exactly(cells):
    bits = noisy(cells, 0.0)
    known = {
        ("layers", 3, 2): 0.02,
        ("dynamic", Dynamic.GATED, Dynamic.TANH): -0.1,
        ("states", 256, 32): -0.4,
        ("hidden", 256, 0): -0.3,
        ("same_step", True, False): -0.3,
        ("output_gate", True, False): 0.05,
        ("bptt", 4, 2): -0.05,
    }
    for (factor, level, other), expected in known.items():
        found = effect(bits, factor, [level], [other])
        assert found.interval.value == pytest.approx(expected, abs=1e-9)
        assert found.interval.low == pytest.approx(expected, abs=1e-6)
        paired = factor == "bptt" or len(cells) == 648
        assert bool(found.pairs) == paired
    assert effect(bits, "dynamic", [Dynamic.GATED], [Dynamic.TANH]).pairs in (0, 72)


def test_intervals_contain_effects_and_verdicts_follow_them():
    for cells in (fraction(), all_cells()):
        bits = noisy(cells, 0.02)
        found = effect(bits, "same_step", [True], [False]).interval
        assert found.low < -0.3 < found.high and found.high - found.low < 0.1
        verdicts = [line.split("**")[1] for line in findings(bits).splitlines() if "**" in line]
        assert verdicts == ["confirmed"] * 5
        assert "| same_step | true | false |" in effects_table(bits)


def test_pairs_that_share_a_cell_are_one_row():
    cells = [cell for cell in all_cells() if cell.layers == 1 and cell.hidden == 32]
    noise = np.random.default_rng(0).normal(size=len(cells))  # of tanh cells: in two pairs each
    bits = {
        cell: made_up(cell) + x * (cell.dynamic is Dynamic.TANH)
        for cell, x in zip(cells, noise, strict=True)
    }
    both = effect(bits, "dynamic", [Dynamic.GATED, Dynamic.DOUBLY_GATED], [Dynamic.TANH])
    one = effect(bits, "dynamic", [Dynamic.GATED], [Dynamic.TANH])
    assert both.pairs == one.pairs == 8
    assert both.interval.value == pytest.approx(one.interval.value + 0.05)
    widths = [found.interval.high - found.interval.low for found in (both, one)]
    assert widths[0] == pytest.approx(widths[1])


def test_the_bet_is_won_lost_or_open():
    cells = fraction()
    assert Bet.of(noisy(cells, 0.01)).outcome == "lost"  # k = 4 is better
    best = {cell: made_up(cell) + 0.1 * (cell.bptt == 4) for cell in cells}
    assert Bet.of(best).outcome == "won" and Bet.of(best).triples == 24
    level = {cell: made_up(cell) - {1: 0.2, 2: 0.0, 4: -0.05}[cell.bptt] for cell in cells}
    noise = np.random.default_rng(0).normal(size=len(cells))
    level = {cell: x + 0.1 * e for (cell, x), e in zip(level.items(), noise, strict=True)}
    assert Bet.of(level).outcome == "open"
    del best[cells[0]]
    assert len(triple_means(best)) == 23
    assert "| nothing | 0 |" in bet_table({"nothing": {}})


def test_equal_time_reads_slower_cells_off_earlier():
    one = fraction()[0]
    cells = [one._replace(bptt=k) for k in (1, 2, 4)]
    curves = {cell: [(1000 * 2**i, 4.0 * 2 ** (-i / 10)) for i in range(5)] for cell in cells}
    rates = dict(zip(cells, (400.0, 200.0, 100.0), strict=True))
    found = at_equal_time(curves, rates.get)
    expected = [4.0 * 2 ** (-i / 10) for i in (4, 3, 2)]
    np.testing.assert_allclose([found[cell] for cell in cells], expected, rtol=1e-6)
    assert at_equal_time(curves, lambda cell: None) == {}


def test_whole_updates_are_compared_outside_of_the_bet():
    bits = noisy(fraction(), 0.01)
    bet = Bet.of(bits)
    assert reference(bits) == ""
    bits |= {cell: made_up(cell._replace(bptt=4)) - 0.1 for cell in whole_updates(fraction())}
    assert "CE(U) - CE(4) = -0.1" in reference(bits) and "over 24 pairs" in reference(bits)
    assert Bet.of(bits) == bet


def test_effects_of_missing_levels_are_not_a_number():
    bits = {cell: made_up(cell) for cell in fraction() if cell.layers == 1}
    assert math.isnan(effect(bits, "layers", [2], [3]).interval.value)
    assert "not measured" in findings(bits)


def test_the_bet_is_also_shown_with_cells_that_diverged():
    bits = {cell: made_up(cell) for cell in fraction()}
    assert capped(bits, []) == ""
    cell = fraction()[1]
    assert cell.bptt == 2
    del bits[cell]
    assert Bet.of(bits).triples == 23
    # 23 triples have -.2, and one 8 bits minus those of k = 1.
    expected = (23 * -0.2 + 8 - bits[fraction()[0]]) / 24
    assert f"CE(1) = {expected:.3f} [" in capped(bits, [cell])
    assert "over 24 triples, lost" in capped(bits, [cell])


def test_a_dynamic_without_numbers_is_left_out():
    bits = {c: made_up(c) for c in fraction() if c.dynamic is not Dynamic.DOUBLY_GATED}
    both = effect(bits, "dynamic", [Dynamic.GATED, Dynamic.DOUBLY_GATED], [Dynamic.TANH])
    assert both.interval.value == pytest.approx(-0.1, abs=1e-9)
    assert "doubly_gated" not in effects_table(bits)
    assert "not measured" not in findings(bits)


def test_worse_than_uniform_is_diverged():
    assert [has_diverged(x) for x in (2.0, 8.0, 8.1, math.inf, math.nan, None)] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]
