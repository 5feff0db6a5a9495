"""Leaks are errors: each check goes red when the rule that it guards is broken on purpose."""

import dataclasses

import numpy as np
import pytest

from flaxae.errors import ConfigError
from flaxae.models.probes.table import (
    StateTable,
    answer_threshold,
    check_arms,
    check_controls,
    check_evaluation,
    layer_differences,
)

rng = np.random.default_rng(0)
N, D = 24, 3


def table(**fields):
    columns = {
        "key": np.asarray([f"k{i}" for i in range(N)]),
        "dataset": np.asarray(["city"] * 20 + ["capital"] * 4),
        "group": np.asarray([f"g{i // 2}" for i in range(N)]),
        "split": np.asarray(["train"] * 10 + ["test"] * 6 + ["control"] * 4 + ["ood"] * 4),
        "label": np.arange(N) % 2,
        "lie": np.zeros(N, int),
        "polarity": np.ones(N, int),
    }
    states = {"resid_out": rng.normal(size=(2, N, 2, D)).astype(np.float32)}
    p = np.linspace(0, 1, 2 * N).reshape(2, N)
    out = StateTable(states, (1, 4), p, p, columns, "hash", 0)
    return dataclasses.replace(out, **fields)


def test_features_of_arms_are_by_layer():
    t = table()
    x = t.states["resid_out"]
    np.testing.assert_array_equal(t.features("resid_out", "base")[1], x[0, :, 1])
    np.testing.assert_array_equal(t.features("resid_out", "diff"), np.moveaxis(x[1] - x[0], 1, 0))
    both = t.features("resid_out", "both")
    assert both.shape == (2, N, 2 * D)
    np.testing.assert_array_equal(both[0, :, D:], x[1, :, 0])
    np.testing.assert_array_equal(t.sides("resid_out", 4)[:, 1], x[1, :, 1])
    with pytest.raises(ConfigError, match="no states of hook 'mlp'"):
        t.features("mlp")
    with pytest.raises(ConfigError, match="arm 'x' is not one of"):
        t.features("resid_out", "x")
    with pytest.raises(ConfigError, match=r"layers \(4, 1\) are not in ascending order"):
        table(layers=(4, 1))


def test_differences_are_over_the_layer_axis():
    x = np.cumsum(np.ones((4, 5, D)), axis=0)  # grows by 1 from layer to layer
    assert layer_differences(x).shape == (3, 5, D) and (layer_differences(x) == 1).all()


def test_only_training_rows_are_fitted_on():
    t = table()
    record = t.training().record()
    assert record.sets == ("city",) and len(record.keys) == 10
    for split in ("test", "control", "ood"):
        with pytest.raises(ConfigError, match=f"rows of split {split} may not be fitted on"):
            t.where(split=("train", split)).record()
    check_evaluation(record, t.where(split=("test", "control", "ood")))
    with pytest.raises(ConfigError, match="no training rows"):
        t.where(split="test").training()


def test_rows_that_were_fitted_on_are_not_evaluated():
    t = table()
    record = t.training().record()
    with pytest.raises(ConfigError, match="leak: 10 keys of the evaluated rows were fitted on"):
        check_evaluation(record, t)
    # The other prompt of the same example, and another statement of the same fact.
    test = t.where(split="test")
    for name, value in (("key", "k0"), ("group", "g0")):
        values = test[name].astype(object)
        values[0] = value
        broken = dataclasses.replace(test, columns=test.columns | {name: values})
        with pytest.raises(ConfigError, match=f"leak: 1 {name}s of the evaluated rows"):
            check_evaluation(record, broken)


def test_sets_that_are_ood_are_never_fitted():
    t = table()
    names = np.where(t["dataset"] == "capital", "city", "city")
    broken = dataclasses.replace(t, columns=t.columns | {"dataset": names})
    with pytest.raises(ConfigError, match="leak: the OOD set city was fitted on"):
        check_evaluation(broken.training().record(), broken.where(split="ood"))


def test_arms_share_examples_adapter_and_seed():
    record = table().training().record()
    check_arms([record, record])
    for name, value in (("adapter", "other"), ("seed", 1)):
        other = table(**{name: value}).training().record()
        with pytest.raises(ConfigError, match=f"the arms differ in {name}"):
            check_arms([record, other])
        if name == "adapter":
            with pytest.raises(ConfigError, match="fitted on states of adapter hash"):
                check_evaluation(record, table(adapter="other").where(split="test"))
    fewer = table().training(label=0).record()
    with pytest.raises(ConfigError, match="the arms differ in digest"):
        check_arms([record, fewer])


def test_control_rows_are_in_no_other_split():
    t = table()
    warned = check_controls(t.where(split="control"), [t.where(split=("train", "test", "ood"))])
    assert len(warned) == 1 and "4 control rows, fewer than 500" in warned[0]
    with pytest.raises(ConfigError, match="control has no example of label 0"):
        check_controls(t.where(split="control", label=1), [])
    with pytest.raises(ConfigError, match="leak: control group"):
        check_controls(t.where(split="control"), [t])


def test_the_known_threshold_separates_a_biased_base():
    p = np.asarray([0.6, 0.7, 0.8, 0.9, 0.95])
    labels = np.asarray([0, 0, 1, 0, 1])
    cut = answer_threshold(p, labels)
    right = (p > cut) == (labels > 0)
    assert right.sum() == 4 and 0.7 < cut < 0.95
    assert answer_threshold(np.asarray([0.2, 0.8]), np.asarray([0, 1])) == 0.5
    assert answer_threshold(np.asarray([0.2, 0.8]), np.asarray([1, 0]), signed=False) == 0.5


def test_a_threshold_is_never_among_equal_answers():
    p, labels = np.asarray([0.2, 0.9, 0.9, 0.9, 0.9, 0.95]), np.asarray([0, 0, 0, 1, 1, 1])
    given = p > answer_threshold(p, labels)
    assert given.tolist() == [False] * 5 + [True] or given.tolist() == [False] + [True] * 5
    close = np.asarray([0.5, np.nextafter(0.5, 1)])
    assert (close > answer_threshold(close, np.asarray([0, 1]))).tolist() == [False, True]
