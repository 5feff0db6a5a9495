"""Keys of the runs of benchmarks/sae_synthetic.py."""

import json
import sys

import pytest

from benchmarks import sae_synthetic
from flaxae.config import Config


@pytest.fixture(autouse=True)
def plain_configs(monkeypatch):
    """Make configs without SAELens, beside which the benchmark runs."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sae_synthetic, "config_of", lambda *_: Config())


@pytest.mark.parametrize("name", ["COUNT", "WIDTH", "ACTIVE", "ROWS", "HELD_OUT"])
def test_runs_of_other_data_have_another_key(name, monkeypatch):
    key = sae_synthetic.key_of("flaxae", "topk", 0)
    monkeypatch.setattr(sae_synthetic, name, getattr(sae_synthetic, name) + 1)
    assert sae_synthetic.key_of("flaxae", "topk", 0) != key


def test_committed_rows_have_keys_of_the_present_sizes():
    prefix = sae_synthetic.key_of("flaxae", "topk", 0).rpartition("/")[0]
    rows = [json.loads(line) for line in sae_synthetic.RECORD.read_text().splitlines()]
    assert rows and all(row["run"].startswith(prefix) for row in rows if "flaxae/" in row["run"])
