"""The moving average of the parameters: its recursion, and where it is used."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np

import flaxae
from flaxae.config import copy_config
from flaxae.storage.checkpoint import Checkpointer
from tests.helpers import assert_same, flat
from tests.training.conftest import NoisyConfig, Steps


def test_the_average_follows_its_recursion(steps: Steps) -> None:
    """It is d ema + (1 - d) params with d = min(limit, (1 + t) / (10 + t)), by hand in float64."""
    states = steps.take(6)
    want = {k: x.astype(np.float64) for k, x in flat(steps.start["params"]).items()}
    assert_same(flat(steps.start["ema"]), flat(steps.start["params"]))
    for t, decay in enumerate((1 / 10, 2 / 11, 3 / 12, 0.3, 0.3, 0.3)):
        new = flat(states[t]["params"])
        want = {k: decay * x + (1 - decay) * new[k] for k, x in want.items()}
        assert_same(flat(states[t]["ema"]), want, atol=1e-7)
    # The tolerance sees each step: Adam's first updates are as large as the learning rate.
    assert abs(states[5]["ema"]["head"] - states[5]["params"]["head"]).max() > 1e-3


def test_metrics_are_those_of_the_averaged_parameters(steps: Steps, apart: Any) -> None:
    metrics = steps.evaluate(apart)
    assert metrics == steps.evaluate({**apart, "params": apart["ema"]})
    assert metrics == steps.evaluate({**apart, "params": apart["ema"], "ema": {}})
    assert metrics["dev/error"] != steps.evaluate({**apart, "ema": {}})["dev/error"]


def test_samples_are_made_with_the_averaged_parameters(steps: Steps, apart: Any) -> None:
    evaluator, progress = steps.loop.evaluator, steps.progress
    with jax.set_mesh(steps.setup.mesh):
        evaluator.sample(apart, 3, progress)
    (writer,) = steps.setup.writers
    writer.flush()
    rows = (writer.path.parent / "samples.jsonl").read_text().splitlines()
    head = json.loads(json.loads(rows[-1])["head"][0])
    np.testing.assert_array_equal(np.float32(head), apart["ema"]["head"])


def test_a_loaded_run_has_the_averaged_parameters(saved: str, apart: Any) -> None:
    model = flaxae.load(saved, NoisyConfig).model
    for name in ("head", "wide", "narrow"):
        np.testing.assert_array_equal(getattr(model, name)[...], apart["ema"][name])


def test_the_average_of_a_run_that_starts_from_another_is_of_its_parameters(
    steps: Steps, apart: Any, saved: str, tmp_path: Any
) -> None:
    config = copy_config(steps.setup.config, {"resume_from": saved})
    new = dataclasses.replace(
        steps.setup, config=config, checkpointer=Checkpointer(tmp_path, config.save)
    )
    state = steps.restored(new)
    assert_same(flat(state["params"]), flat(apart["params"]))
    after = steps.take(2, state, lr=0.0)[-1]
    assert_same(flat(after["params"]), flat(apart["params"]))
    assert_same(flat(after["ema"]), flat(apart["params"]), atol=1e-7)
