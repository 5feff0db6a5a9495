"""A saved embedding that is tied to the head, which keeps the base's table, as in PEFT."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from flaxae import lm, peft
from flaxae.errors import ConfigError
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.lm.funnel.modeling import Funnel
from flaxae.lm.loading import LoadedModel
from tests.peft.tiny import moved, run_t5, t5
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
    want = run_t5(model.t5)
    np.testing.assert_allclose(run_t5(peft.merge(model).t5), want, atol=1e-4)


def test_an_embedding_without_a_head_is_merged_and_needs_no_untying():
    config = FunnelConfig(vocab_size=8, d_model=4, d_ff=4, num_heads=1, d_head=2, block_sizes=(1,))
    assert config.tie_embeddings  # the default, which means nothing without a head
    fields = peft.LoRAConfig(target_modules=["q_head"], modules_to_save=["word_embeddings"])
    model = peft.add_adapter(Funnel(config, rngs=nnx.Rngs(0)), fields)
    saved = model.embeddings.tokens.adapters["default"].values["table"]
    saved[...] = saved[...] + 1
    merged = peft.merge(model)
    np.testing.assert_array_equal(merged.embeddings.tokens.table[...], saved[...])


HEADS = {
    "saved": dict(target_modules=["PART"], modules_to_save=["lm_head"]),
    "both saved": dict(target_modules=["PART"], modules_to_save=["lm_head", "embed_tokens"]),
    "lora": dict(target_modules=["PART", "lm_head"]),
    "dora": dict(target_modules=["lm_head"], use_dora=True),
}
MODELS = {
    "llama": (lambda: tiny("llama", tie_embeddings=True), scores, "q_proj", "embed_tokens"),
    "t5": (lambda: t5(tie_embeddings=True), run_t5, "q", "embedding"),
}


def with_head(kind, method):
    """Return a tied model with a perturbed adapter of its head, and the model alone."""
    make, _, part, _ = MODELS[kind]
    fields = dict(HEADS[method])
    fields["target_modules"] = [part if x == "PART" else x for x in fields["target_modules"]]
    base = make()
    model = peft.add_adapter(base, peft.LoRAConfig(r=2, **fields))
    return moved(model, peft.trainable()), base


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("llama", "both saved"),
        ("llama", "lora"),
        *(pytest.param("llama", m, marks=pytest.mark.slow) for m in ("saved", "dora")),
        *(pytest.param("t5", m, marks=pytest.mark.slow) for m in ("saved", "lora")),
    ],
)
def test_a_tied_head_has_an_adapter_of_its_own(kind, method, tmp_path):
    model, base = with_head(kind, method)
    run, before = MODELS[kind][1], MODELS[kind][1](base)
    after = run(model)
    assert np.abs(after - before).max() > 0.05
    embedding = getattr(model, MODELS[kind][3])
    adapter = embedding.adapters["default"]
    assert (adapter.table is not None) is (method == "both saved")
    np.testing.assert_array_equal(run(peft.set_active(model, ())), before)
    alone = peft.remove_adapter(model, "default")
    assert nnx.split(alone)[0] == nnx.split(base)[0]
    np.testing.assert_array_equal(run(alone), before)
    merged = peft.merge(model)
    assert not merged.config.tie_embeddings
    np.testing.assert_allclose(run(merged), after, atol=1e-4)
    peft.save_adapter(model, tmp_path)
    np.testing.assert_array_equal(run(peft.load_adapter(base, tmp_path)), after)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert any(name.startswith("base_model.model.lm_head.") for name in names)


def test_a_saved_tied_head_reads_its_own_kernel_and_leaves_the_embedding():
    model, base = with_head("llama", "saved")
    model = peft.set_active(model, "default")
    head = model.embed_tokens.adapters["default"].head.saved.values["kernel"][...]
    ids = random_ids(2, 5)
    np.testing.assert_allclose(scores(model), model.states(ids, context()) @ head, atol=1e-4)
    np.testing.assert_array_equal(
        model.embed_tokens(ids, context()), base.embed_tokens(ids, context())
    )
    rows = {"adapter_scale": {"default": jnp.asarray([0.0, 1.0])}}
    mixed = np.asarray(model(ids, context(**rows)))
    np.testing.assert_array_equal(mixed[0], scores(base)[0])
    np.testing.assert_allclose(mixed[1], scores(model)[1], atol=1e-5)


def test_the_loss_in_parts_refuses_an_adapted_tied_head():
    model, _ = with_head("llama", "saved")
    args = model.states(random_ids(2, 5), context()), random_ids(2, 5), jnp.ones((2, 5)), context()
    with pytest.raises(ConfigError, match="chunks must be 0 if the head has an adapter"):
        model.loss(*args, chunks=2)


def test_a_copy_of_the_bases_head_beside_its_lora_must_be_the_base(tmp_path):
    model, base = with_head("llama", "lora")
    peft.save_adapter(model, tmp_path)
    table = np.asarray(base.embed_tokens.table[...])

    def with_copy(value):
        key = "base_model.model.lm_head.base_layer.weight"
        path = tmp_path / "adapter_model.safetensors"
        save_file(load_file(path) | {key: value}, path)

    with_copy(table)
    np.testing.assert_array_equal(scores(peft.load_adapter(base, tmp_path)), scores(model))
    with_copy(table + 1)
    with pytest.raises(ConfigError, match="lm_head.base_layer.weight differs from this base's"):
        peft.load_adapter(base, tmp_path)
