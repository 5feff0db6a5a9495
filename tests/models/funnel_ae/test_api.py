"""flaxae.FunnelAE: codes and texts, saved models, and one clear error per mistake."""

import doctest
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import flaxae
from flaxae.data.tokenizer import train
from flaxae.errors import ConfigError
from flaxae.lm.funnel import params as funnel_params
from flaxae.models.funnel_ae.latents import Bottleneck, Encoding, LatentConfig
from flaxae.models.funnel_ae.skips import Skip, SkipConfig
from flaxae.text_autoencoder.api import TextAutoencoder
from flaxae.text_autoencoder.latent_stats import Statistics
from flaxae.text_autoencoder.pretrained import Pretrained
from flaxae.text_autoencoder.saving import write
from tests.models.funnel_ae.tiny import texts, tiny_funnel

LINES = [f"{word} = {i}" for i in range(6) for word in ("x", "y", "name", "import os", "self")]
SHORT = ["import os", "return self.x", "y = 2"]


def make(folder, *, length=16, **options):
    """Return an untrained model and a tokenizer with fewer ids."""
    config = texts(folder, data__max_length=length, data__vocab_size=280, **options)
    config.freeze()
    task = config.task.make(config)
    model = task.init(nnx.Rngs(params=0, frozen=1))
    return flaxae.FunnelAE(model, config, train(LINES, 270), 7, lines=lambda: LINES)


