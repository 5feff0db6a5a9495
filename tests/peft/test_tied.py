"""A saved embedding that is tied to the head, which keeps the base's table, as in PEFT."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae import lm, peft
from flaxae.errors import ConfigError
from flaxae.lm.loading import LoadedModel
from tests.peft.tiny import run_t5, t5
from tests.tiny.language_models import context, random_ids, tiny

CONFIG = peft.LoRAConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"])


def scores(model):
    return np.asarray(model(random_ids(2, 5), context()))


def adapted():
    model = peft.add_adapter(tiny("llama", tie_embeddings=True), CONFIG)
    saved = model.embed_tokens.adapters["default"].values["table"]
    saved[...] = 2 * saved[...] + 0.1
    return model


def test_a_tied_head_keeps_reading_the_bases_table():
    model, by_hand = adapted(), tiny("llama", tie_embeddings=True)
    table = by_hand.embed_tokens.table[...]
    by_hand.embed_tokens.table[...] = 2 * table + 0.1
    states = by_hand.states(random_ids(2, 5), context())
    np.testing.assert_allclose(scores(model), states @ table.T, atol=1e-4)
    args = states, random_ids(2, 5, seed=1), jnp.ones((2, 5)), context()
    whole, parts = (model.loss(*args, chunks=n)[0] for n in (0, 2))
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_merging_unties_the_head(tmp_path):
    model = adapted()
    merged = peft.merge(model)
    np.testing.assert_allclose(scores(merged), scores(model), atol=1e-5)
    assert not merged.config.tie_embeddings and model.config.tie_embeddings
    assert nnx.split(merged)[0] == nnx.split(tiny("llama", tie_embeddings=False))[0]
    LoadedModel(merged, None, ()).save(tmp_path)
    np.testing.assert_allclose(scores(lm.load(tmp_path).model), scores(model), atol=1e-5)


class Outer(nnx.Module):
    def __init__(self):
        self.t5 = t5(tie_embeddings=True)


def test_saving_a_t5s_shared_embedding_raises_unless_it_is_part_of_another_model():
    config = peft.LoRAConfig(target_modules=["q"], modules_to_save=["shared"])
    with pytest.raises(ConfigError, match="'shared' changes nothing in PEFT"):
        peft.add_adapter(t5(), config)
    model = peft.add_adapter(Outer(), config)
    saved = model.t5.embedding.adapters["default"].values["table"]
    saved[...] = saved[...] + 1
    assert np.abs(run_t5(model.t5) - run_t5(Outer().t5)).max() > 0.01
    with pytest.raises(ConfigError, match="t5/embedding: the head is tied to it"):
        peft.merge(model)
