"""Linear probes of a linear label, of noise and of a single label."""

from types import SimpleNamespace

import numpy as np
import pytest

from flaxae.models.t5_vae.evaluation import probes, studies


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


def test_the_majority_is_that_of_the_training_labels():
    points = np.random.default_rng(0).normal(size=(30, 2))
    labels, truth = np.repeat([0, 1], [10, 20]), np.asarray([0, 0, 0, 1])
    found = probes.study({"x": points}, labels, {"x": points[:4]}, truth, (1.0,))
    assert found["majority"]["value"] == 0.25


def test_a_single_training_label_is_always_predicted():
    found = probes.probe(np.zeros((3, 2)), np.asarray([1, 1, 1]), np.ones((4, 2)), np.arange(4))
    assert found.value == 0.25


def test_lines_without_a_label_are_left_out(monkeypatch):
    def lines(count):
        codes = np.arange(float(count))[:, None, None]  # (B, 1, 1)
        texts = [str(i) for i in range(count)]
        return studies.EncodedLines(texts, np.zeros((count, 2), int), codes, None, codes[:, 0])

    class Untrained:
        def __init__(self, model, step):
            pass

        def encode(self, ids):
            mean = np.arange(float(len(ids)))[:, None, None]
            return SimpleNamespace(mean=mean, pooled=mean[:, 0])

    monkeypatch.setattr(studies, "Scorer", Untrained)
    calls = []
    monkeypatch.setattr(studies.probes, "study", lambda *parts: calls.append(parts) or {})
    task = SimpleNamespace(init=lambda rngs: None)
    labels = (["a", "", "b"] * 10, ["", "b", "c", ""])
    out = studies.probe_study(task, lines(30), lines(4), labels, python=False)
    assert out == {"label": "label", "names": ["a", "b"]}
    train, train_values, dev, dev_values = calls[0]
    assert train_values.tolist() == [0, 1] * 10 and dev_values.tolist() == [1, -1]
    kept = [i for i in range(30) if i % 3 != 1]
    assert all(x[:, 0].tolist() == kept for x in train.values()) and len(train) == 4
    assert all(x[:, 0].tolist() == [1, 2] for x in dev.values())
    for labels in (
        (["a", ""] * 15, ["a"] * 4),
        ([""] * 30, ["a"] * 4),
        (["a", "b"] * 15, [""] * 4),
    ):
        assert isinstance(studies.probe_study(task, lines(30), lines(4), labels, False), str)
