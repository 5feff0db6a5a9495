"""The loop on the tiny family: compilation, donation, accumulation, shardings, NaN, errors."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import flaxae
from flaxae.errors import CheckpointError, ConfigError, NonFiniteError
from flaxae.machine import sharding
from flaxae.task import Context
from flaxae.training.evaluator import Evaluator
from flaxae.training.loop import Loop, run
from flaxae.training.restore import restore_or_init
from flaxae.training.setup import make_setup
from tests.helpers import arrays_of, assert_same, flat, log_of, start_pair
from tests.tiny.family import TinyConfig, TinyTask, tiny_config


def test_20_steps_compile_once_without_hidden_transfers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = []  # device-to-host reads of a step's metrics before the next step was dispatched
    current: dict[int, int] = {}
    seen = []
    value = type(jax.numpy.zeros(1))._value

    def read(array: jax.Array) -> np.ndarray:
        seen.append(id(array))
        if current.get(id(array), 20) < 20:  # after the last step nothing is left to wait for
            early.append(current[id(array)])
        return value.fget(array)  # type: ignore

    monkeypatch.setattr(type(jax.numpy.zeros(1)), "_value", property(read))
    with _loop(tmp_path, save__every=20, eval__every=20) as loop:
        step_fn, calls = loop.step_fn, []

        def guarded(*args: object) -> object:
            with jax.transfer_guard("disallow"):
                state, metrics = step_fn(*args)
            calls.append((state, metrics))  # kept: an id must stay one array's
            current.clear()
            current.update({id(x): len(calls) for x in jax.tree.leaves((state, metrics))})
            return state, metrics

        loop.step_fn = guarded
        loop.train()
    assert step_fn._cache_size() == 1 and len(calls) == 20
    assert not early
    assert all(id(x) in seen for _, m in calls[:-1] for x in jax.tree.leaves(m))  # it does look


def test_the_state_is_donated(tmp_path: Path) -> None:
    with _loop(tmp_path) as loop, jax.set_mesh(loop.setup.mesh):
        state, _ = restore_or_init(loop.setup)
        batch = sharding.put(
            loop.setup.feed.sources[0].batch(0), sharding.batch_sharding(loop.setup.mesh)
        )
        old = jax.tree.leaves(state)
        size, before = sum(x.nbytes for x in old), _live_bytes()
        state, _ = loop.step_fn(state, loop.setup.frozen.values, batch, loop.setup.hparams)
        jax.block_until_ready(state)
        assert all(x.is_deleted() for x in old)
        assert _live_bytes() - before < size / 2
        assert not any(x.is_deleted() for x in jax.tree.leaves(loop.setup.frozen.values))


def _live_bytes() -> int:
    return sum(x.nbytes for x in jax.live_arrays() if not x.is_deleted())


def _loop(path: Path, **overrides: object) -> Loop:
    config = flaxae.storage.workdir.prepare(tiny_config(**overrides), path, None, True)
    return Loop(make_setup(config, path))


def test_a_finished_run_of_another_batch_order_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny_config(steps=2), tmp_path)
    data = TinyTask.data

    def reordered(task: TinyTask, split: str) -> Any:
        source = data(task, split)
        source.fingerprint += "@another"
        return source

    monkeypatch.setattr(TinyTask, "data", reordered)
    assert run(tiny_config(steps=2), tmp_path).status == "already_done"
    with pytest.raises(ConfigError, match="the same data in another order"):
        run(tiny_config(steps=4, optim__decay_steps=4), tmp_path)


MESHES = {
    "one": {"mesh__replica": 1, "mesh__fsdp": 1, "mesh__model": 1},
    "eight": {"mesh__replica": 2, "mesh__fsdp": 2, "mesh__model": 2},
}
FIVE = {"steps": 5, "save__every": 5, "eval__every": 5}


@pytest.mark.usefixtures("split_small")
def test_eight_devices_equal_one(tmp_path: Path) -> None:
    for name, mesh in MESHES.items():
        run(tiny_config(**FIVE, **mesh), tmp_path / name)
    loop = _loop(tmp_path / "eight", **FIVE, **MESHES["eight"])
    axes = {a for x in jax.tree.leaves(loop.setup.shapes) for a in x.sharding.spec}
    assert "fsdp" in axes
    assert_same(arrays_of(tmp_path / "eight"), arrays_of(tmp_path / "one"), atol=1e-5)
    a, b = log_of(tmp_path / "eight"), log_of(tmp_path / "one")
    losses = [[r["loss"] for r in rows if r["split"] == "train"] for rows in (a, b)]
    np.testing.assert_allclose(*losses, atol=1e-5)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    run(tiny_config(**FIVE, **MESHES["one"]), tmp_path / "one")
    pair = start_pair({"workdir": str(tmp_path / "two"), "overrides": FIVE}, devices=2)
    ends = [child.communicate(timeout=180) for child in pair]
    assert [child.returncode for child in pair] == [0, 0], ends
    assert_same(arrays_of(tmp_path / "two"), arrays_of(tmp_path / "one"), atol=1e-5)
    logs = [log_of(tmp_path / name) for name in ("two", "one")]
    losses = [[r["loss"] for r in rows if r["split"] == "train"] for rows in logs]
    assert len(losses[0]) == 5
    np.testing.assert_allclose(*losses, atol=1e-5)


@pytest.mark.usefixtures("split_small")
def test_a_run_saved_on_eight_devices_resumes_on_four_and_one(tmp_path: Path) -> None:
    more = {"steps": 10, "save__every": 5, "eval__every": 5, "optim__decay_steps": 10}
    run(tiny_config(**more, **MESHES["one"]), tmp_path / "whole")
    run(tiny_config(**(more | {"steps": 5}), **MESHES["eight"]), tmp_path / "eight")
    for fsdp in (4, 1):
        shutil.copytree(tmp_path / "eight", tmp_path / f"{fsdp}")
        mesh = {"mesh__replica": 1, "mesh__fsdp": fsdp, "mesh__model": 1}
        run(tiny_config(**more, **mesh), tmp_path / f"{fsdp}")
        assert_same(arrays_of(tmp_path / f"{fsdp}"), arrays_of(tmp_path / "whole"), atol=1e-5)


def test_accumulation_equals_the_whole_batch_with_padding(tmp_path: Path) -> None:
    plain = {
        **FIVE,
        "data__batch_size": 32,
        "task__dropout": False,
        "task__penalty": 0.0,
        "mesh__fsdp": 1,
    }
    run(tiny_config(**plain), tmp_path / "whole")
    run(tiny_config(**plain, accumulate=4), tmp_path / "parts")
    a, b = arrays_of(tmp_path / "whole"), arrays_of(tmp_path / "parts")
    keep = {k for k in a if "queue" not in k}  # the queue takes one row per micro-batch
    assert_same({k: a[k] for k in keep}, {k: b[k] for k in keep}, atol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_update_is_the_gradient_of_the_sum_over_the_weight(
    tmp_path: Path, accumulate: int
) -> None:
    """Compared with jax.grad of total / weight: Adam would hide a wrong divisor, SGD does not."""
    sgd = {
        "optim__name": "sgd",
        "optim__momentum": 0.0,
        "optim__clip_norm": 0.0,
        "optim__warmup": 0,
        "optim__schedule": "constant",
        "optim__lr": 0.1,
    }
    plain = {
        "steps": 1,
        "save__every": 1,
        "data__batch_size": 32,
        "task__dropout": False,
        "task__penalty": 0.0,
        "mesh__fsdp": 1,
        "accumulate": accumulate,
    }
    with _loop(tmp_path / "w", **sgd, **plain) as loop, jax.set_mesh(loop.setup.mesh):
        state, _ = restore_or_init(loop.setup)
        before = jax.device_get(state)
        carry = jax.tree.map(jax.numpy.asarray, before["carry"])
        batch = jax.tree.map(jax.numpy.asarray, loop.setup.feed.batch(0))
        ctx = Context(jax.random.key(0), state["step"], loop.setup.hparams, train=True)

        def mean(params: object) -> jax.Array:
            model = loop.setup.layout.merge(params, carry, loop.setup.frozen.values)
            total, weight, _ = loop.setup.task.loss(model, batch, ctx)
            return total / weight

        grads = jax.grad(mean)(before["params"])
        state, _ = loop.step_fn(state, loop.setup.frozen.values, batch, loop.setup.hparams)
        expected = jax.tree.map(lambda p, g: p - 0.1 * g, before["params"], grads)
        assert_same(flat(state["params"]), flat(expected), atol=1e-6)


def test_steps_per_call_does_not_change_the_run(tmp_path: Path) -> None:
    run(tiny_config(), tmp_path / "one")
    run(tiny_config(steps_per_call=5, log__every=5), tmp_path / "five")
    assert_same(arrays_of(tmp_path / "five"), arrays_of(tmp_path / "one"), atol=1e-6)


def test_evaluation_starts_with_new_streams_and_the_trainings_queue(tmp_path: Path) -> None:
    with _loop(tmp_path / "w") as loop:
        loop.train()
        state, _ = restore_or_init(loop.setup)
        source = next(iter(loop.evaluator.sources.values()))
        own, carry = state["carry"], loop.evaluator.carry_for(state, source)
        assert all(np.any(x) for part in own.values() for x in jax.tree.leaves(part))
        assert_same(flat(carry["once"]), flat(own["once"]), atol=0)
        assert not any(np.any(x) for x in jax.tree.leaves(carry["stream"]))


def test_the_frozen_part_is_neither_saved_nor_changed(tmp_path: Path) -> None:
    with _loop(tmp_path / "w") as loop:
        before = flaxae.storage.fingerprint.fingerprint(loop.setup.frozen.values)
        loop.train()
        assert flaxae.storage.fingerprint.fingerprint(loop.setup.frozen.values) == before != ""
    assert not [k for k in arrays_of(tmp_path / "w") if "project" in k]
    model = flaxae.load(tmp_path / "w", config_class=TinyConfig).model
    with _loop(tmp_path / "fresh") as loop:
        np.testing.assert_array_equal(model.project[...], loop.setup.frozen.values["project"])
    with pytest.raises(ConfigError, match="config_class"):
        flaxae.load(tmp_path / "w")


def test_a_finished_run_is_extended_and_gives_its_parameters_to_another(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first = run(tiny_config(), tmp_path / "w")
    again = run(tiny_config(), tmp_path / "w")
    assert again.status == "already_done"
    assert again.metrics == first.metrics
    with pytest.raises(ConfigError, match="0 from step 20 on"):
        run(tiny_config(steps=30), tmp_path / "w")
    longer = run(tiny_config(steps=30, optim__decay_steps=30), tmp_path / "w")
    assert "now ends at step 30, not 20" in capsys.readouterr().out
    assert run(tiny_config(steps=30), tmp_path / "w").status == "already_done"
    assert repr(longer).startswith("Result(done, step=30, dev/drift=") and len(repr(longer)) < 200
    loaded = flaxae.load(tmp_path / "w", TinyConfig)
    workdir = str(tmp_path / "w")
    assert repr(loaded) == f"Loaded(model=Tiny, task=TinyTask, step=30, workdir={workdir!r})"
    with pytest.raises(ConfigError, match="keeps no best checkpoint: save.best_metric is empty"):
        flaxae.load(tmp_path / "w", TinyConfig, which="best")
    with pytest.raises(ConfigError, match="which='newest' is not one of auto, latest, best"):
        flaxae.load(tmp_path / "w", TinyConfig, which="newest")
    assert longer.status == "done" and int(longer.state["step"]) == 30
    stored = json.loads((tmp_path / "w" / "config.json").read_text())
    assert stored["optim"]["decay_steps"] == 30  # only a horizon that is given moves the schedule
    # A run that went beyond its schedule before this was refused.
    (tmp_path / "w" / "config.json").write_text(json.dumps(stored | {"steps": 32}))
    run(tiny_config(steps=32), tmp_path / "w")
    assert "the learning rate is 0 from step 30 on" in capsys.readouterr().err
    new = run(
        tiny_config(steps=2, save__every=1, optim__lr=0.0, resume_from=str(tmp_path / "w")),
        tmp_path / "new",
    )
    assert_same(flat(new.state["params"]), flat(longer.state["params"]))


def test_the_best_checkpoint_is_that_of_the_best_evaluation(tmp_path: Path) -> None:
    config = tiny_config(save__best_metric="dev/error", eval__every=2, optim__lr=0.5)
    run(config, tmp_path / "w")
    rows = [r for r in log_of(tmp_path / "w") if r["split"] == "dev"]
    best = min(rows, key=lambda r: r["error"])
    assert flaxae.load(tmp_path / "w", config_class=TinyConfig).step == best["step"]


@pytest.mark.parametrize("lanes", [None, [{}, {"seed": 1}], [{}, {"data.seed": 1}]])
def test_an_unknown_best_metric_is_found_before_the_first_step(tmp_path: Path, lanes: Any) -> None:
    config = tiny_config(save__best_metric="dev/losss", eval__every=2)
    with pytest.raises(
        ConfigError, match="'dev/losss' is not one of: dev/drift, dev/error, dev/loss"
    ):
        run(config, tmp_path / "w", lanes)
    assert not any(f.stat().st_size for f in (tmp_path / "w").rglob("metrics.jsonl"))
    config.save.best_metric = "dev/error"
    with Loop(
        make_setup(flaxae.storage.workdir.prepare(config, tmp_path, lanes, True), tmp_path, lanes)
    ) as loop:
        with jax.set_mesh(loop.setup.mesh):
            loop.evaluator.check_best_metric(restore_or_init(loop.setup)[0])


def test_no_step_is_lost_to_a_best_metric_that_is_found_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "check_best_metric", lambda *_: None)
    config = tiny_config(save__best_metric="dev/losss", eval__every=2)
    with pytest.raises(ConfigError, match="'dev/losss' is not one of"):
        run(config, tmp_path)
    assert arrays_of(tmp_path)["['step']"] == 2


def test_a_loss_of_another_type_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyTask, "loss", lambda *_: jax.numpy.zeros(()))
    with pytest.raises(ConfigError, match="TinyTask.loss must return flaxae.task.Loss .* an array"):
        run(tiny_config(), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_step(
    tmp_path: Path,
) -> None:
    config = tiny_config(task__poison=1.0, save__every=2, eval__every=2)
    with pytest.raises(NonFiniteError, match=r"step 5.*batch\(5\)"):
        run(config, tmp_path / "w")
    arrays = arrays_of(tmp_path / "w")
    assert arrays["['step']"] == 4
    assert all(np.isfinite(x).all() for x in arrays.values())
    assert (tmp_path / "w" / "bad_batch_5.npz").exists()


def test_bad_steps_within_the_limit_keep_the_old_state(tmp_path: Path) -> None:
    config = tiny_config(task__poison=1.0, max_bad_steps=100, steps=8, save__every=1)
    result = run(config, tmp_path / "w")
    reference = run(tiny_config(steps=5, optim__decay_steps=8), tmp_path / "five")
    assert int(result.state["bad"]) == 3 and int(result.state["step"]) == 8
    assert_same(flat(result.state["params"]), flat(reference.state["params"]))


def test_another_config_is_an_error_that_names_the_fields(tmp_path: Path) -> None:
    run(tiny_config(), tmp_path / "w")
    before = arrays_of(tmp_path / "w")
    with pytest.raises(ConfigError, match=r"optim.lr: 0.01 -> 0.5"):
        run(tiny_config(optim__lr=0.5), tmp_path / "w")
    assert_same(arrays_of(tmp_path / "w"), before)


def test_a_run_falls_back_over_a_torn_checkpoint_and_saves_again(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = {"save__every": 5, "save__keep": 4, "eval__every": 5}
    run(tiny_config(**options), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "w")
    newest = tmp_path / "w" / "latest" / "20"
    for file in newest.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    result = run(tiny_config(**options), tmp_path / "w")
    printed = "".join(capsys.readouterr())
    assert result.status == "done" and "20" in printed and "15" in printed
    assert_same(arrays_of(tmp_path / "w"), arrays_of(tmp_path / "whole"))
    assert log_of(tmp_path / "w") == log_of(tmp_path / "whole")


def test_a_run_without_a_readable_checkpoint_does_not_start_again(tmp_path: Path) -> None:
    run(tiny_config(), tmp_path / "w")
    for file in (tmp_path / "w" / "latest").rglob("*"):
        if file.is_file():
            file.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="w"):
        run(tiny_config(), tmp_path / "w")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mesh__replica": 16}, "devices"),
        ({"data__batch_size": 12, "mesh__fsdp": 8}, "divisible"),
        ({"steps_per_call": 3}, "multiple"),
        ({"save__best_metric": "dev/nothing"}, "dev/nothing"),
        ({"pretrained": "x"}, "pretrained"),
    ],
)
def test_a_bad_config_is_an_error(tmp_path: Path, overrides: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tiny_config(**overrides), tmp_path / "w")


def test_a_failed_start_claims_no_workdir(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="divisible"):
        run(tiny_config(data__batch_size=9, mesh__fsdp=2), tmp_path)
    assert run(tiny_config(**FIVE), tmp_path).status == "done"
    with pytest.raises(ConfigError, match="another config"):
        run(tiny_config(**FIVE, seed=7), tmp_path)


def test_a_run_older_than_a_config_field_resumes(tmp_path: Path) -> None:
    run(tiny_config(**FIVE), tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["optim"]["momentum"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert run(tiny_config(**FIVE), tmp_path).status == "already_done"
    with pytest.raises(ConfigError, match="momentum: 0.9 -> 0.5"):
        run(tiny_config(**FIVE, optim__momentum=0.5), tmp_path)


def test_a_run_may_evaluate_nothing(tmp_path: Path) -> None:
    assert run(tiny_config(**FIVE, eval__splits=()), tmp_path).status == "done"
    assert run(tiny_config(**FIVE, eval__splits=()), tmp_path).status == "already_done"
    assert {row["split"] for row in log_of(tmp_path)} == {"train", "sample"}


@pytest.mark.parametrize("count, due", [(0, {"eval"}), (4, {"eval", "sample"})])
def test_samples_are_due_if_there_are_any(count: int, due: set[str]) -> None:
    loop: Any = SimpleNamespace(
        config=tiny_config(eval__num_samples=count), setup=SimpleNamespace(lanes=0)
    )
    assert Loop._due(loop, 20) == due


def test_a_run_reports_what_it_does_before_its_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flaxae.task.Task.data_notes", lambda self: ["2 rows are left out"])
    run(tiny_config(steps=2, log__progress=True), tmp_path / "w")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "preparing the data and the model ..."
    assert "compiling the training step ..." in lines and "data: 2 rows are left out" in lines
    run(tiny_config(steps=2), tmp_path / "quiet")
    assert capsys.readouterr().out == ""
