"""Our Funnel Transformer against transformers' (PyTorch): states, heads, files both ways."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.lm.funnel import params as funnel_params
from flaxae.task import Context

pytestmark = pytest.mark.parity
SIZES = dict(
    vocab_size=40,
    d_model=16,
    n_head=3,
    d_head=6,
    d_inner=20,
    block_sizes=[1, 2, 1],
    num_decoder_layers=1,
)
CTX = Context(key=jax.random.key(0), step=jnp.int32(0))
RNG = np.random.default_rng(0)
IDS = RNG.integers(1, 40, (3, 11))
MASK = (np.arange(11) < np.asarray([[11], [7], [4]])).astype(int)
SEGMENTS = np.where(np.arange(11) == 0, 2, np.arange(11) >= 5) * np.ones((3, 1), int)

MODE = ("factorized", "relative_shift")
# Every option with its values: a pairwise cover for each run, the whole product in slow ones.
OPTIONS = {
    "attention_type": MODE,
    "pooling_type": ("mean", "max"),
    "pool_q_only": (True, False),
    "cls": ("truncated", "whole", "none"),
    "block_repeats": (None, [1, 2, 1]),  # each of two layers is repeated
    "base": (False, True),
}
PRODUCT = [
    dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())
]


def pairwise():
    """Return a small part of the product that contains each pair of values of two options."""

    def pairs(case):
        items = [(name, repr(value)) for name, value in case.items()]
        return set(itertools.combinations(items, 2))

    left, chosen = set().union(*map(pairs, PRODUCT)), []
    while left:
        chosen.append(max(PRODUCT, key=lambda case: len(pairs(case) & left)))
        left -= pairs(chosen[-1])
    return chosen


def draw(case, directory, kind=None):
    """Save a random checkpoint by transformers; return its model."""
    import torch
    import transformers

    fields = {k: v for k, v in case.items() if k not in ("cls", "base")}
    cls = case.get("cls", "truncated")
    fields |= {"separate_cls": cls != "none", "truncate_seq": cls == "truncated"}
    torch.manual_seed(1)
    kind = kind or ("FunnelBaseModel" if case["base"] else "FunnelModel")
    model = getattr(transformers, kind)(transformers.FunnelConfig(**(SIZES | fields))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return model


def theirs(model, length=11):
    """Return the model's result for the first `length` tokens."""
    import torch

    ids, mask, segments = (torch.tensor(x[:, :length]) for x in (IDS, MASK, SEGMENTS))
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, token_type_ids=segments)
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state).numpy()


def ours(directory, length=11):
    """Return config and parameters of a directory, and the result of our model."""
    config, params = funnel_params.load(directory)
    ids, segments = (jnp.asarray(x[:, :length], jnp.int32) for x in (IDS, SEGMENTS))
    mask = jnp.asarray(MASK[:, :length], jnp.float32)

    @jax.jit
    def run(params):
        model = funnel_params.build(config, params)
        states = model(ids, CTX, mask=mask, segments=segments)
        return states if model.head is None else model.logits(states, CTX)

    return config, params, np.asarray(run(params))


def compare(case, directory, kind=None):
    """Compare the states, write the parameters, and compare what transformers reads."""
    import transformers

    model = draw(case, directory / "theirs", kind)
    want = theirs(model)
    config, params, have = ours(directory / "theirs")
    np.testing.assert_allclose(have, want, atol=1e-4)
    funnel_params.save(directory / "ours", params, config)
    again, info = getattr(transformers, type(model).__name__).from_pretrained(
        directory / "ours", output_loading_info=True
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_array_equal(theirs(again.eval()), want)


@pytest.mark.parametrize("case", pairwise(), ids=str)
def test_states_and_files_equal_transformers(case, tmp_path):
    compare(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", PRODUCT, ids=str)
def test_all_options_equal_transformers(case, tmp_path):
    compare(case, tmp_path)


@pytest.mark.parametrize("kind", ["FunnelForMaskedLM", "FunnelForPreTraining"])
def test_heads_equal_transformers(kind, tmp_path):
    compare({"attention_type": "factorized", "num_decoder_layers": 2}, tmp_path, kind)


@pytest.mark.parametrize("mode", MODE)
def test_every_length_that_transformers_accepts_gives_its_states(mode, tmp_path):
    case = {"attention_type": mode, "base": False, "cls": "truncated", "block_sizes": [1, 1, 1]}
    model = draw(case, tmp_path)
    compared = 0
    for length in (1, 2, 3, 4, 5, 8, 11):
        _, _, have = ours(tmp_path, length)
        assert np.isfinite(have).all()
        try:
            want = theirs(model, length)
        except RuntimeError:  # its positions are pooled although the states are too few
            assert length <= 4
            continue
        np.testing.assert_allclose(have, want, atol=1e-4)
        compared += 1
    assert compared >= 3
