"""Every config file is valid; the experiments of the report share their runs."""

import importlib
import math

import jax
import pytest
from flax import nnx

from flaxae.config import config_hash, copy_config, from_json, to_json
from flaxae.models.looped import report
from flaxae.models.looped.figures import FIGURES
from flaxae.models.looped.verdicts import EQUAL_STEPS

FULL = {"linear:full": 0.82, "sparse": 0.82, "tree": 0.85, "relu": 0.85}
EXPERIMENTS = ["layers", "losses", "masks", "noisy", "past_b", "schedule", "states"]


def module(name):
    return importlib.import_module(f"configs.looped.{name}")


@pytest.mark.parametrize("name", FULL)
def test_full_configs_have_their_number_of_parameters(name):
    file, _, preset = name.partition(":")
    config = module(file).get_config(*[preset] * bool(preset))
    config.freeze()
    assert to_json(from_json(to_json(config))) == to_json(config)
    task = config.task.make(config)
    state = nnx.split(nnx.eval_shape(lambda: task.init(nnx.Rngs(0))))[1]
    millions = sum(math.prod(x.shape) for x in jax.tree.leaves(state)) / 1e6
    assert millions == pytest.approx(FULL[name], rel=0.03)
    assert (config.steps, config.task.model.dims, config.task.model.width) == (500_000, 20, 256)
    assert "not measured" in module(file).__doc__.lower()


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("preset", ["", "quick"])
def test_experiments_refer_to_their_runs_and_measures(name, preset):
    experiment = module(f"report_{name}").EXPERIMENT
    names = set(experiment.runs(preset == "quick"))
    for overrides in experiment.get_runs(preset):
        copy_config(experiment.get_config(preset), overrides).freeze()
    assert len(experiment.seeds) >= 3
    for claim in experiment.claims:
        assert {claim.top[0], claim.bottom[0]} <= names
        paths = {claim.top[1], claim.bottom[1]} - {EQUAL_STEPS}
        assert {path.split(".")[0] for path in paths} <= {*experiment.measures, "curve"}
    for figure, shown in experiment.figures.items():
        assert FIGURES[figure][1] in (*experiment.measures, "curve") and set(shown) <= names


def test_experiments_share_runs():
    hashes = {}
    for name in EXPERIMENTS:
        experiment = module(f"report_{name}").EXPERIMENT
        for overrides in experiment.get_runs():
            run = config_hash(copy_config(experiment.get_config(), overrides))
            hashes.setdefault(run, set()).add(name)
    asked = sum(len(x) for x in hashes.values())
    assert len(hashes) == 3 * len(module("shared").RUNS) and asked > len(hashes)


def test_the_runs_of_the_report_fit_two_hours_by_their_cost():
    shared = module("shared")
    looped = ["b=5", "b=10", "b=10 T=5", "b=20 T=5", "b=20 T=10", "no re-injection, b=20 T=5"]
    for name in (*looped, "one pass, L=1", "one pass, L=4"):
        assert shared.RUNS[name]["steps"] == 6000
    quick = shared.pick(["b=5", "b=20 T=20"], True)
    assert [run["steps"] for run in quick.values()] == [1000, 660]
    assert report.passes(shared.RUNS["L=2 b=20 T=5"]) == 2000 * 2 * 35
    # 3 seeds, two runs at a time: .9 ms per pass on one core, measured on a slow machine.
    seconds = 3 * 0.9e-3 / 2 * sum(map(report.passes, shared.RUNS.values()))
    assert seconds < 2 * 3600
