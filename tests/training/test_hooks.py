"""The optional methods of a task: the loop calls each one that a task defines."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.training.loop import run
from tests.helpers import arrays_of, assert_same, log_of
from tests.tiny.family import TinyConfig, TinyTask, tiny_config

SHORT = {"steps": 3, "save__every": 3, "eval__every": 3, "optim__name": "sgd"}


def add(monkeypatch: pytest.MonkeyPatch, name: str, method: Any) -> None:
    """Give the tiny family's tasks another method, in a subclass."""
    task_class = type("Task", (TinyTask,), {name: method})
    monkeypatch.setattr(TinyConfig, "make", lambda options, config: task_class(config))


def test_transform_grads_changes_what_the_optimizer_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_head(task, grads, state, ctx):
        zeros = jax.tree.map(jnp.zeros_like, grads)
        return {**zeros, "head": grads["head"]}

    add(monkeypatch, "transform_grads", only_head)
    before = run(tiny_config(**SHORT | {"optim__lr": 0.0}), tmp_path / "still").state["params"]
    after = run(tiny_config(**SHORT), tmp_path / "w").state["params"]
    assert not np.array_equal(before["head"], after["head"])
    np.testing.assert_array_equal(before["wide"], after["wide"])


def test_after_update_changes_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unit_head(task, state, ctx):
        head = state["params"]["head"]
        return {**state, "params": {**state["params"], "head": head / jnp.linalg.norm(head)}}

    add(monkeypatch, "after_update", unit_head)
    head = run(tiny_config(**SHORT), tmp_path).state["params"]["head"]
    np.testing.assert_allclose(jnp.linalg.norm(head), 1, rtol=1e-6)


def test_init_from_data_makes_the_state_of_a_new_run_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def from_first_batch(task, state, batches, ctx):
        calls.append(next(batches)["x"].shape)
        return {**state, "params": jax.tree.map(jnp.zeros_like, state["params"])}

    add(monkeypatch, "init_from_data", from_first_batch)
    run(tiny_config(**SHORT | {"optim__lr": 0.0}), tmp_path)
    assert not any(x.any() for name, x in arrays_of(tmp_path).items() if "params" in name)
    run(tiny_config(**SHORT | {"optim__lr": 0.0, "steps": 6, "optim__decay_steps": 6}), tmp_path)
    assert calls == [(16, 4)]


def test_init_carry_makes_the_carry_of_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny_config(**SHORT), tmp_path / "plain")

    def ones(task, batch_spec):
        rows = batch_spec["x"].shape[0]
        return {"once": {"queue": jnp.ones((8, 4))}, "stream": {"state": jnp.ones((rows, 16))}}

    add(monkeypatch, "init_carry", ones)
    run(tiny_config(**SHORT), tmp_path / "ones")
    assert_same(arrays_of(tmp_path / "ones"), arrays_of(tmp_path / "plain"))
    dev = [[r for r in log_of(tmp_path / n) if r["split"] == "dev"] for n in ("ones", "plain")]
    assert dev[0][0]["error"] != dev[1][0]["error"]
