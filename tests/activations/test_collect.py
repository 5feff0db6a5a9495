"""States at the last token of many texts: equal to those of single texts, in few programs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae import peft
from flaxae.activations import collect as collection
from flaxae.activations import read as activations
from flaxae.activations.collect import Collector, padded_lengths, shared_prefix
from flaxae.errors import ConfigError
from tests.tiny.language_models import KINDS, context, tiny

HOOKS, LAYERS = ("resid_out", "mlp_post"), (1, 0)
PREFIX = [5, 6, 7, 8]
TEXTS = [PREFIX + [9 + i] * n for i, n in enumerate((3, 11, 1, 20, 2))]


def adapted(kind):
    """Return a model with a LoRA whose factors are not zero."""
    model = peft.add_adapter(tiny(kind), peft.LoRAConfig(r=2))
    for module in ("q_proj", "v_proj"):
        adapter = getattr(model.blocks.self_attn, module).adapters["default"]
        adapter.B[...] = jax.random.normal(jax.random.key(1), adapter.B.shape)
    return model


def uncollected(model):
    """Return the states by one call per side, all texts padded on the left in one batch."""
    width = max(map(len, TEXTS))
    ids, mask = (np.zeros((len(TEXTS), width), t) for t in (np.int32, np.float32))
    for row, text in enumerate(TEXTS):
        ids[row, width - len(text) :], mask[row, width - len(text) :] = text, 1
    last = jnp.full((len(TEXTS), 1), width - 1)

    @jax.jit
    def run(model):
        return activations.collect(
            model, ids, context(), hooks=HOOKS, layers=LAYERS, mask=mask, positions=last
        )[1]

    sides = [run(side) for side in (peft.set_active(model, ()), model)]
    return {
        hook: np.stack([np.moveaxis(states[hook][:, :, 0], 0, 1) for states in sides])
        for hook in HOOKS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_base_and_adapter_equal_single_texts(kind):
    model = adapted(kind)
    want = uncollected(model)
    assert np.abs(want["resid_out"][0] - want["resid_out"][1]).max() > 1e-2
    for share in (False, True):
        sides = ({}, {"default": 1.0})
        collect = Collector(
            model, HOOKS, LAYERS, sides=sides, rows=2, lengths=2, share_prefix=share
        )
        got = collect(TEXTS)
        for hook in HOOKS:
            assert got[hook].shape[:3] == (2, len(TEXTS), 2)
            np.testing.assert_allclose(got[hook], want[hook], rtol=0, atol=2e-5, err_msg=hook)
        # Three batches have two lengths: two programs, and no more for the same texts again.
        used = collect._rest if share else collect._whole
        assert used._cache_size() == 2
        collect(TEXTS[::-1])
        assert used._cache_size() == 2 and collect._prefix._cache_size() == share


def test_layers_after_the_last_wanted_one_do_not_run():
    model = tiny("llama", num_layers=5)
    one = Collector(model, ["resid_out"], [1], rows=1)
    program = jax.make_jaxpr(one._whole_texts)(
        one.state, np.ones((1, 8), np.int32), np.ones((1, 8)), {}
    )
    iterations = [e.params["length"] for e in program.jaxpr.eqns if e.primitive.name == "scan"]
    assert iterations == [2]
    # The default side is the model as it is, with its active adapter.
    model = adapted("llama")
    alone = Collector(model, HOOKS, LAYERS, rows=4)(TEXTS)["resid_out"]
    np.testing.assert_allclose(alone[0], uncollected(model)["resid_out"][1], rtol=0, atol=2e-5)


def test_padded_lengths_have_the_least_total_padding():
    lengths = [3, 8, 9, 30, 31, 33, 64]
    for count in (1, 2, 3, 9):
        got = padded_lengths(lengths, count)
        assert all(g >= n and g % 8 == 0 for g, n in zip(got, lengths, strict=True))
        assert len(set(got)) <= count
        sizes = sorted({-(-n // 8) * 8 for n in lengths})
        best = min(
            sum(min(c for c in chosen if c >= n) for n in lengths)
            for k in range(1, min(count, len(sizes)) + 1)
            for chosen in itertools.combinations(sizes, k)
            if max(chosen) >= max(lengths)
        )
        assert sum(got) == best


def test_the_shared_prefix_leaves_one_token_of_each_text():
    assert shared_prefix(TEXTS) == len(PREFIX)
    assert shared_prefix([[1, 2], [1, 2, 3]]) == 1 and shared_prefix([[1], [2]]) == 0
    assert shared_prefix([[4, 5, 6]]) == 2 and collection.MULTIPLE == 8


def test_unknown_hooks_layers_and_empty_texts_raise():
    model = tiny("llama")
    with pytest.raises(ConfigError, match="hook 'typo' is unknown"):
        Collector(model, ["typo"], [0])
    with pytest.raises(ConfigError, match="the model has 3 layers"):
        Collector(model, ["resid_out"], [3])
    with pytest.raises(ConfigError, match="without a token"):
        Collector(model, ["resid_out"], [0])([[1], []])
    with pytest.raises(ConfigError, match="makes id 50, and the model's embedding has 50 rows"):
        Collector(model, ["resid_out"], [0])([[3], [4, 50]])
