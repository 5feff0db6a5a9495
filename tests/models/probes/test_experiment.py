"""Collection, fitting, saving and the report of a tiny run; a stop changes no number."""

import copy
import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from datasets import Dataset
from flax import nnx

import flaxae
from flaxae import peft
from flaxae.errors import ConfigError
from flaxae.lm import loading
from flaxae.models.probes import __main__ as command
from flaxae.models.probes import (
    collecting,
    evaluation,
    experiment,
    files,
    report,
    report_page,
    run_states,
    state_collector,
    verdicts,
)
from flaxae.models.probes.fitted import KINDS
from flaxae.models.probes.importance import ia3_factors
from flaxae.models.probes.prompts import Format, PromptStyle
from flaxae.models.probes.run_states import PAIRS
from flaxae.task import Loaded
from tests.models.causal_lm.tiny import base as write_base
from tests.models.causal_lm.tiny import phi_base
from tests.models.probes.tiny import questions, tiny_config

HOOKS = ("resid_out", "mlp_post")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("experiment")


@pytest.fixture(scope="module")
def loaded(folder):
    """Make a run whose adapter is drawn at random; negated statements are a set of their own."""
    config = tiny_config(folder)
    rows = [json.loads(x) for x in open(config.data.sets[0])]
    negated = folder / "negated.jsonl"
    more = [r | {"prompt": "not " + r["prompt"], "polarity": -1} for r in rows]
    negated.write_text("\n".join(map(json.dumps, more)) + "\n")
    config.data.sets = (*config.data.sets, str(negated))
    config.data.ood = (questions(folder / "other.jsonl", 3, 100),)
    task = config.task.make(config)
    model = peft.add_adapter(loading.load(config.pretrained).model, task.adapter)
    graphdef, adapter, rest = nnx.split(model, task.trainable, ...)
    draw = np.random.default_rng(0)
    adapter = jax.tree.map(lambda x: x + draw.normal(size=x.shape).astype(np.float32), adapter)
    return Loaded(nnx.merge(graphdef, adapter, rest), config, task, 0, folder)


def collected(loaded, store, **options):
    """Collect without a shared beginning: few programs."""
    options = {"pairs": False, "rows": 24, "share_prefix": False} | options
    return run_states.collect_run(loaded, store, hooks=HOOKS, layers=(0, 1), part=24, **options)


@pytest.fixture(scope="module")
def states(loaded, folder):
    return collected(loaded, folder / "states")


def test_states_of_both_sides_equal_those_of_a_plain_pass(states, loaded):
    table, task = states.table, loaded.task
    prompts = task.prompts(task.splits["test"])
    rows = table.where(split="test")
    found = evaluation.answers(task, loaded.model, prompts)
    for i, side in enumerate(evaluation.SIDES):
        np.testing.assert_allclose(rows.p[i], found[side].p, atol=1e-5)
        np.testing.assert_allclose(rows.cov[i], found[side].cov, atol=1e-6)
    assert rows["lie"].tolist() == [int(p.lie) for p in prompts]
    assert np.abs(table.p[0] - table.p[1]).max() > 1e-3
    assert table.states["resid_out"].shape == (2, len(table), 2, 16)
    assert table.states["mlp_post"].shape[-1] == 24


def test_files_are_arrow_tables_with_the_hash_of_the_adapter(states, folder):
    parts = sorted((folder / "states" / states.table.adapter).glob("*.arrow"))
    rows = Dataset.from_file(str(parts[0]))
    assert set(rows["adapter"]) == {states.table.adapter} and len(rows) <= 24
    assert {*collecting.COLUMNS, "p", "cov", *HOOKS} <= set(rows.column_names)
    assert states.table.adapter == state_collector.adapter_hash(states.loaded.model) != ""


