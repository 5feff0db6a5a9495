"""Checkpoints: bit-exact, best and latest, and all ways in which one can be incomplete."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxae.config import Mode, SaveConfig
from flaxae.errors import CheckpointError
from flaxae.storage.checkpoint import Checkpointer, read_arrays
from flaxae.storage.quiet import quiet_backends


@pytest.fixture(autouse=True)
def quiet():
    quiet_backends()


def mesh(devices):
    chosen = jax.devices()[:devices]
    return jax.make_mesh((devices,), ("x",), axis_types=(AxisType.Auto,), devices=chosen)


def make(value, devices=1, rows=16):
    """Make a state with empty dicts, bfloat16, a split and a replicated leaf, and random bits."""
    rng = np.random.default_rng(value)
    wide = rng.integers(0, 2**32, (rows, 8), dtype=np.uint32).view(np.float32)
    split, whole = NamedSharding(mesh(devices), P("x")), NamedSharding(mesh(devices), P())
    state = {
        "step": np.int32(value),
        "params": {"block": {"kernel": wide, "0": np.float32([value, np.nan, -0.0])}},
        "ema": {},
        "carry": {"once": {}, "stream": {"state": rng.normal(size=(rows, 3)).astype(jnp.bfloat16)}},
        "opt": {"mu": {"block": {"kernel": wide[::-1].copy()}}},
    }
    place = lambda x: jax.device_put(x, split if x.shape[:1] == (rows,) else whole)  # noqa: E731
    return jax.tree.map(place, state)


def abstract(devices=1, rows=16):
    struct = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)  # noqa: E731
    return jax.tree.map(struct, make(0, devices, rows))


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def saved(workdir, *steps, devices=1, **fields):
    checkpointer = Checkpointer(workdir, SaveConfig(**({"keep": 10} | fields)))
    for step in steps:
        checkpointer.save(step, make(step, devices), {"at": step})
    checkpointer.wait()
    return checkpointer


def test_round_trip_is_bit_exact_and_keeps_empty_dicts(tmp_path):
    saved(tmp_path, 1, 7).close()
    checkpointer = Checkpointer(tmp_path, SaveConfig())
    found = checkpointer.restore(abstract())
    assert found is not None and (found.step, found.extra) == (7, {"at": 7})
    assert_same_bits(found.state, make(7))
    assert found.state["ema"] == {} and found.state["carry"]["once"] == {}
    arrays, extra, step = read_arrays(tmp_path)
    assert (step, extra) == (7, {"at": 7}) and isinstance(arrays["step"], np.ndarray)
    assert_same_bits(jax.tree.map(np.asarray, arrays), jax.tree.map(np.asarray, make(7)))
    checkpointer.close()


def test_restoring_from_an_empty_workdir_is_none(tmp_path):
    checkpointer = Checkpointer(tmp_path / "new", SaveConfig())
    assert checkpointer.restore(abstract()) is None
    assert checkpointer.steps() == []
    checkpointer.close()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_arrays(tmp_path / "new")


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (fake) devices")
def test_restores_onto_another_mesh(tmp_path):
    checkpointer = saved(tmp_path, 3, devices=8)
    for devices in (4, 1):
        found = checkpointer.restore(abstract(devices))
        assert found is not None
        assert_same_bits(found.state, make(3))
        assert len(found.state["params"]["block"]["kernel"].sharding.device_set) == devices
    checkpointer.close()


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 7, s), donate_argnums=0)
    state = {"x": jnp.arange(2**20, dtype=jnp.float32)}
    want = np.array(state["x"])
    checkpointer = Checkpointer(tmp_path, SaveConfig())
    checkpointer.save(1, state, {})
    checkpointer.save_best(1, state, {}, 0.5)
    for _ in range(3):
        state = overwrite(state)
    checkpointer.close()
    for which in ("latest", "best"):
        np.testing.assert_array_equal(read_arrays(tmp_path, which)[0]["x"], want)


def test_keep_and_keep_every_decide_which_steps_stay(tmp_path):
    checkpointer = saved(tmp_path, 10, 20, 30, 40, 50, 60, keep=2, keep_every=20)
    assert checkpointer.steps() == [20, 40, 50, 60]
    checkpointer.close()


def test_the_best_is_kept_apart_and_its_value_is_remembered(tmp_path):
    config = SaveConfig(best_mode=Mode.MAX)
    checkpointer = Checkpointer(tmp_path, config)
    assert not checkpointer.save_best(1, make(1), {}, float("nan"))
    for step, value, better in ((1, 0.2, True), (2, 0.5, True), (3, 0.4, False), (4, 0.5, False)):
        checkpointer.save(step, make(step), {})
        assert checkpointer.save_best(step, make(step), {"at": step}, value) is better
    checkpointer.close()
    checkpointer = Checkpointer(tmp_path, config)
    assert checkpointer.steps() == [4]
    assert not checkpointer.save_best(5, make(5), {}, 0.45)
    state, extra, step = read_arrays(tmp_path, "best")
    assert (step, extra["at"]) == (2, 2)
    assert_same_bits(jax.tree.map(np.asarray, state), jax.tree.map(np.asarray, make(2)))
    checkpointer.close()


def test_a_save_that_is_not_newer_is_an_error(tmp_path):
    checkpointer = saved(tmp_path, 5)
    with pytest.raises(CheckpointError, match="step 5 was not saved"):
        checkpointer.save(5, make(5), {})
    checkpointer.close()


def tear(folder, how):
    if how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "truncated":
        for path in folder.rglob("d/*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "no state":
        shutil.rmtree(folder / "state")
    elif how == "no extra":
        (folder / "extra" / "metadata").write_text("{")
    elif how == "foreign":
        shutil.rmtree(folder)
        source = folder.parent.parent / "other" / folder.name
        other = Checkpointer(source, SaveConfig())
        other.save(int(folder.name), make(0, rows=24), {}, wait=True)
        other.close()
        shutil.copytree(source / "latest" / folder.name, folder)


@pytest.mark.parametrize("how", ["empty", "truncated", "no state", "no extra", "foreign"])
def test_a_torn_step_is_skipped_and_saving_continues_from_there(tmp_path, how, capfd):
    checkpointer = saved(tmp_path, 10, 20)
    checkpointer.save_best(15, make(15), {}, 1.0)
    checkpointer.save(30, make(30), {}, wait=True)
    checkpointer.close()
    tear(tmp_path / "latest" / "30", how)
    tear(tmp_path / "latest" / "20", how)

    checkpointer = Checkpointer(tmp_path, SaveConfig(keep=10))
    found = checkpointer.restore(abstract())
    assert found is not None and found.step == 10
    assert_same_bits(found.state, make(10))
    warned = capfd.readouterr().err
    assert "latest/30 is not readable" in warned and "Traceback" not in warned
    if how == "foreign":
        assert "params/block/kernel is (24, 8) float32 there and (16, 8) float32 here" in warned
    assert checkpointer.steps() == [10]
    assert {p.name for p in (tmp_path / "latest").iterdir()} == {"10", "torn_20", "torn_30"}
    assert {p.name for p in (tmp_path / "best").iterdir()} == {"torn_15"}
    # The value of a best step that was set aside is forgotten with it.
    assert checkpointer.save_best(12, make(12), {}, 2.0)
    for step in (20, 30):
        checkpointer.save(step, make(step), {}, wait=True)
    checkpointer.close()
    assert read_arrays(tmp_path)[2] == 30


def test_none_readable_is_an_error_not_a_fresh_start(tmp_path):
    saved(tmp_path, 10, 20).close()
    for step in (10, 20):
        tear(tmp_path / "latest" / str(step), "truncated")
    checkpointer = Checkpointer(tmp_path, SaveConfig())
    with pytest.raises(CheckpointError, match="none is readable") as e:
        checkpointer.restore(abstract())
    assert str(tmp_path) in str(e.value) and "new workdir" in str(e.value)
    assert checkpointer.steps() == [10, 20]  # nothing was renamed
    with pytest.raises(CheckpointError, match="none is readable"):
        read_arrays(tmp_path)
    checkpointer.close()


def test_the_best_checkpoint_is_restored_if_no_latest_is_readable(tmp_path):
    checkpointer = saved(tmp_path, 10)
    checkpointer.save_best(8, make(8), {}, 1.0)
    checkpointer.close()
    tear(tmp_path / "latest" / "10", "truncated")
    checkpointer = Checkpointer(tmp_path, SaveConfig())
    found = checkpointer.restore(abstract())
    assert found is not None and found.step == 8
    checkpointer.save(10, make(10), {}, wait=True)
    checkpointer.close()


def test_a_state_that_does_not_fit_names_the_leaves(tmp_path):
    checkpointer = saved(tmp_path, 10)
    wanted = abstract(rows=24)
    wanted["opt"]["new"] = wanted["step"]
    with pytest.raises(CheckpointError, match="opt/new is missing.*params/block/kernel is"):
        checkpointer.restore(wanted)
    checkpointer.close()


def test_a_run_continues_from_a_best_before_the_first_save(tmp_path, capsys):
    checkpointer = Checkpointer(tmp_path, SaveConfig())
    checkpointer.save_best(5, make(5), {"a": 1}, 1.0)
    checkpointer.close()
    checkpointer = Checkpointer(tmp_path, SaveConfig())
    found = checkpointer.restore(abstract())
    assert found is not None and found.step == 5 and found.extra["a"] == 1
    assert "best" in capsys.readouterr().err
    assert not checkpointer.save_best(6, make(6), {}, 1.0)
    checkpointer.save(10, make(10), {}, wait=True)
    checkpointer.close()


def test_a_full_disk_is_one_error_and_the_earlier_checkpoint_stays(tmp_path, capfd):
    checkpointer = saved(tmp_path, 10, keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # writes fail, as on a full disk
    try:
        with pytest.raises(CheckpointError, match="could not be saved") as e:
            checkpointer.save(20, make(20, rows=4096), {})
            checkpointer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Steps [10] stay" in str(e.value) and "\n" not in str(e.value)
    checkpointer.close()  # does not raise the same failure again
    assert "Traceback" not in capfd.readouterr().err
    checkpointer = Checkpointer(tmp_path, SaveConfig())
    found = checkpointer.restore(abstract())
    assert found is not None and found.step == 10
    checkpointer.save(20, make(20), {}, wait=True)
    checkpointer.close()
    assert [p.name for p in (tmp_path / "latest").iterdir()] == ["20"]


KILLED = """
    import sys
    import jax.numpy as jnp
    from flaxae.storage.checkpoint import Checkpointer
    from flaxae.config import SaveConfig
    checkpointer = Checkpointer(sys.argv[1], SaveConfig(keep=1))
    for step in range(1, 1000):
        state = {"step": jnp.int32(step), "x": jnp.full((2**16,), step, jnp.float32), "ema": {}}
        checkpointer.save(step, state, {"at": step})
        print(step, flush=True)
