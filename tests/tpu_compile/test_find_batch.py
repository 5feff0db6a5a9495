"""The search for the largest batch, over a compiler that is made up."""

import dataclasses
from typing import Any

import pytest

from flaxae.config import Config, DataConfig
from flaxae.tpu_compile import DoesNotFit, find_batch, program
from flaxae.tpu_compile.chips import chip_of


@dataclasses.dataclass
class FakeReport:
    rows_a_chip: int
    hbm_bytes: float = 2.0**30
    argument_bytes: float = 2.0**30


@pytest.fixture
def compiler(monkeypatch):
    """Eight devices; batches above `limit` rows a device do not fit; `tried` has all of them.

    Memory is not told apart unless `memory` (rows -> bytes) says how much it is.
    """

    class Compiler:
        limit, tried = 100, []
        memory: Any = None

    def analyse(config: Config, name: str, **_: Any) -> FakeReport:
        rows = config.data.batch_size // 8
        Compiler.tried.append(rows)
        needed = Compiler.memory(rows) if Compiler.memory else None
        if rows > Compiler.limit:
            raise DoesNotFit("RESOURCE_EXHAUSTED", needed)
        if needed:
            return FakeReport(rows, needed, Compiler.memory(0))
        return FakeReport(rows)

    Compiler.tried = []
    monkeypatch.setattr(program, "topology", lambda name, slices=1: [None] * 8)
    monkeypatch.setattr(program, "analyse", analyse)
    return Compiler


def config(rows: int, **kwargs: Any) -> Config:
    return Config(data=DataConfig(batch_size=8 * rows, num_buckets=4), **kwargs)


@pytest.mark.parametrize("start", [4, 64, 96, 512])
def test_it_ends_within_an_eighth_of_the_limit(compiler, start):
    found = find_batch(config(start), "v5e:2x4")
    assert 7 / 8 * compiler.limit <= found.rows_a_chip <= compiler.limit
    assert found.rows_a_chip % 4 == 0
    assert len(compiler.tried) == len(set(compiler.tried)) <= 9


@pytest.mark.parametrize(("start", "power"), [(4, 1.0), (64, 1.0), (512, 1.0), (8, 1.3), (8, 0.7)])
def test_memory_that_grows_with_the_rows_is_followed(compiler, start, power):
    chip, limit = chip_of("v5e:2x4").hbm, 301
    compiler.limit = limit
    compiler.memory = lambda rows: chip * (0.1 + 0.9 * (rows / limit) ** power)
    found = find_batch(config(start), "v5e:2x4")
    assert 7 / 8 * limit <= found.rows_a_chip <= limit
    assert len(compiler.tried) <= (4 if power == 1 else 6)


def test_memory_that_stays_below_the_limit_is_followed_by_steps(compiler):
    """As where the compiler computes again what it has no room for."""
    chip, compiler.limit = chip_of("v5e:2x4").hbm, 330
    compiler.memory = lambda rows: chip * min(0.1 + 0.8 * rows / 290, 0.91 + rows * 1e-6)
    found = find_batch(config(288), "v5e:2x4")
    assert 7 / 8 * 330 <= found.rows_a_chip <= 330
    assert len(compiler.tried) <= 5


def test_micro_batches_divide_it(compiler):
    found = find_batch(config(24, accumulate=3), "v5e:2x4")
    assert found.rows_a_chip % 12 == 0 and 84 <= found.rows_a_chip <= 100


def test_where_nothing_fits_the_compiler_is_quoted(compiler):
    compiler.limit = 0
    with pytest.raises(DoesNotFit, match="RESOURCE_EXHAUSTED"):
        find_batch(config(16), "v5e:2x4")
    assert compiler.tried[-1] == 4


def test_what_the_compiler_says_of_memory_is_read():
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.25G of 15.75G hbm."
    found = program.out_of_memory(RuntimeError(text))
    assert found is not None and found.needed == 17.25 * 2**30
    text = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
    text += " temporaries (16.58G) exceeds available HBM (15.75G)."
    found = program.out_of_memory(RuntimeError(text))
    assert found is not None and found.needed == 16.58 * 2**30
    found = program.out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: of something"))
    assert found is not None and found.needed is None
    assert program.out_of_memory(RuntimeError("INTERNAL: something else")) is None


def test_chips_have_their_peaks():
    chip = chip_of("v5e:16x16")
    assert (chip.flops, chip.hbm) == (197e12, 16 * 2**30)