def with_same_programs(monkeypatch, states, model):
    """Let collections use the programs of `states`, on another model of the same form."""
    found = copy.copy(states.collector)
    found.model, found._collector = model, copy.copy(found._collector)
    found._state = found._collector.state = nnx.split(model)[1]
    monkeypatch.setattr(run_states, "StateCollector", lambda *_: found)
    return found


def assert_same(table, other):
    for hook, x in other.states.items():
        np.testing.assert_array_equal(table.states[hook], x)
    np.testing.assert_array_equal(table.p, other.p)


@pytest.mark.parametrize("files_before", [1, 2, 5])
def test_a_killed_collection_continues_with_the_same_bits(
    states, loaded, tmp_path, monkeypatch, files_before
):
    with_same_programs(monkeypatch, states, loaded.model)
    write, written = collecting.Part.write, []

    def stopped(part, path, *rest):
        if len(written) == files_before:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".1.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path)
        write(part, path, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(collecting.Part, "write", stopped)
        collected(loaded, tmp_path)
    assert len(list(tmp_path.rglob("*.arrow"))) == files_before
    assert_same(collected(loaded, tmp_path).table, states.table)


def test_a_second_adapter_reads_the_states_of_the_base(states, loaded, tmp_path, monkeypatch):
    graphdef, adapter, rest = nnx.split(loaded.model, loaded.task.trainable, ...)
    model = nnx.merge(graphdef, jax.tree.map(lambda x: x * 0.5, adapter), rest)
    second = dataclasses.replace(loaded, model=model)
    store = tmp_path / "shared"
    with_same_programs(monkeypatch, states, loaded.model)
    collected(loaded, store)
    before = {path: path.stat().st_mtime_ns for path in (store / "base").iterdir()}
    with_same_programs(monkeypatch, states, model)
    after_it, alone = collected(second, store).table, collected(second, tmp_path / "alone").table
    assert before == {path: path.stat().st_mtime_ns for path in (store / "base").iterdir()}
    assert_same(after_it, alone)
    np.testing.assert_array_equal(alone.p[0], states.table.p[0])
    assert np.abs(alone.p[1] - states.table.p[1]).max() > 1e-4


def test_stored_states_are_those_of_a_dtype_template_and_version(states, loaded, monkeypatch):
    prompts = loaded.task.prompts(loaded.task.splits["test"])
    keys = {collecting._key(states.collector, prompts, "b")}
    for dtype, template in (("float32", "a"), ("float32", "b"), ("bfloat16", "b")):
        other = copy.copy(states.collector)
        other.model = SimpleNamespace(config=SimpleNamespace(dtype=dtype))
        other.tokenizer = SimpleNamespace(template=template)
        style = PromptStyle(Format.CHAT)
        other.settings = dataclasses.replace(states.collector.settings, style=style)
        keys.add(collecting._key(other, prompts, "b"))
    monkeypatch.setattr(state_collector, "VERSION", 0)
    keys.add(collecting._key(states.collector, prompts, "b"))
    assert len(keys) == 5


def test_broken_and_foreign_files_are_errors(states, loaded, folder):
    store = folder / "states"
    path = sorted((store / "base").glob("*.arrow"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="not a complete file"):
        collected(loaded, store)
    path.write_bytes(whole)
    with pytest.raises(ConfigError, match="states of another model, hook, layer or prompt"):
        collecting.read_part(path, "other", HOOKS)
    with pytest.raises(ConfigError, match="the model has layers 0 to 1"):
        run_states.collect_run(loaded, store, layers=(7,))


def test_importance_is_that_of_the_trained_factors(loaded):
    factors = ia3_factors(loaded.model, "mlp_post")
    assert factors.shape == (2, 24)
    with pytest.raises(ConfigError, match="IA3 scales the states of mlp_post, not of 'resid_out'"):
        ia3_factors(loaded.model, "resid_out")
    lora = peft.add_adapter(loading.load(loaded.config.pretrained).model, peft.LoRAConfig(r=1))
    with pytest.raises(ConfigError, match="no IA3 factors of down_proj or fc2"):
        ia3_factors(lora, "mlp_post")


@pytest.mark.slow  # compiles the collector again
def test_a_saved_probe_gives_the_same_probabilities(states, loaded, tmp_path):
    fitted = experiment.fit("mass_mean", states.table, "resid_out", "adapter", layer=1)
    rows = states.table.where(split="test", lie=0)
    want = fitted.proba(rows)
    experiment.as_probe(states, fitted).save_pretrained(tmp_path)
    assert {"probe.safetensors", "probe.json", "adapter"} <= {p.name for p in tmp_path.iterdir()}
    probe = flaxae.Probe.from_pretrained(tmp_path, hook="resid_out", layer=1, arm="adapter")
    # Texts whose prompts happen to show the examples in the order of the saved probe.
    prompts = loaded.task.prompts(loaded.task.splits["test"], (False,))
    for name in ("set", "negated"):
        mine = probe._prompts([p.example.prompt for p in prompts], name)
        shown = [
            i for i, (a, b) in enumerate(zip(prompts, mine, strict=True)) if a.shots == b.shots
        ]
        assert {prompts[i].example.dataset for i in shown} == {name}
        got = probe.predict_proba([prompts[i].example.prompt for i in shown], name)
        np.testing.assert_allclose(got[:, 1], want[shown], atol=1e-4)
    assert "hook='resid_out'" in repr(probe)
    for wrong in ({"hook": "mlp_post"}, {"layer": 0}, {"adapter": "x"}, {"format": "chat"}):
        with pytest.raises(ConfigError, match=f"is a probe of {next(iter(wrong))}"):
            flaxae.Probe.from_pretrained(tmp_path, **wrong)
    other, origin = files.load(tmp_path)
    base = loading.load(loaded.config.pretrained)
    with pytest.raises(ConfigError, match="and this model has none: add the adapter"):
        type(probe)(other, origin, base.model, base.tokenizer)
    foreign = loading.load(str(write_base(tmp_path / "foreign", seed=1)))
    with pytest.raises(ConfigError, match="open the model that it was fitted on"):
        type(probe)(other, origin, foreign.model, base.tokenizer)
    with pytest.raises(ConfigError, match="give a list of texts"):
        probe.predict_proba("text")


def test_files_of_a_probe_are_read_as_they_were_written(states, tmp_path):
    fitted = experiment.fit("mass_mean", states.table, "resid_out", "diff", layer=1)
    probe = SimpleNamespace(kind="mass_mean", tensors=fitted.probe.tensors)
    sets = {"s": files.Shown(("no", "yes"), (("q?", "yes"), ("r?", "no")))}
    origin = files.Origin("m", "b", "resid_out", (1,), "diff", "a", "phi", "", sets, digest="d")
    files.save(tmp_path, probe, origin)
    again, same = files.load(tmp_path)
    assert same == origin
    x = states.table.features("resid_out", "diff")[1]
    np.testing.assert_array_equal(again.scores(x), fitted.probe.scores(x))
    with pytest.raises(ConfigError, match="is a probe of layer 1, not 0: open another probe"):
        origin.check("here", layer=0)
    with pytest.raises(ConfigError, match="colour: a probe has model, base, hook"):
        origin.check("here", colour=1)
    (tmp_path / "probe.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match="not the tensors of a mass_mean probe"):
        files.load(tmp_path)


def test_pickles_and_incomplete_folders_are_errors(tmp_path):
    (tmp_path / "probe.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match="no probe.json; probe.pt is a pickle, which is not read"):
        files.load(tmp_path)
    (tmp_path / "probe.json").write_text('{"probe": "logistic"}')
    with pytest.raises(ConfigError, match="no field adapter"):
        files.load(tmp_path)


def test_a_dictionary_of_other_states_is_an_error(states):
    sae = SimpleNamespace(origin=SimpleNamespace(model="", hook="resid_out", layer=7))
    with pytest.raises(ConfigError, match="reads resid_out of layer 7, and there are"):
        experiment.fit_latents(states.table, sae)
    sae.origin.model = "other"
    with pytest.raises(ConfigError, match="the dictionary is of other, and the states are of base"):
        experiment.fit_latents(states.table, sae)


@pytest.mark.slow  # fits every kind of probe
def test_the_report_has_every_probe_and_the_dummy(states, loaded, tmp_path):
    whole = collected(loaded, tmp_path / "states", pairs=True, rows=8, share_prefix=True)
    pairs = whole.table.states[f"{PAIRS}resid_out"]
    assert np.abs(pairs[0] - pairs[1])[whole.table["lie"] == 0].max() > 1e-3
    assert np.isnan(pairs[:, whole.table["lie"] == 1]).all()
    for hook in HOOKS:
        np.testing.assert_allclose(whole.table.states[hook], states.table.states[hook], atol=1e-4)
    states = whole
    # A dictionary with one latent per sign of a feature: its probe knows what the states know.
    origin = SimpleNamespace(model="", hook="resid_out", layer=1)
    signs = SimpleNamespace(origin=origin, encode=lambda x: np.maximum(np.c_[x, -x], 0))
    numbers = report.measure_run(states, draws=20, sae=signs)
    path = report_page.write({"run": numbers}, tmp_path)
    text = path.read_text()
    assert "dummy, decoded" in text and "base answer" in text and "adapter answer" in text
    roles = {row["role"] for row in numbers["rows"]}
    assert roles == {*KINDS, "sae", "sae_states", "answer", "decoded answer", "dummy"}
    assert not numbers["skipped"] and set(numbers["claims"]) == set(verdicts.CLAIMS)
    # Every probe is fitted twice, but TTPD.
    fitted = [(row["role"], row["polarity"]) for row in numbers["rows"] if row["hook"]]
    for role in {*KINDS, "sae", "sae_states"} - {"ttpd"}:
        count = fitted.count((role, "both"))
        assert count == fitted.count((role, "affirmative")) > 0
    assert (tmp_path / "run_00.png").stat().st_size > 10_000
    assert "affirmative only" in text and "ood other" in text
    assert set(numbers["lies"]) == {"prompted", "prompted, with the adapter"}
    again = report.measure_run(states, draws=20, sae=signs)
    assert json.dumps(again) == json.dumps(numbers)


def test_the_command_names_runs_of_other_tasks(tmp_path):
    assert command.run_main(command.main, ["probes", "collect", str(tmp_path / "none")]) == 2
    with pytest.raises(SystemExit):
        command.main(["probes", "fit"])
    with pytest.raises(ConfigError, match="--layers='a'"):
        command._numbers("a")


@pytest.mark.slow  # compiles
def test_a_phi_goes_through_the_same_code(tmp_path):
    config = tiny_config(tmp_path)
    config.pretrained = str(phi_base(tmp_path / "phi"))
    task = config.task.make(config)
    model = peft.add_adapter(loading.load(config.pretrained).model, task.adapter)
    graphdef, adapter, rest = nnx.split(model, task.trainable, ...)
    adapter = jax.tree.map(lambda x: x * 1.5, adapter)
    run = Loaded(nnx.merge(graphdef, adapter, rest), config, task, 0, tmp_path)
    table = collected(run, tmp_path / "states").table
    prompts = task.prompts(task.splits["test"])
    found = evaluation.answers(task, run.model, prompts)
    for i, side in enumerate(evaluation.SIDES):
        np.testing.assert_allclose(table.where(split="test").p[i], found[side].p, atol=1e-5)
    assert ia3_factors(run.model, "mlp_post").shape == (2, 24)
    weighted = experiment.fit("weighted", table, "mlp_post", model=run.model)
    assert np.isfinite(weighted.proba(table.where(split="test", lie=0))).all()
