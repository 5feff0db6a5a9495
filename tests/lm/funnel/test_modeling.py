"""The Funnel Transformer's own invariants; `tests/parity` compares it with transformers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from flaxae.errors import ConfigError
from flaxae.lm.funnel import params as funnel_params
from flaxae.lm.funnel.config import AttentionType, FunnelConfig, Head
from flaxae.lm.funnel.modeling import Funnel
from flaxae.lm.funnel.pooling import block_lengths
from flaxae.task import Context, Taps
from flaxae.weights import hf

TINY = FunnelConfig(vocab_size=20, d_model=8, d_ff=12, num_heads=2, d_head=4, block_sizes=(1, 2, 1))
CTX = Context(key=jax.random.key(0), step=jnp.int32(0))
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 20, (2, 9)), jnp.int32)
MASK = jnp.asarray(np.arange(9) < np.asarray([[9], [5]]), jnp.float32)
SEGMENTS = jnp.asarray([[2, 0, 0, 0, 1, 1, 1, 1, 1], [2, 0, 0, 1, 1, 0, 0, 0, 0]], jnp.int32)


def drawn(config: FunnelConfig) -> Funnel:
    """Return a model whose parameters all differ from 0 and from 1."""
    leaves, tree = jax.tree.flatten(funnel_params.shapes(config))
    rng = np.random.default_rng(3)
    values = [jnp.asarray(0.5 + 0.3 * rng.normal(size=x.shape), jnp.float32) for x in leaves]
    return funnel_params.build(config, jax.tree.unflatten(tree, values))


def states(config: FunnelConfig, length: int = 9, decoder: int = 0):
    """Return the states of the first `length` tokens, padding set to 0."""
    model = drawn(dataclasses.replace(config, num_decoder_layers=decoder))
    graph, state = nnx.split(model)

    @jax.jit
    def run(state):
        cut = {"mask": MASK[:, :length], "segments": SEGMENTS[:, :length]}
        encoded = nnx.merge(graph, state).encode(IDS[:, :length], CTX, **cut)
        if not decoder:
            return encoded.states * encoded.mask[..., None]
        out = nnx.merge(graph, state)(IDS[:, :length], CTX, **cut)
        return out * MASK[:, :length, None]

    return np.asarray(run(state))


@pytest.mark.parametrize(
    "changes",
    [
        {"pool_q_only": True},
        {"pool_q_only": False, "separate_cls": False, "block_repeats": (1, 1, 2)},
        {"pool_q_only": True, "truncate_seq": False},
    ],
)
def test_both_computations_of_relative_positions_agree(changes):
    config = dataclasses.replace(TINY, **changes)
    shifted = dataclasses.replace(config, attention_type=AttentionType.RELATIVE_SHIFT)
    np.testing.assert_allclose(states(config), states(shifted), atol=1e-4)


@pytest.mark.parametrize("separate_cls, lengths", [(True, (1, 2, 3)), (False, (1, 2))])
def test_sequences_of_any_length_are_encoded(separate_cls, lengths):
    config = dataclasses.replace(TINY, separate_cls=separate_cls)
    for length in lengths:  # up to the shortest that is pooled
        out = states(config, length, decoder=1)
        assert out.shape == (2, length, 8) and np.isfinite(out).all()


def test_padding_changes_no_state_of_a_real_token():
    config = dataclasses.replace(TINY, num_decoder_layers=1, separate_cls=False)
    graph, state = nnx.split(drawn(config))
    run = jax.jit(lambda state, ids, mask: nnx.merge(graph, state)(ids, CTX, mask=mask))
    short = run(state, IDS[1:, :5], MASK[1:, :5])
    long = run(state, IDS[1:], MASK[1:])
    np.testing.assert_allclose(short[0], long[0, :5], atol=1e-5)


def test_taps_and_recomputation_change_nothing():
    config = dataclasses.replace(TINY, block_sizes=(1, 2), block_repeats=(1, 2))
    out = {}
    for remat in (False, True):
        model = drawn(dataclasses.replace(config, remat=remat))
        taps = Taps(collect=lambda path: path.endswith("out") and "attention" not in path)
        ctx = dataclasses.replace(CTX, taps=taps)
        graph, state = nnx.split(model)

        def loss(state, graph=graph, ctx=ctx):
            encoded = nnx.merge(graph, state).encode(IDS, ctx, mask=MASK)
            return jnp.sum(jnp.square(encoded.states[:, 1:])), ctx.taps.collected

        (value, collected), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(state)
        out[remat] = (value, collected, jax.tree.leaves(grads))
    assert set(out[False][1]) == set(out[True][1])
    assert {f"encoder.blocks.{i}.first.out" for i in range(2)} <= set(out[True][1])
    np.testing.assert_allclose(out[False][0], out[True][0], rtol=1e-6)
    for a, b in zip(out[False][2], out[True][2], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    "head, shape", [(Head.MASKED_LM, (2, 9, 20)), (Head.DISCRIMINATOR, (2, 9))]
)
def test_files_are_read_back_as_they_were_written(head, shape, tmp_path):
    config = dataclasses.replace(TINY, num_decoder_layers=2, head=head, hf_compat_mask=True)
    model = drawn(config)
    params = nnx.to_pure_dict(nnx.state(model))
    funnel_params.save(tmp_path, params, config)
    again, read = funnel_params.load(tmp_path)
    changed = {"attention_type", "block_repeats"}
    same = [f.name for f in dataclasses.fields(config) if f.name not in changed]
    assert [getattr(again, n) for n in same] == [getattr(config, n) for n in same]
    jax.tree.map(np.testing.assert_array_equal, params, read)
    scores = jax.eval_shape(lambda: model.logits(model(IDS, CTX), CTX))
    assert scores.shape == shape and scores.dtype == jnp.float32
    base, encoder = funnel_params.load(tmp_path, encoder_only=True)
    assert base.num_decoder_layers == 0 and set(encoder) == {"embeddings", "encoder"}
    _, _, table = funnel_params.open_directory(tmp_path, encoder_only=True)
    assert any(n.startswith("funnel.decoder.layers.1.") for n in table.unused)


def test_the_published_config_is_read():
    raw = {
        "activation_dropout": 0.0,
        "architectures": ["FunnelForPreTraining"],
        "attention_dropout": 0.1,
        "attention_type": "relative_shift",
        "block_repeats": [1, 2, 2],
        "block_sizes": [6, 3, 3],
        "d_head": 64,
        "d_inner": 3072,
        "d_model": 768,
        "hidden_act": "gelu_new",
        "hidden_dropout": 0.1,
        "initializer_range": 0.1,
        "initializer_std": None,
        "layer_norm_eps": 1e-09,
        "max_position_embeddings": 512,
        "model_type": "funnel",
        "n_head": 12,
        "num_decoder_layers": 2,
        "pool_q_only": True,
        "pooling_type": "mean",
        "rel_attn_type": "factorized",
        "separate_cls": True,
        "truncate_seq": True,
        "type_vocab_size": 3,
        "vocab_size": 30522,
    }
    config = funnel_params.config_from_hf(raw)
    assert (config.d_model, config.num_heads, config.block_sizes) == (768, 12, (6, 3, 3))
    assert (config.repeats, config.embedding_std, config.tie_embeddings) == ((1, 2, 2), 1.0, True)
    old = {k: v for k, v in raw.items() if k not in ("d_model", "n_head")}
    names = {"hidden_size": 768, "num_attention_heads": 12}
    assert funnel_params.config_from_hf(old | names) == config
    again = funnel_params.config_to_hf(config)
    same = [name for name in raw if name in again and name != "architectures"]
    assert {n: again[n] for n in same} == {n: raw[n] for n in same}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"d_model": "8"}, 'config.json: d_model="8" is a string, not an integer'),
        ({"block_sizes": 3}, "config.json: block_sizes=3 is an integer, not a list"),
        ({"task": {}}, "a run, or a model that flaxae saved"),
    ],
)
def test_a_wrong_config_is_one_message_with_its_file(change, message, tmp_path):
    params = jax.tree.map(lambda x: np.zeros(x.shape), funnel_params.shapes(TINY))
    funnel_params.save(tmp_path, params, TINY)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        funnel_params.load(tmp_path)


def test_an_encoder_is_read_from_a_model_with_any_head(tmp_path):
    params = jax.tree.map(lambda x: np.ones(x.shape), funnel_params.shapes(TINY))
    names = funnel_params.table(TINY, funnel_params.PREFIX)
    raw = funnel_params.config_to_hf(TINY)
    hf.write(tmp_path, raw, names, params)
    file = tmp_path / hf.SINGLE
    tensors = load_file(file) | {"classifier.linear_hidden.weight": np.ones((2, 2), np.float32)}
    save_file(tensors, file)
    _, read = funnel_params.load(tmp_path, encoder_only=True)
    assert set(read) == {"embeddings", "encoder"}
    with pytest.raises(ConfigError, match="classifier.linear_hidden.weight is not a weight"):
        funnel_params.load(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"block_sizes": ()}, "task.funnel.block_sizes is empty"),
        ({"block_sizes": (2, 0)}, "task.funnel.block_sizes"),
        ({"block_repeats": (1,)}, "one number per block"),
        ({"head": Head.MASKED_LM}, "task.funnel.num_decoder_layers"),
        ({"d_model": 7}, "even"),
        ({"hidden_dropout": 1.0}, "task.funnel.hidden_dropout"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **changes).validate()


def test_a_long_sequence_shrinks_by_the_blocks():
    assert block_lengths(9, TINY) == [9, 5, 3]
    assert states(TINY).shape == (2, 3, 8)
