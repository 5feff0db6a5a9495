"""The search for the largest batch, with a simulated compiler."""

import dataclasses
import os
from typing import Any

import pytest
from jax.experimental import topologies

from flaxae.config import Config
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.tpu_compile import DoesNotFit, compiler, find_batch, report
from flaxae.tpu_compile.chips import chip_of


@dataclasses.dataclass
class FakeReport:
    rows_a_chip: int
    hbm_bytes: float = 2.0**30
    argument_bytes: float = 2.0**30


@pytest.fixture
def simulated(monkeypatch):
    """Simulate eight devices, where more than `limit` rows per device do not fit.

    `tried` lists the compiled sizes. Memory is constant unless `memory` maps rows to bytes.
    """

    class Simulated:
        limit, tried = 100, []
        memory: Any = None

    def analyse(config: Config, name: str, **_: Any) -> FakeReport:
        rows = config.data.batch_size // 8
        Simulated.tried.append(rows)
        needed = Simulated.memory(rows) if Simulated.memory else None
        if rows > Simulated.limit:
            raise DoesNotFit("RESOURCE_EXHAUSTED", needed)
        if needed:
            return FakeReport(rows, needed, Simulated.memory(0))
        return FakeReport(rows)

    Simulated.tried = []
    monkeypatch.setattr(compiler, "topology", lambda name, slices=1: [None] * 8)
    monkeypatch.setattr(report, "analyse", analyse)
    return Simulated


def config(rows: int, **kwargs: Any) -> Config:
    return Config(data=TextDataConfig(batch_size=8 * rows, num_buckets=4), **kwargs)


@pytest.mark.parametrize("start", [4, 64, 96, 512])
def test_the_result_is_within_an_eighth_of_the_limit(simulated, start):
    found = find_batch(config(start), "v5e:2x4")
    assert 7 / 8 * simulated.limit <= found.rows_a_chip <= simulated.limit
    assert found.rows_a_chip % 4 == 0
    assert len(simulated.tried) == len(set(simulated.tried)) <= 9


@pytest.mark.parametrize(("start", "power"), [(4, 1.0), (64, 1.0), (512, 1.0), (8, 1.3), (8, 0.7)])
def test_memory_that_grows_with_the_rows_needs_few_compilations(simulated, start, power):
    chip, limit = chip_of("v5e:2x4").hbm, 301
    simulated.limit = limit
    simulated.memory = lambda rows: chip * (0.1 + 0.9 * (rows / limit) ** power)
    found = find_batch(config(start), "v5e:2x4")
    assert 7 / 8 * limit <= found.rows_a_chip <= limit
    assert len(simulated.tried) <= (4 if power == 1 else 6)


def test_memory_that_stays_below_the_limit_needs_few_compilations(simulated):
    """Check memory that stops growing, as if the compiler recomputed what does not fit."""
    chip, simulated.limit = chip_of("v5e:2x4").hbm, 330
    simulated.memory = lambda rows: chip * min(0.1 + 0.8 * rows / 290, 0.91 + rows * 1e-6)
    found = find_batch(config(288), "v5e:2x4")
    assert 7 / 8 * 330 <= found.rows_a_chip <= 330
    assert len(simulated.tried) <= 5


def test_micro_batches_divide_the_batch(simulated):
    found = find_batch(config(24, accumulate=3), "v5e:2x4")
    assert found.rows_a_chip % 12 == 0 and 84 <= found.rows_a_chip <= 100


def test_if_nothing_fits_the_compilers_message_is_raised(simulated):
    simulated.limit = 0
    with pytest.raises(DoesNotFit, match="RESOURCE_EXHAUSTED"):
        find_batch(config(16), "v5e:2x4")
    assert simulated.tried[-1] == 4


def test_needed_memory_is_read_from_the_compilers_message():
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.25G of 15.75G hbm."
    found = compiler.out_of_memory(RuntimeError(text))
    assert found is not None and found.needed == 17.25 * 2**30
    text = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
    text += " temporaries (16.58G) exceeds available HBM (15.75G)."
    found = compiler.out_of_memory(RuntimeError(text))
    assert found is not None and found.needed == 16.58 * 2**30
    found = compiler.out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: of something"))
    assert found is not None and found.needed is None
    for text in ("INTERNAL: something else", "INTERNAL: not RESOURCE_EXHAUSTED: Used 1G of 2G"):
        assert compiler.out_of_memory(RuntimeError(text)) is None


def test_chip_of_a_topology():
    chip = chip_of("v5e:16x16")
    assert (chip.flops, chip.hbm) == (197e12, 16 * 2**30)


def test_a_missing_libtpu_is_named_with_the_way_out(monkeypatch):
    def missing(**options):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="libtpu is missing: make test-tpu installs it"):
        compiler.topology("v5e:2x4")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(ConfigError, match="does not know this slice"):
        compiler.topology("v5e:2x4")
