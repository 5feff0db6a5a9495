"""Opening a run: carries, the frozen part, which checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flaxae
from flaxae.errors import ConfigError
from flaxae.storage.checkpoint import Checkpointer
from tests.training.conftest import NoisyConfig, Steps


def test_a_loaded_run_has_the_carries_and_the_best_parameters(
    steps: Steps, apart: Any, saved: str
) -> None:
    loaded = flaxae.load(saved, NoisyConfig)
    carry = jax.device_get(apart["carry"])
    np.testing.assert_array_equal(loaded.model.queue[...], carry["once"]["queue"])
    np.testing.assert_array_equal(loaded.model.state[...], carry["stream"]["state"])
    assert np.any(carry["once"]["queue"]) and loaded.step == 3
    assert loaded.extra == steps.setup.extra()
    # A best checkpoint comes before a later one.
    best = Checkpointer(saved, steps.setup.config.save)
    with jax.set_mesh(steps.setup.mesh):
        best.save_best(1, steps.placed(), {}, 1.0)
    best.close()
    try:
        first = flaxae.load(saved, NoisyConfig)
        assert first.step == flaxae.load(saved, NoisyConfig, which="best").step == 1
        np.testing.assert_array_equal(first.model.head[...], steps.start["params"]["head"])
        assert flaxae.load(saved, NoisyConfig, which="latest").step == 3
    finally:
        shutil.rmtree(Path(saved, "best"))


def test_a_run_with_another_frozen_part_is_not_opened(saved: str, tmp_path: Path) -> None:
    workdir = shutil.copytree(saved, tmp_path / "w")
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps({**config, "frozen_seed": 1}))
    with pytest.raises(ConfigError, match="the frozen part of the model is not the one"):
        flaxae.load(workdir, NoisyConfig)
    (workdir / "config.json").write_text(json.dumps({**config, "seed": 1}))
    assert flaxae.load(workdir, NoisyConfig).step == 3  # the seed of the trained parameters
