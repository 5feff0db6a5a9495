"""Runs from start to end: training, saving, resuming, errors and use of the adapter."""

import json
import shutil

import numpy as np
import pytest

import flaxae
from flaxae import peft
from flaxae.errors import ConfigError
from flaxae.models.causal_lm import data as data_lib
from flaxae.models.causal_lm import evaluation
from flaxae.models.causal_lm.task import Method
from flaxae.storage import checkpoint
from flaxae.storage.fingerprint import fingerprint
from flaxae.storage.workdir import prepare
from flaxae.training.loop import Loop, run
from flaxae.training.report import evaluate
from flaxae.training.setup import make_setup
from tests.helpers import arrays_of, assert_same, log_of
from tests.models.causal_lm.tiny import base, phi_base, tiny_config, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("causal_lm")


def trained(config, workdir):
    """Train a run, and check that the base in memory is unchanged."""
    config = prepare(config, workdir, None, True)
    with Loop(make_setup(config, workdir)) as loop:
        before = fingerprint(loop.setup.frozen.values)
        result = loop.train()
        assert fingerprint(loop.setup.frozen.values) == before
    return result


@pytest.fixture(scope="module")
def straight(folder):
    """Train eight steps without a stop."""
    workdir = folder / "straight"
    return workdir, trained(tiny_config(folder), workdir)


def test_a_resumed_run_is_bit_exact(folder, straight):
    workdir, result = straight
    assert result.status == "done"
    config = tiny_config(folder, steps=4, optim__decay_steps=8)
    assert run(config, folder / "stopped").status == "done"
    config = tiny_config(folder, optim__decay_steps=8)
    again = run(config, folder / "stopped")
    assert_same(arrays_of(folder / "stopped"), arrays_of(workdir))
    assert again.metrics == result.metrics
    losses = [row["loss"] for row in log_of(folder / "stopped") if row["split"] == "train"]
    assert losses == [row["loss"] for row in log_of(workdir) if row["split"] == "train"]
    assert losses[-1] < losses[0] - 0.05


def test_a_checkpoint_contains_only_the_adapter(straight):
    workdir, _ = straight
    names = arrays_of(workdir)
    assert names and all(
        "adapters" in n
        for n in names
        if n.startswith(("['params']", "['opt']"))
        and names[n].ndim  # the optimizer's count has no axes
    )
    _, extra, _ = checkpoint.read_arrays(workdir)
    loaded = flaxae.load(workdir)
    assert extra["frozen"] == peft.base_fingerprint(loaded.model)
    from flaxae import lm

    plain = lm.load(loaded.config.pretrained).model
    assert extra["frozen"] == peft.base_fingerprint(plain)


def test_a_run_is_evaluated_and_loaded_as_an_adapter(folder, straight, capsys):
    workdir, _ = straight
    loaded = flaxae.load(workdir)
    result = evaluate(workdir)
    text = capsys.readouterr().out
    assert result["test"]["trained"] < result["test"]["base"]
    assert result["trained_parameters"] == peft.count_params(loaded.model) == 2 * 8 * (32 + 24)
    assert "the adapter, for PEFT" in text and "answer:" in text
    from flaxae import generate, lm

    plain = lm.load(folder / "base").model
    arrays = checkpoint.read_arrays(workdir)[0]
    average, last = (arrays[name]["blocks"]["self_attn"] for name in ("ema", "params"))
    for source in (workdir, workdir / "report" / "adapter"):
        model = peft.load_adapter(plain, source, "mine")
        for module in ("q_proj", "v_proj"):
            ours = getattr(model.blocks.self_attn, module).adapters["mine"]
            theirs = getattr(loaded.model.blocks.self_attn, module).adapters["default"]
            np.testing.assert_array_equal(ours.B[...], theirs.B[...])
            # The moving average, which differs from the last parameters.
            np.testing.assert_array_equal(ours.B[...], average[module]["adapters"]["default"]["B"])
            assert np.any(ours.B[...] != last[module]["adapters"]["default"]["B"])
    command = ["", "--model", str(folder / "base"), "--adapter", str(workdir)]
    assert generate.main([*command, "--max-new-tokens", "4", "say 3 1"]) == 0


