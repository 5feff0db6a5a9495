"""Full-size programs must not need more memory or traffic than their recorded budgets.

`benchmarks/tpu_budgets.py` writes `budgets.json` with the versions. Another compiler needs new
budgets, reviewed by hand.
"""

import json
import runpy
from pathlib import Path

import jax
import pytest

from flaxae import tpu_compile
from flaxae.config import copy_config
from tests.helpers import ROOT

pytestmark = [pytest.mark.tpu, pytest.mark.slow]
BUDGETS = json.loads((Path(__file__).parent / "budgets.json").read_text())
RISE = 1.03


@pytest.mark.parametrize("budget", BUDGETS["programs"], ids=lambda b: b["name"])
def test_a_full_size_program_stays_within_its_budget(budget):
    if jax.__version__ != BUDGETS["jax"]:
        pytest.skip(f"budgets are for jax {BUDGETS['jax']}, this is {jax.__version__}")
    path, _, variant = budget["config"].partition(":")
    config = runpy.run_path(str(ROOT / path))["get_config"](variant)
    overrides = {k: tuple(v) if isinstance(v, list) else v for k, v in budget["overrides"].items()}
    config = copy_config(config, overrides)
    found = tpu_compile.analyse(config, budget["topology"], effort=-1.0)
    for name in ("hbm_bytes", "bytes_accessed"):
        assert getattr(found, name) <= RISE * budget[name], name
    gathers = [m.size for m in found.collectives if m.kind == "all-gather"]
    assert max(gathers) <= budget.get("largest_gather_bytes", float("inf"))
    # Recomputed blocks run their forward pass twice.
    model = getattr(config.task, "t5", None) or getattr(config.task, "model", config.task)
    recomputed = 4 / 3 if model.remat else 1.0
    assert found.flops == pytest.approx(recomputed * found.task_flops, rel=0.15)
