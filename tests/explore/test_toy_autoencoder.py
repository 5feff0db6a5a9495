"""A family of the user's own in the explorer: opened in a notebook and from the command line."""

import numpy as np
import pytest

from flaxae import explore
from flaxae.config.files import load_config
from flaxae.errors import ConfigError
from flaxae.explore import __main__ as command
from flaxae.explore import server as server_lib
from flaxae.text_autoencoder import protocol
from flaxae.training.loop import run
from tests.explore import toy_autoencoder
from tests.explore.toy_autoencoder import ToyAutoencoder, ToyConfig

CONFIG = toy_autoencoder.__file__
LINES = [f"{word} = {i}" for i in range(12) for word in ("x", "y", "count", "name", "self")]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Train the run of `python train.py --config=tests/explore/toy_autoencoder.py`."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "lines.txt").write_text("\n".join(LINES))
    config = load_config(CONFIG)
    config.data.path, config.data.batch_size = str(folder / "lines.txt"), 16
    config.log.every, config.log.tensorboard, config.log.progress = 50, False, False
    config.mesh.fsdp = 1
    run(config, folder / "run")
    return folder / "run"


def test_the_run_has_learned_its_texts(workdir):
    explorer = explore.Explorer.open(workdir, config=CONFIG)
    some = explorer.texts[:20]
    assert sum(explorer.reconstruct(text).exact for text in some) >= 15
    assert explorer.model.step == 200


def test_a_notebook_opens_the_users_object(workdir):
    model = ToyAutoencoder.from_pretrained(workdir, ToyConfig)
    assert isinstance(model, protocol.Autoencoder)
    explorer = explore.Explorer(model, LINES)
    assert explorer.texts == LINES
    assert explorer.between(LINES[0], LINES[1]).texts[0] == explorer.reconstruct(LINES[0]).decoded
    assert explore.app(explorer) is not None


def test_the_command_opens_the_run_with_its_config_file(workdir, monkeypatch):
    served = []
    monkeypatch.setattr(server_lib, "serve", lambda explorer, **options: served.append(explorer))
    with pytest.raises(ConfigError, match="not part of flaxae.*--config=FILE"):
        command.main(["explore", str(workdir), "--port=0"])
    assert command.main(["explore", str(workdir), "--port=0", f"--config={CONFIG}"]) == 0
    (explorer,) = served
    assert set(explorer.texts) <= set(LINES) and len(explorer.texts) > 50
    explorer.warm_up()
    for prior in ("normal", "gaussian"):
        assert len(explorer.samples(prior, 3).texts) == 3


def test_a_saved_model_opens_with_the_config_file(workdir, tmp_path):
    model = ToyAutoencoder.from_pretrained(workdir, ToyConfig)
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "lines.txt").write_text("\n".join(LINES))
    explorer = explore.Explorer.open(tmp_path / "saved", tmp_path / "lines.txt", config=CONFIG)
    np.testing.assert_array_equal(explorer.model.encode(LINES), model.encode(LINES))


def test_the_copied_code_names_the_config_file(workdir):
    explorer = explore.Explorer.open(workdir, config=CONFIG)
    space = {}
    exec(explorer.opening, space)
    np.testing.assert_array_equal(space["explorer"].codes, explorer.codes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("nowhere.py", "there is no file nowhere.py"),
        ("configs/t5_vae/python_lines.py", "a run of ToyConfig, but .* T5VAEConfig"),
    ],
)
def test_a_config_file_that_does_not_fit_is_an_error(workdir, config, message):
    with pytest.raises(ConfigError, match=message):
        explore.Explorer.open(workdir, config=config)


def test_a_task_without_an_autoencoder_is_an_error(workdir, monkeypatch):
    monkeypatch.delattr(ToyConfig, "open_autoencoder")
    with pytest.raises(ConfigError, match="ToyConfig, which is not a text autoencoder"):
        protocol.open_model(workdir, ToyConfig)


def test_an_object_without_the_methods_is_an_error(workdir, monkeypatch):
    monkeypatch.setattr(ToyConfig, "open_autoencoder", classmethod(lambda cls, source: object()))
    with pytest.raises(ConfigError, match="returned a object without num_latents, dim"):
        protocol.open_model(workdir, ToyConfig)
