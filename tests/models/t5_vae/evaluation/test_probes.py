"""Linear probes of a linear label, of noise and of a single label."""

import numpy as np
import pytest

from flaxae.models.t5_vae.evaluation import probes


def test_a_linear_label_is_predicted_from_codes_but_not_from_noise():
    rng = np.random.default_rng(0)
    codes, noise = rng.normal(size=(2, 1200, 6))
    labels = (codes[:, 0] > 0).astype(int) + (codes[:, 0] > 1)
    train, test = slice(0, 800), slice(800, None)
    found = probes.study(
        {"codes": codes[train], "noise": noise[train]},
        labels[train],
        {"codes": codes[test], "noise": noise[test]},
        labels[test],
    )
    assert found["classes"] == 3 and found["labels"] == {"0.01": 8, "0.1": 80, "1": 800}
    good, bad = found["accuracy"]["codes"], found["accuracy"]["noise"]
    assert good["1"]["value"] > 0.9 and good["1"]["value"] > good["0.01"]["value"]
    assert bad["1"]["value"] < 0.6
    assert found["majority"]["value"] == pytest.approx(0.5, abs=0.07)
    assert good["1"]["low"] < good["1"]["value"] < good["1"]["high"]


def test_a_single_training_label_is_always_predicted():
    found = probes.probe(np.zeros((3, 2)), np.asarray([1, 1, 1]), np.ones((4, 2)), np.arange(4))
    assert found.value == 0.25