def test_generate_builds_the_same_prompt_as_training(folder, straight, tmp_path):
    from flaxae import generate
    from flaxae.lm.loading import LoadedModel

    workdir, _ = straight
    tok = tokenizer()
    lm = LoadedModel(None, tok, ())

    def asked(source, **fields):
        ids = generate.prompt_ids(lm, "say 3", task=generate.task_of(str(source)), **fields)
        return tok.decode(ids, special=True)

    pair = data_lib.Pair("say 3", "x")
    trained_on = data_lib.encoded([pair], tok, (2,))[0].prompt
    assert asked(workdir) == tok.decode(trained_on, special=True) == "say 3\n"
    assert asked(workdir, chat=False) == "say 3"
    assert (
        asked(workdir / "report" / "adapter") == asked(tmp_path) == "say 3"
    )  # not the folder of a run
    shutil.copy(workdir / "adapter_config.json", tmp_path)
    config = json.loads((workdir / "config.json").read_text())
    config["task"]["system"] = "be kind"
    (tmp_path / "config.json").write_text(json.dumps(config))
    tok.template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    trained_on = data_lib.encoded([pair], tok, (2,), "be kind")[0].prompt
    assert asked(tmp_path) == tok.decode(trained_on) == "<system>be kind<user>say 3"
    assert asked(tmp_path, system="be brief") == "<system>be brief<user>say 3"
    config["task"]["class"] = "mine.task:Mine"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert asked(tmp_path) == "<user>say 3"


def test_an_adapter_of_another_base_raises(folder, straight, tmp_path):
    workdir, _ = straight
    from flaxae import lm

    other = lm.load(base(tmp_path / "other", seed=1)).model
    with pytest.raises(ConfigError, match="it was trained on another base"):
        peft.load_adapter(other, workdir)
    base(folder / "base", seed=1)
    try:
        with pytest.raises(ConfigError, match="frozen part"):
            fields = {"pretrained": str(folder / "base"), "steps": 9, "optim__decay_steps": 9}
            fields["data__path"] = str(folder / "pairs.jsonl")
            run(tiny_config(tmp_path, **fields), workdir)
        with pytest.raises(ConfigError, match="the frozen part of the model is not the one"):
            flaxae.load(workdir)
    finally:
        base(folder / "base")


@pytest.mark.parametrize(
    "method",
    [Method.DORA, *(pytest.param(m, marks=pytest.mark.slow) for m in (Method.NORMS, Method.FULL))],
)
def test_dora_norms_and_full_training_reduce_the_loss(method, folder, tmp_path):
    config = tiny_config(folder, task__adapter__method=method, steps=4)
    trained(config, tmp_path / "run")
    losses = [row["loss"] for row in log_of(tmp_path / "run") if row["split"] == "train"]
    assert min(losses[2:]) < losses[0]
    loaded = flaxae.load(tmp_path / "run")
    assert bool(peft.adapter_names(loaded.model)) == (method is not Method.FULL)
    task, base = loaded.task, evaluation.untrained(loaded.task)
    before = evaluation.row_sums(task, base, "test", 0.0).sum(0)
    row = evaluation.losses(task, loaded.model, "test", base if method is Method.FULL else None)
    np.testing.assert_allclose(row["base"], before[0] / before[1], rtol=1e-6)
    assert row["trained"] < row["base"] - 1e-3
    if method is Method.DORA:  # magnitudes start as the norms of the base, not of zeros
        q = loaded.model.blocks.self_attn.q_proj
        magnitude = np.asarray(q.adapters["default"].magnitude[...])
        start = np.linalg.norm(np.asarray(q.kernel[...]), axis=1)
        assert 1e-3 < np.abs(magnitude - start).max() < 0.05
    if method is Method.FULL:
        with pytest.raises(ConfigError, match="a run without an adapter"):
            from flaxae import lm

            peft.load_adapter(lm.load(folder / "base").model, tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "leaf", "count"),
    [
        # 2 layers of attention (4 of 16), MLP (24 and 16) and a norm; the last norm; the head.
        (Method.BIAS, "bias", 2 * (4 * 16 + 24 + 16 + 16) + 16 + 260),
        (Method.IA3, "factors", 2 * (16 + 16 + 24)),  # q, v, and what fc2 reads
    ],
)
def test_a_phi_trains_its_biases_and_factors(method, leaf, count, folder, tmp_path):
    fields = {"task__adapter__method": method, "pretrained": str(phi_base(tmp_path / "phi"))}
    config = tiny_config(folder, **fields, optim__lr=0.05, optim__weight_decay=0.0, steps=6)
    trained(config, tmp_path / "run")
    losses = [row["loss"] for row in log_of(tmp_path / "run") if row["split"] == "train"]
    assert losses[-1] < losses[0] - 0.02
    arrays = arrays_of(tmp_path / "run")
    saved = {n: x for n, x in arrays.items() if n.startswith("['params']")}
    assert saved and all("adapters" in n and n.endswith(f"['{leaf}']") for n in saved)
    assert sum(x.size for x in saved.values()) == count
    assert peft.count_params(flaxae.load(tmp_path / "run").model) == count


def test_training_on_two_devices_equals_one(folder, straight, tmp_path):
    config = tiny_config(folder, steps=2, optim__decay_steps=8)
    config.mesh.fsdp = 2
    run(config, tmp_path / "two")
    a, b = (
        [r["loss"] for r in log_of(w) if r["split"] == "train"][:2]
        for w in (tmp_path / "two", straight[0])
    )
    np.testing.assert_allclose(a, b, atol=1e-4)
