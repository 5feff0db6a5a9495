"""A tiny LM-VAE in the training loop: cached states, resuming, devices, loading, saving."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxae
from flaxae.data.tokenizer import PAD
from flaxae.errors import ConfigError
from flaxae.explore import Explorer
from flaxae.models.lm_vae import evaluation
from flaxae.models.lm_vae import states as states_lib
from flaxae.models.lm_vae.api import LMVAE
from flaxae.task import Context
from flaxae.text_autoencoder.protocol import open_model
from flaxae.training.loop import run
from tests.helpers import arrays_of, assert_same, log_of
from tests.models.lm_vae.tiny import LENGTH, texts, tiny_config

pytestmark = pytest.mark.slow  # compiles whole runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lm_vae")


@pytest.fixture(scope="module")
def straight(folder):
    """Train four steps without a stop."""
    result = run(tiny_config(folder), folder / "straight")
    assert result.status == "done"
    return folder / "straight"


@pytest.fixture(scope="module")
def vae(straight):
    return open_model(straight)


def test_a_resumed_run_is_bit_exact_and_reads_the_stored_states(folder, straight, monkeypatch):
    def no_states(*args):
        raise AssertionError("the states are in the cache")

    monkeypatch.setattr(states_lib, "pooled_texts", no_states)
    run(tiny_config(folder, steps=2, optim__decay_steps=4), folder / "stopped")
    run(tiny_config(folder, optim__decay_steps=4), folder / "stopped")
    assert_same(arrays_of(folder / "stopped"), arrays_of(straight))
    losses = [r["loss"] for r in log_of(straight) if r["split"] == "train"]
    assert losses[-1] < losses[0]


def test_only_the_adapter_and_the_maps_around_the_code_are_trained(straight):
    names = [n for n in arrays_of(straight) if n.startswith("['params']")]
    assert names and all("adapters" in n for n in names if "['lm']" in n)
    own = {n.split("'")[3] for n in names if "['lm']" not in n}
    assert own == {"centre", "spread", "read", "read_hidden", "write"}


def test_batches_contain_the_states_of_their_texts(folder, straight):
    loaded = flaxae.load(straight)
    batch = loaded.task.data("train").batch(3)
    ctx = Context(jax.random.key(0), jnp.int32(0))
    for bucket in batch.values():
        want = loaded.model.pooled(jnp.asarray(bucket["ids"]), ctx)
        np.testing.assert_allclose(bucket["states"], want, atol=2e-3, rtol=2e-3)
        assert (bucket["ids"] != PAD).any(1).all()
    last = loaded.task.data("dev")
    last = last.batch(last.num_batches - 1)
    empty = np.concatenate([b["states"][b["weight"] == 0] for b in last.values()])
    assert len(empty) and not empty.any()
    pooled = loaded.task.data("train")._states.astype(np.float32)
    np.testing.assert_allclose(np.asarray(loaded.model.centre[...]), pooled.mean(0), atol=0.2)


def test_texts_go_through_the_code_and_back(vae, tmp_path):
    assert isinstance(vae, LMVAE) and vae.max_length == LENGTH
    lines = texts()[:3]
    z = vae.encode(lines)
    assert z.shape == (3, 1, 8) and len(vae.decode(z)) == 3
    assert len(vae.interpolate(lines[0], lines[1], steps=3)) == 3
    assert set(vae.training_labels() or "") == {"0", "1"} and len(vae.sample(2)) == 2
    vae.save_pretrained(tmp_path / "saved")
    again = LMVAE.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(again.encode(lines), z)
    assert again.decode(z) == vae.decode(z)


def test_the_explorer_opens_a_run_and_knows_the_labels(vae):
    explorer = Explorer(vae)
    assert len(explorer.between(*texts()[:2]).texts) > 2
    assert set(explorer.corpus.labels) == {"0", "1"}


def test_options_that_change_the_language_model_are_errors(folder):
    from flaxae.models.lm_vae.task import Method

    config = tiny_config(folder, task__adapter__method=Method.FULL)
    with pytest.raises(ConfigError, match="use lora, dora or ia3"):
        config.freeze()
    with pytest.raises(ConfigError, match="the language model has its own"):
        run(tiny_config(folder, data__tokenizer="byt5"), folder / "wrong")


def test_training_on_eight_devices_equals_one(folder, straight):
    config = tiny_config(folder)
    config.mesh.replica, config.mesh.fsdp, config.mesh.model = 2, 2, 2
    run(config, folder / "eight")
    a, b = (
        [r["loss"] for r in log_of(w) if r["split"] == "train"]
        for w in (folder / "eight", straight)
    )
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_a_report_has_all_parts(straight, tmp_path, capsys):
    loaded = flaxae.load(straight)
    result = evaluation.report(loaded, str(tmp_path), evaluation.SMALL)
    assert {"splits", "latent", "references", "samples", "interpolation"} <= set(result)
    assert "LM-VAE at step 4" in capsys.readouterr().out
    assert (tmp_path / "report.json").is_file() and (tmp_path / "latent_map.png").is_file()