@pytest.fixture(scope="module")
def ae(tmp_path_factory):
    return make(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def saved(ae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    ae.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_docstring_examples_of_all_methods_run(ae):
    runner, tests = doctest.DocTestRunner(), []
    for cls in (flaxae.FunnelAE, TextAutoencoder, Pretrained):
        tests += doctest.DocTestFinder().find(cls, cls.__name__, globs={"ae": ae, "vae": ae})
    for test in tests:
        runner.run(test)
    result = runner.summarize(verbose=False)
    assert result.failed == 0 and result.attempted >= 15


def test_sampling_draws_each_place_and_the_best_ids_are_drawn_at_top_k_1(ae):
    z = ae.encode(SHORT)
    assert ae.decode(z, temperature=1.0, top_k=1) == ae.decode(z)
    drawn = ae.decode(z, temperature=3.0, seed=1)
    assert drawn == ae.decode(z, temperature=3.0, seed=1) != ae.decode(z, temperature=3.0, seed=2)
    assert ae.decode(z[1:2]) == ae.decode(z)[1:2]


BAD = {
    "beams": (lambda m: m.decode(np.zeros((1, 4 * 8)), beams=4), "there are no beams"),
    "no beams": (lambda m: m.reconstruct(["a"], beams=0), "beams=0"),
    "width": (lambda m: m.decode(np.zeros((2, 8, 5))), r"shape \(2, 8, 5\).*\(n, 8, 4\)"),
    "count": (lambda m: m.decode(np.zeros((2, 4, 4))), r"shape \(2, 4, 4\).*\(n, 8, 4\)"),
    "not finite": (lambda m: m.decode(np.full((2, 8, 4), np.nan)), "not finite"),
    "long": (lambda m: m.encode(["z" * 40]), "41 tokens .* limit is 16"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(ae, name):
    call, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        call(ae)


def test_a_saved_model_is_opened_bit_for_bit(ae, saved):
    again = flaxae.FunnelAE.from_pretrained(saved)
    np.testing.assert_array_equal(again.encode(SHORT), ae.encode(SHORT))
    assert again.reconstruct(SHORT) == ae.reconstruct(SHORT)
    assert again.sample(2, prior="gaussian") == ae.sample(2, prior="gaussian")
    assert (again.step, again.config) == (7, ae.config)
    card = (saved / "README.md").read_text()
    assert "8 latent(s) of 4 numbers" in card and "flaxae.FunnelAE" in card


KINDS = {
    "random": {"task__latent__encoding": Encoding.RANDOM},
    "frozen": {"task__latent__encoding": Encoding.FROZEN},
    "kl": {"task__latent": LatentConfig(dim=4, kind=Bottleneck.KL, weight=0.1)},
    "blocks": {"task__latent": LatentConfig(dim=4, block_dims=(1,))},
    "residual": {"task__skip": SkipConfig(kind=Skip.RESIDUAL), "task__share": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_saved_whole(tmp_path, kind):
    """Compare parameters and codes, without compiling a model of each kind."""
    config = texts(tmp_path, data__vocab_size=280, **KINDS[kind])
    config.freeze()
    task = config.task.make(config)
    model = task.init(nnx.Rngs(params=0, frozen=1))
    ae = flaxae.FunnelAE(model, config, train(LINES, 270), 3)
    shape = (ae.num_latents, ae.dim)
    statistics = Statistics.from_codes(np.random.default_rng(0).normal(size=(9, *shape)))
    write(tmp_path / "saved", model, config, ae.tokenizer, 3, statistics)
    again = flaxae.FunnelAE.from_pretrained(tmp_path / "saved")
    ours, theirs = (nnx.to_pure_dict(nnx.state(m, nnx.Param)) for m in (model, again._model))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert (again.num_latents, again.dim) == shape
    assert ("decoder" in theirs and "blocks" in theirs["decoder"]) == (kind != "residual")


def test_the_encoder_is_saved_as_a_hugging_face_funnel(ae, tmp_path):
    ae.save_encoder(tmp_path / "encoder")
    config, params = funnel_params.load(tmp_path / "encoder")
    assert config.num_decoder_layers == 0 and not config.separate_cls
    ours = nnx.to_pure_dict(nnx.state(ae._model, nnx.Param))
    for part in ("embeddings", "encoder"):
        jax.tree.map(np.testing.assert_array_equal, ours[part], params[part])
    raw = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert raw["architectures"] == ["FunnelBaseModel"] and raw["vocab_size"] == 280
    assert (tmp_path / "encoder" / "tokenizer.json").is_file()


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


NAME = "decoder/blocks/1/first/mlp/wi/kernel"


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda w: w.pop(NAME), rf"{NAME} is missing"),
        (lambda w: w.update(more=w[NAME]), "more is not a weight"),
        (lambda w: w.update({NAME: w[NAME][:, :-1].copy()}), rf"{NAME} is \(16, 23\)"),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_wrong_weights_of_a_saved_model_are_named(copy, edit, message):
    change(copy, edit)
    with pytest.raises(ConfigError, match=message):
        flaxae.FunnelAE.from_pretrained(copy)


def edited(folder, **fields):
    """Change fields of the task in config.json."""
    file = folder / "config.json"
    raw = json.loads(file.read_text())
    for name, value in fields.items():
        section, _, field = name.partition("__")
        raw["task"][section][field] = value
    file.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"latent__dim": 6}, r"latents/1/down/bias is \(4,\), the config says \(6,\)"),
        ({"funnel__d_ff": 32}, r"mlp/wi/bias is \(24,\), the config says \(32,\)"),
    ],
    ids=["width of the latents", "width of the layers"],
)
def test_a_config_of_other_sizes_than_the_weights_is_refused(copy, fields, message):
    edited(copy, **fields)
    with pytest.raises(ConfigError, match=message):
        flaxae.FunnelAE.from_pretrained(copy)


def test_statistics_of_codes_of_another_width_are_refused(copy):
    arrays = load_file(copy / "statistics.safetensors")
    arrays |= {name: arrays[name][:, :3].copy() for name in ("mean", "std")}
    save_file(arrays, copy / "statistics.safetensors")
    with pytest.raises(ConfigError, match=r"shape \(8, 3\), but the model's codes have \(8, 4\)"):
        flaxae.FunnelAE.from_pretrained(copy)


def test_a_run_whose_config_has_other_latents_is_refused(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "run")
    edited(copy, latent__dim=6)
    with pytest.raises(ConfigError, match=r"latents/1/down/bias is \(4,\), the config says"):
        flaxae.FunnelAE.from_pretrained(copy)


def test_a_model_of_another_family_is_refused(saved):
    with pytest.raises(ConfigError, match="is a run of FunnelAEConfig, not of a T5-VAE"):
        flaxae.T5VAE.from_pretrained(saved)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"data__max_length": 4, "task__funnel": tiny_funnel(block_sizes=(1,) * 4)}, "multiple"),
        ({"task__skip": SkipConfig(kind=Skip.LINEAR, begin=5, finish_by=(5,))}, "before it begins"),
    ],
)
def test_configs_that_cannot_be_trained_are_refused(tmp_path, options, message):
    config = texts(tmp_path, **options)
    with pytest.raises(ConfigError, match=message):
        config.freeze()
        config.task.make(config)
