"""The MMD in an LM-VAE's loss: its weights in a sweep, few texts; states that are not stored."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.lm_vae import sentences
from flaxae.config import Config
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.models.lm_vae import terms
from flaxae.models.lm_vae.states import StatesSource
from flaxae.models.lm_vae.task import LMVAEConfig, LMVAETask
from flaxae.task import Context

CODES = 3 + np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
BATCH = {
    "008": {
        "ids": np.asarray([[5, 6, 1, 0]] * 4),
        "weight": np.ones(4, np.float32),
        "states": CODES,
    }
}


def task_of(**options):
    task = LMVAEConfig(sizes="smollm2-135m", **options)
    return LMVAETask(Config(task=task, data=TextDataConfig(name="python_lines", batch_size=4)))


def context(train, **hparams):
    values = {name: jnp.float32(x) for name, x in hparams.items()}
    return Context(jax.random.key(0), jnp.int32(0), hparams=values, train=train)


class Model:
    """A model without reconstruction loss, whose codes are the first two pooled states."""

    end, max_length = 2, 4
    lm = SimpleNamespace(loss=lambda *_: (jnp.float32(0), jnp.float32(0)))

    def code(self, pooled, ctx):
        return pooled[:, None]

    def sigma(self, step):
        return jnp.float32(0.5)

    def received(self, z, sigma, ctx):
        return z

    def decode(self, *_):
        return None

    def generate(self, z, ctx, num_tokens):
        return jnp.asarray(BATCH["008"]["ids"])


def test_lanes_have_their_own_weight_of_the_mmd_in_training_and_evaluation(monkeypatch):
    task, model = task_of(mmd_weight=0.0), Model()
    tokenizer = SimpleNamespace(vocab_size=9)
    monkeypatch.setattr(LMVAETask, "text", SimpleNamespace(tokenizer=tokenizer))
    made: Any = model
    for weight in (0.0, 2.0):
        loss = task.loss(made, BATCH, context(True, mmd_weight=weight))
        value = loss.metrics["mmd"][0]
        assert value > 0 and float(loss.total) == pytest.approx(weight * float(value))
        found = task.finalize(task.eval_step(made, BATCH, context(False, mmd_weight=weight)))
        assert found["mmd"] > 0 and found["loss"] == pytest.approx(weight * found["mmd"])
        assert found["mmd_weighted"] == found["loss"]


def test_one_text_has_no_mmd():
    with pytest.raises(ConfigError, match="an MMD needs two texts per micro-batch"):
        terms.check_rows(task_of().config, 1)
    terms.check_rows(task_of(mmd_weight=0.0).config, 1)
    one = jnp.asarray(CODES[:1, None])
    for weight, value in ((0.0, 0.0), (1.0, np.nan)):
        kernel = LMVAEConfig().mmd_kernel
        found = terms.batch_mmd(one, kernel, context(True, mmd_weight=weight))
        np.testing.assert_equal(float(found), value)


def test_a_text_without_stored_states_is_an_error():
    batch = {"004": {"ids": np.asarray([[5, 1], [6, 1], [0, 0]]), "weight": np.asarray([1, 1, 0])}}
    copies = [{name: dict(x) for name, x in batch.items()} for _ in range(2)]
    source: Any = SimpleNamespace(
        num_batches=1,
        batches_per_epoch=1,
        fingerprint="",
        edges=(),
        kept=None,
        batch=lambda _: copies.pop(),
    )
    for ids, right in (([5, 6], True), ([5, 7], False)):
        table: Any = SimpleNamespace(ids=np.asarray(ids), starts=np.asarray([0, 1, 2]))
        states = StatesSource(source, table, np.asarray([[1.0], [2.0]]), 4)
        if right:
            np.testing.assert_array_equal(states.batch(0)["004"]["states"], [[1], [2], [0]])
        else:
            with pytest.raises(RuntimeError, match="has no pooled states"):
                states.batch(0)


@pytest.mark.parametrize("preset", sentences.PRESETS)
def test_configs_of_sentences_are_valid(preset):
    config = sentences.get_config(preset)
    config.freeze()
    assert config.steps == sentences.PRESETS[preset][0]


def test_an_unknown_preset_of_sentences_is_an_error():
    with pytest.raises(ConfigError, match="there are gpu, tpu, films"):
        sentences.get_config("full")
