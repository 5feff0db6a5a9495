"""Training of a dictionary on a tiny language model: start, resume, evaluation."""

import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import flaxae
from flaxae import dashboard as dashboard_command
from flaxae.activations import read
from flaxae.command import run_main
from flaxae.config import flags
from flaxae.config.serialize import set_field
from flaxae.data.pretrained import open_tokenizer
from flaxae.errors import ConfigError
from flaxae.lm.t5 import params as t5_params
from flaxae.lm.t5.blocks import T5Config
from flaxae.lm.t5.modeling import T5
from flaxae.models.sae import dashboard, evaluation, few_latents, probing, states, updates
from flaxae.models.sae.config import Scaling
from flaxae.models.sae.modeling import TrainedSAE, TrainedStates
from flaxae.models.sae.options import TRANSCODERS, Architecture
from flaxae.sparse_autoencoder.dashboard.vocabulary import Vocabulary
from flaxae.sparse_autoencoder.modules import Activation
from flaxae.sweep.plan import Plan
from flaxae.task import Context
from flaxae.training.hparams import make_hparams, traced_fields
from flaxae.training.layout import make_layout
from flaxae.training.loop import run
from flaxae.training.report import evaluate
from flaxae.training.state import make_state
from flaxae.training.step import make_eval_step, make_update
from tests.helpers import ROOT, arrays_of, assert_same, log_of
from tests.models.sae.tiny import config_of


@pytest.fixture(scope="module")
def trained(folder):
    return folder / "run", run(config_of(folder), folder / "run")


