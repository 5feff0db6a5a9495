"""The explorer with a T5-VAE: the same answers as its API, no compilation after warm-up."""

import jax
import numpy as np
import pytest

import flaxae
from flaxae.data.tokenizer import train
from flaxae.errors import ConfigError
from flaxae.explore.backend import Explorer
from flaxae.text_autoencoder import protocol
from tests.models.t5_vae.tiny import tiny_config, tiny_model

LINES = [f"{word} = {i}" for i in range(6) for word in ("x", "y", "name", "import os", "self")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = tiny_config(data__max_length=32, data__vocab_size=280)
    config.freeze()
    model = tiny_model(config.task.make(config))
    vae = flaxae.T5VAE(model, config, train(LINES, 270), 7, lines=lambda: LINES)
    path = tmp_path_factory.mktemp("model")
    vae.save_pretrained(path)
    (path / "lines.txt").write_text("\n".join(LINES))
    return path


@pytest.fixture(scope="module")
def explorer(folder):
    made = Explorer.open(folder, folder / "lines.txt")
    made.warm_up()
    return made


def test_answers_equal_those_of_the_model_api(explorer):
    vae = explorer.model
    assert isinstance(vae, protocol.Autoencoder) and isinstance(vae, flaxae.T5VAE)
    a, b, c = LINES[:3]
    for how in ("slerp", "lerp", "denoised"):
        assert explorer.between(a, b, how).texts == vae.interpolate(a, b, 11, how)
    assert explorer.arithmetic(a, b, c).text == vae.analogy(a, b, c)
    assert explorer.samples("gaussian", 5, 0.7, 3).texts == vae.sample(5, 0.7, "gaussian", 3)
    near = [(n.text, n.distance) for n in explorer.neighbours(a, 5)]
    theirs = vae.nearest(a, explorer.texts, 5)
    assert [t for t, _ in near] == [t for t, _ in theirs]
    np.testing.assert_allclose([d for _, d in near], [d for _, d in theirs], atol=1e-5)
    options = {"decode_temperature": 1.0, "noise": 0.5, "seed": 3}
    assert explorer.samples("normal", 5, **options).texts == vae.sample(5, **options)
    assert explorer.reconstruct(a).decoded == vae.reconstruct([a])[0]


def test_nothing_is_compiled_after_warm_up(explorer):
    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x * 3.25 + 1)(np.float32(1)).block_until_ready()
        assert compiled  # the listener works
        compiled.clear()
        for length in (1, 2, 3, 5, 8, 12, 15, 16, 17, 24, 30):
            text = "z" * length
            explorer.between(text, "x")
            explorer.between_at("x", text, 30)
            explorer.between(text, "x", "denoised")
            explorer.arithmetic(text, "x", "yy")
            explorer.around(text, {0: 1.0})
            explorer.reconstruct(text)
        explorer.grid("x", 0, 1)
        explorer.place(0.1, 0.2)
        explorer.point(3)
        for n in (1, 5, 16, 40, 64):
            explorer.samples("normal", n)
            explorer.samples("gaussian", n)
            explorer.samples("normal", n, noise=0.5)
        assert compiled == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_the_copied_code_opens_the_same_explorer(explorer, folder):
    space = {}
    exec(explorer.opening, space)
    np.testing.assert_array_equal(space["explorer"].codes, explorer.codes)
    assert list((folder / "explore").glob("codes-*"))


def test_a_saved_model_without_texts_is_an_error(folder):
    with pytest.raises(ConfigError, match="--corpus=FILE"):
        Explorer.open(folder)


def test_the_error_for_a_long_text_names_the_limit(explorer):
    with pytest.raises(ConfigError, match="the model's limit is 32"):
        explorer.reconstruct("z" * 40)


@pytest.mark.slow
def test_the_labels_of_a_run_colour_its_map(tmp_path):
    from flaxae.training.loop import run

    labels = {line: line.split()[0] for line in LINES}
    (tmp_path / "lines.txt").write_text("\n".join(f"{labels[line]}\t{line}" for line in LINES))
    config = tiny_config(
        data__path=str(tmp_path / "lines.txt"),
        data__labels=True,
        data__max_length=32,
        data__vocab_size=280,
        data__batch_size=16,
        steps=2,
    )
    config.save.every = 2
    run(config, tmp_path / "run")
    explorer = Explorer.open(tmp_path / "run")
    assert explorer.groups("label") == [labels[text] for text in explorer.texts]
    assert "labels=True" not in explorer.opening
