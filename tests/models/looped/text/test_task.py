"""The language model in the training loop: one compilation, random depth, its evaluation."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxae
from configs.looped.text import PRESETS, get_config
from flaxae.config import from_json, to_json
from flaxae.data.config import LongLines
from flaxae.errors import ConfigError
from flaxae.models.looped.text import evaluation
from flaxae.models.looped.text.data import decode_row, encode_lines, targets_and_weights
from flaxae.storage import workdir as workdir_lib
from flaxae.task import Context
from flaxae.training.loop import Loop
from flaxae.training.setup import make_setup
from tests.helpers import log_of
from tests.models.looped.text.tiny import tiny_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    config = tiny_config(folder, task__model__injection="stable", steps=6)
    config = workdir_lib.prepare(config, folder / "w", None, True)
    with Loop(make_setup(config, folder / "w")) as loop:
        loop.train()
        assert loop.step_fn._cache_size() == 1  # for every number of loops
    return folder / "w"


def test_each_step_draws_a_new_number_of_loops(workdir):
    depths = {row["loops"] for row in log_of(workdir) if row["split"] == "train"}
    assert len(depths) > 1 and all(1 <= n <= 9 for n in depths)


def test_lines_become_rows_of_bytes_and_back():
    lines = ["ab", "é", "abcdefgh"]
    rows = encode_lines(lines, 4, LongLines.SKIP)
    np.testing.assert_array_equal(rows["bytes"][0], [97, 98, 10, 0])
    assert [decode_row(row) for row in rows["bytes"]] == lines[:2]
    assert rows["length"].tolist() == [3, 3]
    assert encode_lines(["abc"], 4, LongLines.SKIP)["length"].tolist() == [4]  # fits exactly
    cut = encode_lines(lines, 4, LongLines.TRUNCATE)
    assert bytes(cut["bytes"][2]) == b"abcd" and cut["length"][2] == 4
    _, weight = targets_and_weights(
        {k: jnp.asarray(v) for k, v in rows.items()} | {"weight": jnp.array([1.0, 0.0])}
    )
    np.testing.assert_array_equal(weight, [[1, 1, 1, 0], [0, 0, 0, 0]])
    with pytest.raises(ConfigError, match="max_length=4"):
        encode_lines(["abcdefgh"], 4, LongLines.SKIP)


def test_the_report_agrees_with_the_training_log(workdir, tmp_path, capsys):
    loaded = flaxae.load(workdir)
    found = loaded.task.report(loaded, str(tmp_path))
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert (tmp_path / "bits_by_loop.png").exists()
    assert "bits per byte" in (tmp_path / "bits_by_loop.svg").read_text()
    out = capsys.readouterr().out
    assert "| 4 |" in out and "test_line" in out and "decay of the state" in out
    assert 0 < found["decay"]["largest"] < 1
    dev = found["splits"]["dev"]
    assert len(dev["by_loop"]) == 4 and dev["lines"] == len(loaded.task.splits["dev"])
    low, value, high = (dev["by_loop"][2][k] for k in ("low", "value", "high"))
    assert low <= value <= high
    # The training loop's evaluation after the mean number of loops agrees.
    logged = [r for r in log_of(workdir) if r["split"] == "dev"][-1]
    assert logged["bits_per_byte"] == pytest.approx(value, rel=1e-4)
    assert logged["bits_per_byte"] == pytest.approx(logged["loss"] / np.log(2), rel=1e-4)


def test_the_growth_of_bits_is_that_of_the_last_loop_over_the_mean_number():
    bits = np.asarray([[8.0, 4.0], [4.0, 2.0], [2.0, 1.0]])
    found = evaluation.by_loop(bits, np.asarray([2.0, 1.0]), 2)
    assert found["by_loop"][0]["value"] == 4 and found["best_loop"] == 3
    assert found["last_over_mean"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_the_shares_of_numbers_of_loops_have_their_mean(workdir):
    options = flaxae.load(workdir).config.task
    share = evaluation.trained_share(options)
    assert share.sum() == pytest.approx(1) and len(share) == 9
    assert (share * np.arange(1, 10)).sum() == pytest.approx(3, abs=0.2)


def test_samples_are_single_lines_of_text(tmp_path):
    config = tiny_config(tmp_path)
    task = config.task.make(config)
    ctx = Context(jax.random.key(0), jnp.int32(0))
    texts = task.sample(task.init(nnx.Rngs(0)), ctx, 2)["samples"]
    assert len(texts) == 2 and all(isinstance(t, str) and "\n" not in t for t in texts)


@pytest.mark.parametrize("preset", PRESETS)
def test_config_files_are_valid(preset):
    config = get_config(preset)
    config.freeze()
    assert to_json(from_json(to_json(config))) == to_json(config)
    task = config.task.make(config)
    with pytest.raises(ConfigError, match="small, stable"):
        get_config("large")
    assert task.flops(task.batch_spec(), {}) > 1e9


def test_mistakes_in_the_config_are_named(tmp_path):
    for overrides, word in [
        ({"task__loops": 0}, "task.loops=0"),
        ({"task__report_loops": (4, 1)}, "report_loops"),
        ({"task__model__num_heads": 3}, "num_heads"),
    ]:
        with pytest.raises(ConfigError, match=word):
            tiny_config(tmp_path, **overrides).freeze()
    config = tiny_config(tmp_path)
    with pytest.raises(ConfigError, match="no split"):
        config.task.make(config).data("test_file")


def test_a_report_of_one_line_has_no_intervals_and_names_splits_without_lines(
    tmp_path, capsys, monkeypatch
):
    config = tiny_config(tmp_path, task__random_loops=False)
    task = config.task.make(config)
    task.splits = {"dev": [], "test_file": [], "test_line": []}

    def data(split):
        raise ConfigError(f"none of 3 lines of {split} has at most 8 bytes")

    task.data = data
    loaded = SimpleNamespace(task=task, model=None, step=7, check_data=lambda: None)
    found = evaluation.report(loaded, str(tmp_path))  # pyright: ignore[reportArgumentType]
    assert found["splits"] == {} and "none of 3 lines of dev" in found["left_out"]["dev"]
    assert "test_line is left out: none of 3 lines of test_line" in capsys.readouterr().out

    task.data = lambda split: None
    bits = np.linspace(8.0, 4.0, 12)[:, None]
    monkeypatch.setattr(evaluation, "line_bits", lambda *_: (bits, np.asarray([4.0])))
    monkeypatch.setattr(evaluation.figures, "bits_by_loop", lambda *_: None)
    found = evaluation.report(loaded, str(tmp_path))  # pyright: ignore[reportArgumentType]
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert found["splits"]["dev"]["by_loop"][0] == {"value": 2.0, "low": None, "high": None}
    printed = capsys.readouterr().out
    assert "unclear" in printed and "nan" not in printed
