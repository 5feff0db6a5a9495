"""Exact facts of the module: its language model, padding, generation, tokens, pooled states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae import peft
from flaxae.data.tokenizer import EOS, PAD
from flaxae.errors import ConfigError
from flaxae.models.lm_vae.modeling import LatentConfig, LMVAEModel
from flaxae.models.lm_vae.tokens import SHIFT, shifted
from tests.models.causal_lm.tiny import tokenizer
from tests.tiny.language_models import context, tiny

BEGIN, END, LENGTH, MEMORY = 1, 2, 9, 3
LATENT = LatentConfig(dim=6, layers=(0, 2), terms=3, memory_tokens=MEMORY)


@pytest.fixture(scope="module")
def models():
    """Return a model with a new adapter and a zero map, and one with random values."""
    lm = peft.add_adapter(tiny("llama"), peft.LoRAConfig(r=2, target_modules="all-linear"))
    new = LMVAEModel(lm, LATENT, LENGTH, begin=BEGIN, end=END, rngs=nnx.Rngs(0))
    graphdef, adapter, rest = nnx.split(new, peft.trainable(), ...)
    noise = np.random.default_rng(3)
    moved = jax.tree.map(lambda x: x + 0.2 * noise.normal(size=x.shape).astype("f"), adapter)
    model = nnx.merge(graphdef, moved, jax.tree.map(lambda x: x, rest))
    new.write.kernel[...] = np.zeros_like(new.write.kernel[...])
    return new, model


@jax.jit
def _encoded(model, ids):
    return model.pooled(ids, context()), model.encode([ids], context())


@jax.jit
def _forced(model, z, ids):
    return model.lm.logits(model.decode(z, ids, context()), context())


@jax.jit
def _stepped(model, z, ids):
    step, cache = model.decode_step(z, context())
    read = jnp.concatenate([jnp.full_like(ids[:, :1], PAD), ids[:, :-1]], axis=1)

    def body(cache, xs):
        scores, cache = step(xs[0], cache, xs[1])
        return cache, scores

    places = jnp.arange(LENGTH, dtype=jnp.int32)
    return jax.lax.scan(body, cache, (read.T, places))[1].swapaxes(0, 1)  # (B, T, V)


def rows(lengths, width=LENGTH):
    rng, out = np.random.default_rng(1), np.full((len(lengths), width), PAD, np.int32)
    for row, length in zip(out, lengths, strict=True):
        row[: length - 1], row[length - 1] = rng.integers(5, 53, length - 1), EOS
    return out


IDS = rows([9, 4, 6])


def test_a_new_adapter_and_a_zero_map_leave_the_language_model(models):
    z = np.random.default_rng(0).normal(size=(3, 1, 6)).astype(np.float32)
    read = np.where(IDS >= SHIFT, IDS - SHIFT, END)[:, :-1]
    read = np.concatenate([np.full((3, MEMORY), BEGIN, np.int32), read], axis=1)
    want = jax.jit(lambda lm, x: lm(x, context()))(tiny("llama"), read)[:, MEMORY - 1 :]
    np.testing.assert_allclose(_forced(models[0], z, IDS), want, atol=1e-5)


def test_codes_are_on_the_sphere_and_do_not_depend_on_padding_or_other_rows(models):
    _, z = _encoded(models[1], IDS)
    assert z.shape == (3, 1, 6) and z.dtype == jnp.float32
    np.testing.assert_allclose(np.mean(np.square(z), axis=-1), 1, rtol=1e-4)
    wider = np.pad(IDS[[1, 1, 2]], ((0, 0), (0, 2)))
    np.testing.assert_allclose(_encoded(models[1], wider)[1], z[jnp.asarray([1, 1, 2])], atol=1e-5)


def test_the_encoder_reads_the_language_model_without_its_adapter(models):
    pooled, _ = _encoded(models[1], IDS)
    np.testing.assert_array_equal(pooled, _encoded(models[0], IDS)[0])
    # The first coefficient is the mean of the states: the order of the words is in the others.
    states = np.asarray(pooled).reshape(3, 2, 3, 16)
    assert (np.abs(states).max(axis=(0, 1, 3)) > 1e-2).all()


def test_cached_generation_has_the_scores_of_teacher_forcing(models):
    _, z = _encoded(models[1], IDS)
    forced, found = _forced(models[1], z, IDS), np.asarray(_stepped(models[1], z, IDS))
    real = IDS != PAD
    others = [i for i in range(50) if i != END]
    want = np.asarray(forced)[..., others][real]
    np.testing.assert_allclose(found[..., [SHIFT + i for i in others]][real], want, atol=1e-4)
    np.testing.assert_allclose(found[..., EOS][real], np.asarray(forced)[..., END][real], atol=1e-4)
    assert (found[..., [PAD, 2, SHIFT + END]] < -1e8).all()


def test_ids_are_those_of_the_language_model_after_three_special_ones(tmp_path):
    own, theirs = shifted(tokenizer()), tokenizer()
    assert own.vocab_size == theirs.vocab_size + SHIFT == 262
    for text in ("a b", "é ~"):
        plain = [SHIFT + i for i in theirs.encode([text], special=False)[0]]
        assert own.encode([text]) == [plain] and own.decode([[*plain, EOS, 7]]) == [text]
    text = "a</s><pad>"  # names of special tokens are only text
    assert len(own.encode([text])[0]) == len(text) and own.decode(own.encode([text])) == [text]
    own.save(tmp_path / "tokenizer.json")
    assert type(own).load(tmp_path / "tokenizer.json").vocab == own.vocab


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match="noise_end=1.0 must be below 1"):
        LatentConfig(noise_end=1.0).validate()
    with pytest.raises(ConfigError, match="name different layers"):
        LatentConfig(layers=(1, 1)).validate()
