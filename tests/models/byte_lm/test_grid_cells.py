"""Tests of the grid's cells and of the balanced fraction."""

import itertools
from collections import Counter

from flaxae.config import Config, DataConfig, config_hash, copy_config
from flaxae.models.byte_lm.grid import GridConfig, count_parameters
from flaxae.models.byte_lm.grid_cells import FACTORS, Cell, all_cells, fraction, quick
from flaxae.models.byte_lm.streams import ByteDataConfig
from flaxae.sweep import group_by_shape


def programs(cells: list[Cell]) -> list[list[int]]:
    data: DataConfig = ByteDataConfig()
    config = Config(task=GridConfig(), data=data)
    return group_by_shape(config, [cell.overrides for cell in cells])


def test_the_grid_has_648_cells_in_54_programs_and_its_corners():
    cells = all_cells()
    assert len(set(map(str, cells))) == len(cells) == 648
    assert [len(lanes) for lanes in programs(cells)] == [12] * 54
    corners = Counter(name for cell in cells for name in cell.corner.split(", "))
    assert (corners["reservoir"], corners["blind"]) == (108, 54)
    sizes = [count_parameters(cell.options) for cell in cells]
    assert (min(sizes), max(sizes)) == (18_720, 2_101_248)


def test_fraction_has_whole_triples_and_balanced_levels():
    cells = fraction()
    assert len(set(cells)) == 72 and set(cells) <= set(all_cells())
    data: DataConfig = ByteDataConfig()
    base = Config(task=GridConfig(), data=data)
    assert len({config_hash(copy_config(base, cell.overrides)) for cell in cells}) == 72
    triples = Counter(cell._replace(bptt=0) for cell in cells)
    assert len(triples) == 24 and set(triples.values()) == {3}
    for name, levels in FACTORS.items():
        assert Counter(getattr(cell, name) for cell in cells) == dict.fromkeys(
            levels, 72 // len(levels)
        )
    uneven = {"layers", "dynamic", "hidden"}  # 12 programs cannot have 9 pairs equally often
    for a, b in itertools.combinations(FACTORS, 2):
        pairs = Counter((getattr(cell, a), getattr(cell, b)) for cell in cells)
        assert len(pairs) == len(FACTORS[a]) * len(FACTORS[b])
        counts = {72 // len(FACTORS[a]) // len(FACTORS[b])}
        assert set(pairs.values()) == ({6, 12} if {a, b} <= uneven else counts)


def test_fraction_costs_a_ninth_and_shares_programs():
    share = sum(cell.cost for cell in fraction()) / sum(cell.cost for cell in all_cells())
    assert abs(share * 9 - 1) < 0.05
    assert [len(lanes) for lanes in programs(fraction())] == [6] * 12
    assert [len(lanes) for lanes in programs(quick())] == [12] * 2
