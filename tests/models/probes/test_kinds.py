"""Every kind of probe: fitted on training rows alone, and the same through `flaxae.Probe`."""

import dataclasses

import numpy as np
import pytest

from flaxae.errors import ConfigError
from flaxae.models.probes import experiment, files
from flaxae.models.probes.api import Probe
from flaxae.models.probes.files import Origin, Shown
from flaxae.models.probes.fitted import KINDS
from flaxae.models.probes.fitting.linear import best_layer
from flaxae.models.probes.run_states import PAIRS
from flaxae.models.probes.table import StateTable

N, D, HOOK = 48, 3, "resid_out"
SPLITS = np.repeat(["train", "dev", "test", "ood"], [24, 8, 8, 8])
TEXTS = [f"q{i}?" for i in range(N)]


def made():
    """Make states in which the label is visible, of affirmative and negated statements."""
    rng = np.random.default_rng(0)
    label = np.arange(N) % 2
    states = {h: rng.normal(size=(2, N, 2, D)).astype(np.float32) for h in (HOOK, PAIRS + HOOK)}
    states[HOOK][:, :, :, 0] += label[None, :, None]
    columns = {
        "key": np.asarray([f"k{i}" for i in range(N)]),
        "dataset": np.where(SPLITS == "ood", "other", np.where(np.arange(N) % 4 < 2, "a", "b")),
        "group": np.asarray([f"g{i // 4}" for i in range(N)]),
        "split": SPLITS,
        "label": label,
        "lie": np.zeros(N, int),
        "polarity": np.where(np.arange(N) % 4 < 2, 1, -1),
    }
    p = rng.random((2, N))
    return StateTable(states, (1, 4), p, p, columns, "hash", 0, "base")


TABLE = made()


def changed(table):
    """Change the rows that are not trained on; those of dev keep their order by every direction."""
    rest, dev = SPLITS != "train", (SPLITS == "dev")[None, :, None, None]
    far = np.random.default_rng(1).normal(size=(2, N, 2, D)).astype(np.float32) * 50
    mixed = {h: np.where(rest[None, :, None, None], far, x) for h, x in table.states.items()}
    states = {h: np.where(dev, table.states[h] + 8, x) for h, x in mixed.items()}
    label = np.where(rest & (SPLITS != "dev"), 1 - table.labels, table.labels)
    p = np.where(rest[None], 1 - table.p, table.p)
    return dataclasses.replace(table, states=states, p=p, columns=table.columns | {"label": label})


class Stored:
    """A collector that reads the rows of a table instead of computing them."""

    def __init__(self, layers):
        self.at = [TABLE.layers.index(layer) for layer in layers]

    def _rows(self, prompts):
        return [TEXTS.index(prompt.example.prompt) for prompt in prompts]

    def __call__(self, prompts, scales):
        sides, rows = [int(scale) for scale in scales], self._rows(prompts)
        states = TABLE.states[HOOK][sides][:, rows][:, :, self.at]
        return {HOOK: states}, np.repeat(TABLE.p[sides][:, rows, None], 2, axis=2)

    def pairs(self, prompts):
        return {
            HOOK: np.moveaxis(
                TABLE.states[PAIRS + HOOK][:, self._rows(prompts)][:, :, self.at], 0, 1
            )
        }


def opened(fitted):
    """Return a probe whose states are those of the table."""
    sets = {
        "a": Shown(("no", "yes"), (("1?", "no"), ("2?", "yes"))),
        "b": Shown(("no", "yes"), (("not 1?", "yes"), ("not 2?", "no"))),
    }
    probe = Probe.__new__(Probe)
    probe.probe, probe._collector = fitted.probe, Stored(fitted.layers)
    probe.origin = Origin(
        "m", "b", HOOK, fitted.layers, fitted.arm, "hash", "phi", "", sets, "bfloat16", "bfloat16"
    )
    return probe


ARMS = [("mass_mean", "base"), ("mass_mean", "diff"), ("mass_mean", "both")]


@pytest.mark.parametrize("kind, arm", [*((k, None) for k in KINDS), *ARMS])
def test_a_probe_is_of_training_rows_alone_and_the_same_when_opened(kind, arm, monkeypatch):
    monkeypatch.setattr(experiment, "adapter_hash", lambda model: model)
    factors = np.asarray([[1, 2, 0.5], [1, 0, 3]], np.float32)
    monkeypatch.setattr(experiment, "hook_importance", lambda *_: factors)
    fitted, again = (
        experiment.fit(kind, table, HOOK, arm, model="hash", layer=4)
        for table in (TABLE, changed(TABLE))
    )
    for name, x in fitted.probe.tensors().items():
        np.testing.assert_array_equal(x, again.probe.tensors()[name], err_msg=name)
    rows = SPLITS == "test"
    texts = [TEXTS[i] for i in np.flatnonzero(rows)]
    got = opened(fitted).predict_proba(texts)[:, 1]
    np.testing.assert_allclose(got, fitted.proba(TABLE.select(rows)), rtol=1e-6)
    if kind in ("weighted", "selected"):
        with pytest.raises(ConfigError, match="the model has adapter other, and the states are of"):
            experiment.fit(kind, TABLE, HOOK, arm, model="other")


def test_prompts_of_a_probe_show_the_examples_of_their_set_in_both_orders():
    probe = opened(experiment.fit("mass_mean", TABLE, HOOK, layer=4))
    sets = probe.origin.sets
    for dataset in ("", "b"):
        found = {prompt.shots for prompt in probe._prompts(TEXTS, dataset)}
        shots = sets[dataset or "a"].shots
        assert found == {shots, shots[::-1]}
    with pytest.raises(ConfigError, match="dataset='c': the probe knows a, b"):
        probe.predict_proba(TEXTS[:1], "c")


def test_dtypes_and_sets_of_a_probe_are_kept_in_its_file(tmp_path):
    probe = opened(experiment.fit("mass_mean", TABLE, HOOK, layer=4))
    files.save(tmp_path, probe.probe, probe.origin)
    origin = files.load(tmp_path)[1]
    assert origin == probe.origin and origin.dtype == origin.weights == "bfloat16"


def test_dev_rows_of_one_class_or_without_a_finite_score_choose_no_layer():
    one = dataclasses.replace(
        TABLE, columns=TABLE.columns | {"label": np.where(SPLITS == "dev", 1, TABLE.labels)}
    )
    with pytest.raises(ConfigError, match="no example has label 0"):
        experiment.fit("logistic", one, HOOK, layer=4)
    x = TABLE.features(HOOK)[:1]
    probe = experiment.fit("logistic", TABLE, HOOK, layer=4).probe
    with pytest.raises(ConfigError, match="no regression has finite scores on dev"):
        best_layer([[probe]], np.full_like(x, np.nan), TABLE.labels)
