"""The autoregressive prior through the real loop, on codes whose density is known."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.models.t5_vae.prior import base as base_lib
from flaxae.models.t5_vae.prior.autoregressive import AutoregressiveConfig, AutoregressiveTask
from flaxae.text_autoencoder.priors import AutoregressivePrior, trained_prior
from flaxae.training.loop import run
from tests.models.t5_vae.prior.test_flow import config_for
from tests.text_autoencoder.priors.planted import CENTRES, WIDTH, PlantedCodes, bumps


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setattr(base_lib, "Codes", PlantedCodes)


def config(**overrides):
    task = AutoregressiveConfig(
        codes_from="planted", width=16, depth=1, heads=2, components=6, scan_unroll=1
    )
    return config_for(task=task, **overrides)


@pytest.mark.slow
def test_it_fits_codes_that_no_gaussian_fits(tmp_path: Path) -> None:
    short = {"steps": 100, "optim__decay_steps": 100, "save__every": 100}
    run(config(optim__lr=2e-2, **short), tmp_path / "w")
    prior = trained_prior(tmp_path / "w")
    assert isinstance(prior, AutoregressivePrior) and prior.latents == 2
    held_out = bumps(1000, seed=7)
    squared = np.square(held_out[:, None] - CENTRES).sum(-1) / WIDTH**2
    best = np.log(np.exp(-0.5 * squared).mean(1)) - np.log(2 * np.pi * WIDTH**2)
    gaussian = -0.5 * np.linalg.slogdet(2 * np.pi * np.e * np.cov(held_out.T))[1]
    found = prior.log_density(held_out).mean()
    assert best.mean() - 0.15 < found <= best.mean() and found > gaussian + 1
    drawn = prior.sample(500, seed=1)
    nearest = np.linalg.norm(drawn[:, None] - CENTRES, axis=-1).min(1)
    assert np.mean(nearest < 4 * WIDTH) > 0.9


def test_flops_count_every_kernel() -> None:
    given = config()
    given.freeze()
    task = AutoregressiveTask(given)
    leaves = jax.tree_util.tree_leaves_with_path(nnx.split(task.init(nnx.Rngs(0)))[1])
    kernels = sum(x.size for path, x in leaves if "kernel" in jax.tree_util.keystr(path))
    rows, length, width = 512, 2, 16
    attention = 2 * length * width
    expected = 6 * rows * length * (kernels + attention)
    assert task.flops(task.data("dev").batch_spec, {}) == expected


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"task\.width=18 .* task\.heads=4"):
        config_for(task=AutoregressiveConfig(width=18)).freeze()
    given = config(task__pieces=3)
    given.freeze()
    with pytest.raises(ConfigError, match=r"task\.pieces=3 does not divide the 2 numbers"):
        AutoregressiveTask(given).init(nnx.Rngs(0))
