"""The CALM-style baseline."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxae
from flaxae.config import Config, set_field
from flaxae.data.tokenizer import EOS, PAD
from flaxae.errors import ConfigError
from flaxae.models.funnel_ae.calm import CALMAutoencoder, CALMConfig, CALMModel, CALMSizes, CALMTask
from flaxae.task import Context
from flaxae.text_autoencoder.protocol import open_model
from flaxae.training.loop import run
from tests.helpers import log_of
from tests.models.funnel_ae.tiny import texts

CTX = Context(key=jax.random.key(0), step=jnp.int32(0))
SIZES = CALMSizes(chunk=4, dim=6, width=16, d_ff=24)


def config_of(folder: Path, **overrides: Any) -> Config:
    config = texts(folder)
    config.task = CALMConfig(calm=SIZES)
    for name, value in overrides.items():
        set_field(config, name.replace("__", "."), value)
    return config


@pytest.fixture(scope="module")
def model() -> CALMModel:
    sizes = dataclasses.replace(SIZES, vocab_size=40)
    return CALMModel(sizes, 8, rngs=nnx.Rngs(params=0))


@nnx.jit
def encode(model: CALMModel, ids: Any) -> Any:
    return model.encode([ids], CTX)


def rows(*ids: int) -> Any:
    return jnp.asarray([[*ids, *[PAD] * (8 - len(ids))]], jnp.int32)


def test_a_latent_depends_on_its_chunk_alone(model: CALMModel) -> None:
    first, second = (encode(model, rows(5, 6, 7, 8, last, EOS)) for last in (9, 10))
    assert first.shape == (1, 2, 6)
    np.testing.assert_array_equal(first[:, 0], second[:, 0])
    assert np.abs(first[:, 1] - second[:, 1]).max() > 1e-3
    z = jnp.concatenate([first, second])
    states = nnx.jit(lambda model, z: model.decode(z, CTX))(model, z)
    np.testing.assert_array_equal(states[0, :4], states[1, :4])
    assert np.abs(states[0, 4:] - states[1, 4:]).max() > 1e-3


def test_padding_does_not_change_a_code(model: CALMModel) -> None:
    short, long = encode(model, rows(5, 6, 7, EOS)[:, :4]), encode(model, rows(5, 6, 7, EOS))
    np.testing.assert_allclose(short, long, atol=1e-6)


def test_loss_is_that_of_the_definition(tmp_path: Path) -> None:
    """Compare with numpy: K times the cross entropy, and the KL of real chunks above its floor."""
    config = config_of(tmp_path)
    config.freeze()
    task: Any = config.task.make(config)
    model, batch = task.init(nnx.Rngs(params=0)), task.data("dev").batch(0)
    ids, weight = (np.asarray(x) for x in task.rows(batch))

    @nnx.jit
    def parts(model: Any) -> Any:
        mean, log_variance = model.posterior(jnp.asarray(ids), CTX)
        logits = model.tokens.attend(model.decode(mean, CTX), CTX)
        return task.loss(model, batch, CTX), mean, log_variance, logits

    found, *rest = parts(model)
    mean, log_variance, logits = (np.asarray(x, np.float64) for x in rest)
    real = (ids != PAD) * weight[:, None]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    entropy = -np.take_along_axis(logp, ids[..., None], -1)[..., 0]
    kl = np.maximum(0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance), 0.5).sum(-1)
    chunks = real.reshape(len(ids), 2, 4).max(-1)
    per_token = 4 * (entropy * real).sum() / real.sum() + 1e-3 * (kl * chunks).sum() / chunks.sum()
    assert float(found.total / found.weight) == pytest.approx(per_token, rel=1e-5)


@pytest.mark.slow
def test_a_run_opens_as_an_autoencoder(tmp_path: Path) -> None:
    config = config_of(tmp_path, steps=2, task__loss_chunks=2)
    run(config, tmp_path / "run")
    (logged,) = [row for row in log_of(tmp_path / "run") if row.get("split") == "dev"]
    assert 0 <= logged["exact_match"] <= 1
    opened: Any = open_model(tmp_path / "run")
    assert isinstance(opened, CALMAutoencoder)
    line = "import self"
    code = opened.encode([line])
    assert code.shape == (1, 2, 6)
    assert opened.decode(code) == opened.reconstruct([line])
    loaded = flaxae.load(tmp_path / "run")
    assert "dev" in loaded.task.report(loaded, str(tmp_path))["splits"]


def test_lengths_that_chunks_do_not_divide_are_an_error(tmp_path: Path) -> None:
    config = config_of(tmp_path, data__max_length=6)
    with pytest.raises(ConfigError, match=r"data.max_length=6 is not a multiple of task.calm.ch"):
        CALMTask(config)
    config = config_of(tmp_path, data__num_buckets=2)
    with pytest.raises(ConfigError, match=r"data.num_buckets=2"):
        CALMTask(config)