"""


def test_a_process_killed_while_saving_leaves_a_readable_checkpoint(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"}
    for attempt in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / str(attempt))],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert child.stdout is not None
        for _ in range(3):
            child.stdout.readline()
        time.sleep(0.013 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        arrays, extra, step = read_arrays(tmp_path / str(attempt))
        assert step >= 2 and extra == {"at": step} and int(arrays["step"]) == step
        assert np.all(arrays["x"] == step)
        # The next run removes what the killed save left, and continues to save.
        checkpointer = Checkpointer(tmp_path / str(attempt), SaveConfig(keep=1))
        checkpointer.save(step + 1, {"x": jnp.ones(3)}, {}, wait=True)
        checkpointer.close()
        left = [p.name for p in (tmp_path / str(attempt) / "latest").iterdir()]
        assert left == [str(step + 1)]


@pytest.mark.parametrize("which", ["latest", "best"])
def test_an_older_step_stays_until_the_newer_one_has_been_read_back(tmp_path, which):
    def save(checkpointer, step):
        if which == "latest":
            checkpointer.save(step, make(step), {})
        else:
            assert checkpointer.save_best(step, make(step), {}, -step)

    checkpointer = Checkpointer(tmp_path, SaveConfig(keep=1))
    folder = tmp_path / which
    save(checkpointer, 1)
    checkpointer.wait()
    save(checkpointer, 2)
    checkpointer.wait()
    assert [p.name for p in folder.iterdir()] == ["2"]
    save(checkpointer, 3)
    checkpointer._manager(which).wait_until_finished()
    assert sorted(p.name for p in folder.iterdir()) == ["2", "3"]
    shutil.rmtree(folder / "3" / "state" / "d")  # success was reported, nothing can be read
    (folder / "3" / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(CheckpointError, match=r"3 was saved, but cannot be read back.*\[2\] stay"):
        checkpointer.wait()
    checkpointer.close()  # does not raise it again
    assert read_arrays(tmp_path, which)[2] == 2