def test_a_run_learns_and_reports_its_measures(folder, trained):
    workdir, result = trained
    assert result.status == "done"
    rows = [row for row in log_of(workdir) if row["split"] == "train"]
    assert rows[-1]["fvu"] < rows[0]["fvu"] and rows[-1]["l0"] <= 4
    assert {"dead", "recon", "auxk", "l0"} <= set(rows[0])
    assert {"dev/fvu", "dev/never_active", "dev/dense", "dev/cosine", "dev/l0"} <= set(
        result.metrics
    )
    norms = np.linalg.norm(result.state["params"]["sae"]["w_dec"], axis=-1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    assert result.state["carry"]["once"]["factors"][0] != 1
    sae = flaxae.load(workdir).model.sae
    assert few_latents.supported(sae, Context(jax.random.key(0), jnp.int32(0), train=True))
    assert int(result.state["carry"]["once"]["silent"].max()) > 0


def test_a_resumed_run_is_bit_exact(folder, trained):
    workdir, result = trained
    stream = config_of(folder).task.make(config_of(folder)).data("train")
    assert stream.batches_per_block == 3  # step 4 is inside of a block
    assert run(config_of(folder, steps=4), folder / "stopped").status == "done"
    again = run(config_of(folder), folder / "stopped")
    assert_same(arrays_of(folder / "stopped"), arrays_of(workdir))
    assert again.metrics == result.metrics


def test_the_report_writes_a_dictionary_of_raw_states(folder, trained, capsys, monkeypatch):
    workdir, _ = trained
    monkeypatch.setattr(evaluation, "city_probes", lambda _: {"probe_k16": 0.5})
    loaded = flaxae.load(workdir)
    found = evaluate(workdir, workdir / "report")
    assert {"ce_spliced", "ce_ablated_zero", "probe_k16"} <= set(found) and found["fvu"] > 0
    # One row in a pass of two: the other one, which fills it up, does not count.
    rows = states.rows_of(loaded.task.source, loaded.task.splits["dev"], loaded.task.data_config)
    ids, mask = jnp.asarray(rows.ids[:1]), jnp.asarray(rows.mask[:1])
    model, ctx = loaded.task.source.model, Context(jax.random.key(0), jnp.int32(0))
    logs = np.asarray(jax.jit(lambda: jax.nn.log_softmax(model(ids, ctx, mask=mask)))())
    targets, weights = rows.ids[0, 1:], rows.mask[0, 1:]
    chosen = logs[0, np.arange(len(targets)), targets]
    want = -(chosen * weights).sum() / weights.sum()
    np.testing.assert_allclose(found["ce_clean"], want, rtol=1e-4)
    assert found["ce_rows"] == 1
    source = loaded.task.source
    sae = flaxae.SAE.from_pretrained(
        workdir / "report" / "saelens", hook="resid_out", layer=1, fingerprint=source.fingerprint
    )
    batch = loaded.task.data("dev").batch(0)
    x = batch["x"][batch["weight"] > 0]
    factor = loaded.model.factors[...][0]
    want = loaded.model.sae(x * factor, ctx) / factor
    np.testing.assert_allclose(sae(x), want, rtol=0, atol=1e-4)
    assert sae.origin.other["dataset_path"] == str(folder / "text.txt")
    assert sae.origin.normaliser == "expected_norm" and sae.origin.factor == pytest.approx(factor)
    with pytest.raises(ConfigError, match="not 'mlp_out'"):
        flaxae.SAE.from_pretrained(workdir / "report" / "saelens", hook="mlp_out")
    assert "flaxae.SAE.from_pretrained" in capsys.readouterr().out


def test_the_dashboard_of_a_run_reads_its_model_and_text(folder, trained, capsys):
    workdir, _ = trained
    out = folder / "page.html"
    args = [str(workdir), "--tokens=60", f"--out={out}", "--contexts=2"]
    assert run_main(dashboard_command.main, ["x", *args]) == 0
    data = json.loads(re.search(r'id="data">(.*?)</script>', out.read_text(), re.S)[1])
    about = data["about"]
    assert (about["hook"], about["layer"], about["d_sae"]) == ("resid_out", 1, 128)
    texts = ["".join(data["vocabulary"][i] for i in row) for row in data["rows"]]
    assert any("square" in text for text in texts) and about["tokens"] >= 60
    assert all(len(f["up"]) == len(f["down"]) == 8 for f in data["features"])
    capsys.readouterr()
    wrong = ["--hook=mlp_out", "--dtype=bfloat16"]
    assert run_main(dashboard_command.main, ["x", *args, *wrong]) == 2
    assert "--hook, --dtype: a run names its own model, type" in capsys.readouterr().err
    several = types.SimpleNamespace(options=config_of(folder, "vq").task)
    with pytest.raises(ConfigError, match="a run of vq has none"):
        dashboard.dashboard_input(types.SimpleNamespace(task=several, workdir="W"), 60)
    changed = flaxae.load(workdir)
    changed.extra["data"] = "0123"
    with pytest.raises(ConfigError, match="its data have changed since it was trained"):
        dashboard.dashboard_input(changed, 60)


def test_tokens_of_an_encoder_have_their_texts(t5_folder, folder):
    config = config_of(folder, **{"pretrained": str(t5_folder)})
    task = config.task.make(config)
    model = TrainedSAE(config.task, 8, 8, pool=0, rngs=nnx.Rngs(0))
    fields = {"task": task, "model": model, "workdir": "W", "check_data": lambda: None}
    inputs = dashboard.dashboard_input(types.SimpleNamespace(**fields), 60, ["a <b>"])
    vocabulary = Vocabulary(inputs)
    ids = [int(i) for i in inputs.rows.ids[0][inputs.rows.mask[0] > 0]]
    assert "".join(vocabulary.texts[vocabulary(i)] for i in ids) == "a <b>"


@pytest.mark.slow
def test_lanes_equal_single_runs(folder, trained):
    """Lanes differ in k: they select k_max latents and leave out those of higher rank."""
    _, single = trained
    lanes = [{"task.k": 2.0}, {"task.k": 4.0}]
    found = run(config_of(folder, **{"task.k_max": 4}), folder / "lanes", lanes)
    for name, x in single.state["params"]["sae"].items():
        lane = found.state["params"]["sae"][name][1]
        np.testing.assert_allclose(lane, x, rtol=0, atol=1e-5, err_msg=name)
    assert found.metrics["dev/l0"][0] <= 2 < found.metrics["dev/l0"][1] <= 4


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    """Write a tiny T5 with the tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("t5")
    config = T5Config(d_model=8, d_ff=12, d_kv=4, num_heads=2, num_layers=2, vocab_size=300)
    params = nnx.to_pure_dict(nnx.state(T5(config, rngs=nnx.Rngs(0)), nnx.Param))
    t5_params.save(folder, params, config)
    open_tokenizer("byt5").save(folder / "tokenizer.json")
    return folder


def test_the_states_of_a_t5_encoder_can_be_read(folder, t5_folder, monkeypatch):
    fields = {"pretrained": str(t5_folder), "task.hook": "mlp_in", "data.skip_first": 0}
    config = config_of(folder, "transcoder", **fields)
    task = config.task.make(config)
    batch = task.data("dev").batch(0)
    assert batch["x"].shape == batch["y"].shape == (32, 8) and not task.source.causal
    model = task.source.model
    rows = states.rows_of(task.source, task.splits["dev"], task.data_config)
    _, found = read.collect(
        model,
        jnp.asarray(rows.ids[:4]),
        Context(jax.random.key(0), jnp.int32(0)),
        hooks=["mlp_in"],
        layers=[1],
        mask=jnp.asarray(rows.mask[:4]),
    )
    want = np.asarray(found["mlp_in"][0])[rows.use[:4]][:32]
    # Tokens of an encoder see the whole row, so it has one text.
    assert ((rows.ids == task.source.separator) & (rows.mask > 0)).sum(1).max() == 1
    np.testing.assert_allclose(batch["x"][: len(want)], want, rtol=0, atol=1e-5)
    # A run whose model has a T5 is read in the same way.
    (folder / "vae" / "latest").mkdir(parents=True)
    t5 = t5_params.build(*t5_params.load(t5_folder))
    holder = types.SimpleNamespace(t5=t5, encoder_positions=None)
    text = types.SimpleNamespace(tokenizer=open_tokenizer("byt5"))
    loaded = types.SimpleNamespace(model=holder, task=types.SimpleNamespace(text=text))
    monkeypatch.setattr(states, "load_run", lambda _: loaded)
    opened = states.open_model(str(folder / "vae"), "float32", "float32")
    assert opened.encode(["a"]) == task.source.encode(["a"]) and opened.fingerprint
    holder.encoder_positions = 1
    with pytest.raises(ConfigError, match="added positions are not supported"):
        states.open_model(str(folder / "vae"), "float32", "float32")


def test_importance_is_read_from_a_file(folder):
    path = folder / "importance.safetensors"
    save_file({"importance": np.arange(16, dtype=np.float32)}, path)
    config = config_of(folder, **{"task.importance": str(path)})
    np.testing.assert_array_equal(config.task.make(config).importance, np.arange(16))
    save_file({"importance": np.ones(5, np.float32)}, path)
    with pytest.raises(ConfigError, match=r"importance has shape \(5,\), the states have \(16,\)"):
        _ = config.task.make(config).importance


@pytest.mark.slow
def test_probes_of_facts_read_the_states_of_the_dictionary(folder, trained):
    workdir, _ = trained
    loaded = flaxae.load(workdir)
    loaded.task.importance = np.arange(16, dtype=np.float32)
    found = evaluation.city_probes(loaded, facts=20)
    measures = ("output", *(f"k{k}" for k in probing.SPARSE))
    assert set(found) == {"probe_states"} | {
        f"{name}_{x}" for name in ("probe", "probe_weighted") for x in measures
    }
    assert all(0 <= value <= 1 for value in found.values())
    config = config_of(folder, "layered")
    task = config.task.make(config)
    model = TrainedStates(config.task, 2, 16, rngs=nnx.Rngs(0))
    several = evaluation.city_probes(types.SimpleNamespace(task=task, model=model), facts=20)
    assert set(several) == {"probe_states", *(f"probe_{x}" for x in measures)}


def test_a_compiled_step_and_evaluation_in_units_of_normalised_states(folder):
    """With importance and resampling; what is written gives the same measures of raw states."""
    path = folder / "weights.safetensors"
    save_file({"importance": np.full(16, 2, np.float32)}, path)
    fields = {"task.importance": str(path), "task.resample_every": 1, "task.dead_after": 1}
    config = config_of(folder, **fields)
    config.task.scaling = Scaling.LAYER_NORM
    config.freeze()
    task = config.task.make(config)
    layout, hparams = make_layout(task, config), make_hparams(task, [config], False)
    batch = task.data("train").batch(0)
    batch["x"] = batch["x"] * 5 + 3  # far from the units of the dictionary
    state = jax.jit(lambda: make_state(task, config, hparams))()
    new, metrics = jax.jit(make_update(task, config, layout))(state, {}, batch, hparams)
    assert metrics["loss"] > 0
    model = layout.merge(new["params"], new["carry"], {})
    ctx = Context(jax.random.key(0), jnp.int32(1), hparams={"sparsity": jnp.float32(0)})
    sums = jax.jit(lambda batch: task.eval_step(model, batch, ctx))(batch)
    found = task.finalize(jax.device_get(sums))
    sae, origin = evaluation.exported(types.SimpleNamespace(task=task, model=model))
    assert origin.skip_first == task.data_config.skip_first
    x = batch["x"].astype(np.float64)
    error = flaxae.SAE(sae, origin)(batch["x"]) - x
    want = np.square(error).sum() / np.square(x - x.mean(0)).sum()
    np.testing.assert_allclose(found["fvu"], want, rtol=1e-4)
    pool = np.asarray(new["carry"]["once"]["pool_x"])
    np.testing.assert_allclose(pool.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(pool.std(1, ddof=1), 1, rtol=1e-3)


def test_states_of_other_types_are_other_data(folder):
    marks = []
    for dtype in ("float32", "bfloat16"):
        config = config_of(folder, **{"task.model_dtype": dtype})
        marks.append(config.task.make(config).data("train").fingerprint)
    assert marks[0] != marks[1]


def test_lanes_must_share_the_batches_that_they_start_from(folder):
    lanes = [{"data.seed": 0}, {"data.seed": 1}]
    with pytest.raises(ConfigError, match="lanes have different data: SAETask"):
        run(config_of(folder), folder / "other_lanes", lanes)


def test_micro_batches_are_refused_where_the_loss_is_of_a_batch(folder):
    for name, fields, ok in (
        ("standard", {}, True),
        ("fsq", {}, True),
        ("standard", {"task.resample_every": 2}, False),
        ("topk", {}, False),  # the variance of AuxK
        ("topk", {"task.loss.auxiliary_weight": 0.0}, True),
        ("batch_topk", {}, False),
        ("jumprelu", {}, True),
        ("vq", {}, False),
        ("layered", {}, False),
    ):
        config = config_of(folder, name, accumulate=2, **fields)
        if ok:
            config.task.make(config)
            continue
        with pytest.raises(ConfigError, match=f"accumulate=2: the loss of {name}"):
            config.task.make(config)


@pytest.mark.parametrize("kind", [a for a in Architecture if a is not Architecture.TOPK])
def test_every_architecture_has_a_loss_and_gradients(folder, kind):
    """A whole update and an evaluation are traced, not compiled."""
    config = config_of(folder, kind.value)
    task = config.task.make(config)
    spec = task.batch_spec()
    assert ("y" in spec) == (kind in TRANSCODERS)
    layout, hparams = make_layout(task, config), make_hparams(task, [config], False)
    state = jax.eval_shape(lambda: make_state(task, config, hparams))
    update = make_update(task, config, layout)
    new, metrics = jax.eval_shape(update, state, {}, spec, hparams)
    assert jax.tree.map(lambda x: x.shape, new) == jax.tree.map(lambda x: x.shape, state)
    assert {"loss", "recon", "l0", "fvu"} <= set(metrics)
    eval_step = make_eval_step(task, layout, jax.make_mesh((1,), ("fsdp",)))[1]
    at = (state["params"], state["carry"], {}, spec, hparams, jnp.int32(0), jnp.int32(0))
    sums = jax.eval_shape(eval_step, *at)
    found = task.finalize(jax.tree.map(lambda x: np.ones(x.shape, np.float32), sums))
    assert {"loss", "fvu", "l0"} <= set(found)


def test_constraints_and_resampling_of_a_state(folder):
    config = config_of(folder, "jumprelu", **{"task.resample_every": 2, "task.dead_after": 5})
    rng = np.random.default_rng(0)
    shapes = {"w_enc": (4, 6), "w_dec": (6, 4), "b_enc": (6,), "b_dec": (4,), "threshold": (6,)}
    shapes |= {"r_mag": (6,), "b_mag": (6,)}  # of gated ones
    sae = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}
    state = {
        "step": jnp.int32(2),
        "params": {"sae": sae},
        "carry": {"once": {
            "silent": jnp.asarray([9, 0, 0, 0, 0, 7], jnp.int32),
            "pool_x": jnp.asarray(rng.normal(size=(8, 4)), jnp.float32),
            "pool_loss": jnp.ones(8),
        }, "stream": {}},
        "opt": {"count": jnp.int32(2), "mu": {"sae": jax.tree.map(jnp.ones_like, sae)}},
    }  # fmt: skip
    ctx = Context(jax.random.key(0), jnp.int32(2))
    new = jax.jit(lambda s: updates.constrained(s, ctx, config.task))(state)
    assert (np.asarray(new["params"]["sae"]["threshold"]) >= 0).all()
    np.testing.assert_array_equal(new["carry"]["once"]["silent"], np.zeros(6))
    dead = np.asarray([1, 0, 0, 0, 0, 1], bool)
    moment = new["opt"]["mu"]["sae"]
    np.testing.assert_array_equal(np.asarray(moment["b_enc"]) == 0, dead)
    np.testing.assert_array_equal((np.asarray(moment["w_enc"]) == 0).all(0), dead)
    np.testing.assert_array_equal((np.asarray(moment["w_dec"]) == 0).all(1), dead)
    for name, value in {"threshold": config.task.threshold, "r_mag": 0, "b_mag": 0}.items():
        np.testing.assert_array_equal(np.asarray(moment[name]) == 0, dead)
        np.testing.assert_allclose(new["params"]["sae"][name][dead], value)
    np.testing.assert_array_equal(new["params"]["sae"]["b_mag"][~dead], sae["b_mag"][~dead])
    assert new["opt"]["count"] == 2 and np.asarray(moment["b_dec"]).all()
    changed = np.asarray(new["params"]["sae"]["w_dec"] != sae["w_dec"]).any(1)
    np.testing.assert_array_equal(changed, dead)
    grads = {"sae": {**sae}}
    flat = updates.projected(grads, {"sae": {"w_dec": sae["w_dec"] / jnp.linalg.norm(
        sae["w_dec"], axis=1, keepdims=True)}})  # fmt: skip
    np.testing.assert_allclose(flat["sae"]["w_dec"], 0, atol=1e-6)


def test_the_first_batches_give_factors_and_means(folder):
    """The mean is the shift of sums of squares, which would lose digits without it."""
    config = config_of(folder, "layered")
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(20, 2, 3)) + 100).astype(np.float32)
    weight = (np.arange(20) < 17).astype(np.float32)
    x[17:] = 0
    zeros = {"factors": jnp.ones(2), "mean": jnp.zeros((2, 3))}
    state = {"carry": {"once": zeros}, "params": {}, "ema": {}}
    batches = iter([{"x": x, "weight": weight}] * 9)
    new = updates.from_data(state, batches, config.task)["carry"]["once"]
    factor = 3**0.5 / np.linalg.norm(x[:17], axis=-1).mean()
    np.testing.assert_allclose(new["factors"][0], factor, rtol=1e-5)
    np.testing.assert_allclose(new["mean"], factor * x[:17].mean(0), rtol=1e-5)


def test_the_geometric_median_resists_outliers():
    x = np.concatenate([np.random.default_rng(0).normal(size=(99, 3)), [[1e4] * 3]])
    assert np.abs(updates.geometric_median(x)).max() < 0.5 < np.abs(x.mean(0)).max()


def test_wrong_configs_raise(folder):
    for architecture, field, value, message in (
        ("topk", "task.layers", (1, 2), "task.layers=.* is for vq, fsq and layered"),
        ("vq", "task.scaling", "layer_norm", "not supported by vq"),
        ("topk", "data.prefetch", 2, "data.prefetch=2 must be 0"),
        ("topk", "data.block_rows", 3, "not a multiple of data.model_rows"),
        ("transcoder", "task.resample_every", 5, "is for autoencoders"),
        ("layered", "task.resample_every", 5, "is for autoencoders of one layer"),
        ("transcoder", "task.hook", "resid_out", "task.hook=resid_out is not computed before"),
        ("transcoder", "task.hook", "mlp_out", "task.hook=mlp_out is not computed before"),
        ("fsq", "task.importance", "file", "task.importance is not supported by fsq"),
        ("matryoshka", "task.loss.widths", (), "task.loss.widths and task.architecture=matryo"),
        ("topk", "task.loss.widths", (8, 16), "task.loss.widths and task.architecture=matryo"),
        ("matryoshka", "task.loss.widths", (8, 256), "none above it"),
        ("matryoshka", "task.loss.widths", (128,), "the first must be below"),
        ("topk", "task.k", 2.5, "task.k=2.5 of topk must be an integer"),
        ("batch_topk", "task.k_max", 5, "task.k_max=5 is for top-k"),
        ("topk", "task.k_max", 2, "task.k=4.0 is above task.k_max=2"),
    ):
        config = config_of(folder, architecture)
        if field == "task.scaling":
            value = type(config.task.scaling)(value)
        set_field(config, field, value)
        with pytest.raises(ConfigError, match=message):
            config.freeze()
    config = config_of(folder, "transcoder", **{"task.k": 4.0})
    config.task.activation = Activation.GROUPMAX
    config.freeze()
    assert config.task.dictionary(8, 8).k == 4
    with pytest.raises(ConfigError, match="no architecture 'typo'"):
        flags.load_config(str(ROOT / "configs/sae/smollm2_topk.py:typo"))


def test_the_pareto_sweep_is_one_program_and_draws_its_runs(tmp_path):
    for preset in ("topk", "batch_topk", "standard"):
        file = f"{ROOT}/configs/sae/pareto.py:{preset}"
        config = flags.load_config(file)
        config.freeze()
        plan = Plan.of(file, [])
        task = config.task.make(config)
        assert set(plan.runs[0]) <= traced_fields(task) and len(plan.runs) == 5
    rows = [{"dev/l0": 8.0, "dev/fvu": 0.4}, {"dev/l0": 32.0, "dev/fvu": 0.2}]
    (tmp_path / "table.md").write_text("table\n")
    assert plan.finish(rows, tmp_path, tmp_path).startswith("table\n")
    assert (tmp_path / "pareto.png").stat().st_size > 5000
