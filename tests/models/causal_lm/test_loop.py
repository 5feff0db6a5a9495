"""A run from start to end: what is trained, saved, resumed, refused and used."""

import numpy as np
import pytest

import flaxae
from flaxae import checkpoint, peft
from flaxae.config import ConfigError
from flaxae.evaluate import evaluate
from flaxae.models.causal_lm import evaluation
from flaxae.models.causal_lm.task import Method
from flaxae.train_loop import run
from tests.helpers import arrays_of, assert_same, log_of
from tests.models.causal_lm.tiny import base, tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("causal_lm")


@pytest.fixture(scope="module")
def straight(folder):
    """Eight steps in one go."""
    workdir = folder / "straight"
    result = run(tiny_config(folder), workdir)
    return workdir, result


def test_a_resumed_run_is_bit_exact(folder, straight):
    workdir, result = straight
    assert result.status == "done"
    config = tiny_config(folder, steps=4, optim__decay_steps=8)
    assert run(config, folder / "torn").status == "done"
    config = tiny_config(folder, optim__decay_steps=8)
    again = run(config, folder / "torn")
    assert_same(arrays_of(folder / "torn"), arrays_of(workdir))
    assert again.metrics == result.metrics
    losses = [row["loss"] for row in log_of(folder / "torn") if row["split"] == "train"]
    assert losses == [row["loss"] for row in log_of(workdir) if row["split"] == "train"]
    assert losses[-1] < losses[0] - 0.05


def test_a_checkpoint_holds_the_subset_alone(straight):
    workdir, _ = straight
    names = arrays_of(workdir)
    assert names and all(
        "adapters" in n for n in names if n.startswith(("['params']", "['opt']"))
        and names[n].ndim  # the optimizer's count has no axes
    )  # fmt: skip
    _, extra, _ = checkpoint.read_arrays(workdir)
    loaded = flaxae.load(workdir)
    assert extra["frozen"] == peft.base_fingerprint(loaded.model)
    from flaxae import lm

    plain = lm.load(loaded.config.pretrained).model
    assert extra["frozen"] == peft.base_fingerprint(plain)  # training has not moved the base


def test_a_run_serves_as_an_adapter(folder, straight, capsys):
    workdir, _ = straight
    loaded = flaxae.load(workdir)
    result = evaluate(workdir)
    text = capsys.readouterr().out
    assert result["test"]["trained"] < result["test"]["base"]
    assert result["trained_parameters"] == peft.count_params(loaded.model) == 2 * 8 * (32 + 24)
    assert "the adapter, for PEFT" in text and "answer:" in text
    from flaxae import generate, lm

    plain = lm.load(folder / "base").model
    for source in (workdir, workdir / "report" / "adapter"):
        model = peft.load_adapter(plain, source, "mine")
        for module in ("q_proj", "v_proj"):
            ours = getattr(model.blocks.self_attn, module).adapters["mine"]
            theirs = getattr(loaded.model.blocks.self_attn, module).adapters["default"]
            np.testing.assert_array_equal(ours.B[...], theirs.B[...])
    command = ["", "--model", str(folder / "base"), "--adapter", str(workdir), "--no-chat"]
    assert generate.main([*command, "--max-new-tokens", "4", "say 3 1"]) == 0


def test_another_base_is_refused(folder, straight, tmp_path):
    workdir, _ = straight
    from flaxae import lm

    other = lm.load(base(tmp_path / "other", seed=1)).model
    with pytest.raises(ConfigError, match="it was trained on another base"):
        peft.load_adapter(other, workdir)
    base(folder / "base", seed=1)
    try:
        with pytest.raises(ConfigError, match="frozen part"):
            fields = {"pretrained": str(folder / "base"), "steps": 9, "optim__decay_steps": 8}
            fields["data__path"] = str(folder / "pairs.jsonl")
            run(tiny_config(tmp_path, **fields), workdir)
        with pytest.raises(ConfigError, match="the frozen part is not the one"):
            flaxae.load(workdir)
    finally:
        base(folder / "base")


@pytest.mark.parametrize("method", [Method.DORA, Method.NORMS, Method.FULL])
def test_other_methods_train_too(method, folder, tmp_path):
    config = tiny_config(folder, task__adapter__method=method, steps=4)
    run(config, tmp_path / "run")
    losses = [row["loss"] for row in log_of(tmp_path / "run") if row["split"] == "train"]
    assert min(losses[2:]) < losses[0]
    loaded = flaxae.load(tmp_path / "run")
    assert bool(peft.adapter_names(loaded.model)) == (method is not Method.FULL)
    task, base = loaded.task, evaluation.untrained(loaded.task)
    before = evaluation.row_sums(task, base, "test", 0.0).sum(0)
    row = evaluation.losses(task, loaded.model, "test", base if method is Method.FULL else None)
    np.testing.assert_allclose(row["base"], before[0] / before[1], rtol=1e-6)
    assert row["trained"] < row["base"] - 1e-3
    if method is Method.DORA:  # magnitudes start as the base's own lengths, not as those of zeros
        q = loaded.model.blocks.self_attn.q_proj
        magnitude = np.asarray(q.adapters["default"].magnitude[...])
        start = np.linalg.norm(np.asarray(q.kernel[...]), axis=1)
        assert 1e-3 < np.abs(magnitude - start).max() < 0.05
    if method is Method.FULL:
        with pytest.raises(ConfigError, match="a run without an adapter"):
            from flaxae import lm

            peft.load_adapter(lm.load(folder / "base").model, tmp_path / "run")


def test_two_devices_train_as_one(folder, straight, tmp_path):
    config = tiny_config(folder, steps=2, optim__decay_steps=8)
    config.mesh.fsdp = 2
    run(config, tmp_path / "two")
    a, b = ([r["loss"] for r in log_of(w) if r["split"] == "train"][:2]
            for w in (tmp_path / "two", straight[0]))  # fmt: skip
    np.testing.assert_allclose(a, b, atol=1e-4)
