"""T5's table, configs and sizes; tests/parity compares with PyTorch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxae.config import MeshConfig
from flaxae.errors import ConfigError
from flaxae.lm.t5 import params as t5_params
from flaxae.lm.t5.generation import encode, generate, logits
from flaxae.lm.t5.modeling import T5Config
from flaxae.lm.t5.params import config_from_hf, config_to_hf
from flaxae.lm.t5.sizes import SIZES, t5_size
from flaxae.machine.sharding import infer_sharding, make_mesh
from flaxae.nn.mlp import FeedForward
from flaxae.task import Context
from flaxae.weights import hf

SMALL: dict = dict(
    d_model=16, d_ff=24, d_kv=4, num_heads=2, num_layers=2, num_decoder_layers=1, vocab_size=40
)
# Published parameters in millions: T5 by its files; mT5 and byT5 by table 1 of the byT5 paper.
MILLIONS = {
    "t5-small": 60.5,
    "t5-base": 222.9,
    "t5-large": 737.7,
    "t5-3b": 2851.6,
    "t5-11b": 11307,
    "t5-v1_1-base": 247.6,
    "mt5-small": 300,
    "mt5-base": 582,
    "mt5-large": 1230,
    "mt5-xl": 3740,
    "mt5-xxl": 12900,
    "byt5-small": 300,
    "byt5-base": 582,
    "byt5-large": 1230,
    "byt5-xl": 3740,
    "byt5-xxl": 12900,
}


def make(**fields):
    config = T5Config(**(SMALL | fields))
    rng = np.random.default_rng(0)
    shapes = t5_params.shapes(config)
    return config, jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), shapes)


@pytest.fixture(scope="module")
def tied():
    return make(feed_forward=FeedForward.RELU, tie_embeddings=True)


@pytest.fixture(scope="module")
def untied():
    return make()


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_a_saved_model_is_loaded_unchanged(kind, request, tmp_path):
    config, params = request.getfixturevalue(kind)
    t5_params.save(tmp_path, params, config, max_shard_size=2000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded_config, loaded = t5_params.load(tmp_path)
    assert loaded_config == config
    equal(loaded, params)
    assert jax.tree.structure(loaded) == jax.tree.structure(t5_params.shapes(config))


def test_sharded_loading_reads_only_the_slices_of_each_device(untied, tmp_path, monkeypatch):
    config, params = untied
    monkeypatch.setattr("flaxae.machine.sharding.MIN_SPLIT", 1)
    t5_params.save(tmp_path, params, config)
    mesh = make_mesh(MeshConfig(fsdp=8))
    largest = []
    original = hf.Tensors.read

    def counted(self, name, index=()):
        value = original(self, name, index)
        largest.append(value.size)
        return value

    monkeypatch.setattr(hf.Tensors, "read", counted)
    config, tensors = t5_params.open_directory(tmp_path)
    shapes = t5_params.shapes(config)
    places = infer_sharding(shapes, mesh, ())
    loaded = hf.read_params(tensors, t5_params.table(config), shapes, places)
    equal(loaded, params)
    for leaf in (loaded["embedding"]["table"], loaded["encoder"]["blocks"]["mlp"]["wo"]["kernel"]):
        assert leaf.addressable_shards[0].data.size * 8 == leaf.size
    # The largest tensor has 640 numbers; only vectors that no axis divides are read whole.
    assert max(largest) == 80


def test_the_head_is_tied_if_its_tensor_is_missing_or_equals_the_embedding(tied, untied, tmp_path):
    config, params = tied
    t5_params.save(tmp_path, params, config)
    tensors = load_file(tmp_path / "model.safetensors")
    copies = {"lm_head.weight", *t5_params.ALIASES}
    more = {name: tensors["shared.weight"] for name in copies}
    more[t5_params.UNUSED[0]] = np.ones((32, 2), np.float32)
    save_file(tensors | more, tmp_path / "model.safetensors")
    equal(t5_params.load(tmp_path)[1], params)

    config, params = untied  # as transformers 5 saves v1.1: "tied", and two tables
    t5_params.save(tmp_path, params, config)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["tie_word_embeddings"] is raw["scale_decoder_outputs"] is False
    (tmp_path / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": True}))
    assert t5_params.load(tmp_path)[0] == config
    del raw["scale_decoder_outputs"]
    (tmp_path / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": True}))
    with pytest.raises(ConfigError, match=r"lm_head.*scaled.*tie_word_embeddings to false"):
        t5_params.load(tmp_path)


def test_a_missing_head_raises_and_is_named(untied, tmp_path):
    config, params = untied
    t5_params.save(tmp_path, params, config)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"lm_head\.weight is missing \(it fills head/kernel\)"):
        t5_params.load(tmp_path)


def test_scaling_depends_on_model_type_and_version():
    base = config_to_hf(T5Config(**SMALL, tie_embeddings=True))
    base |= {"relative_attention_max_distance": None}  # older files: absent means 128
    old = {k: v for k, v in base.items() if k != "scale_decoder_outputs"}
    assert config_from_hf(old).scale_tied_head
    assert config_from_hf(old).relative_max_distance == 128
    assert not config_from_hf(base | {"scale_decoder_outputs": False}).scale_tied_head
    assert not config_from_hf(old | {"model_type": "mt5"}).scale_tied_head
    v11 = old | {"tie_word_embeddings": False}
    assert not config_from_hf(v11).tie_embeddings
    assert not config_from_hf(v11, tied=True).scale_tied_head


def test_unsupported_configs_raise():
    raw = config_to_hf(T5Config(**SMALL))
    for change in (
        {"model_type": "umt5"},
        {"feed_forward_proj": "gated-relu"},
        {"pad_token_id": 3},
        {"d_kv": None},
    ):
        (name,) = change
        with pytest.raises(ConfigError, match=name):
            config_from_hf(raw | change)
    with pytest.raises(ConfigError, match="mT5 does not scale the head"):
        config_to_hf(T5Config(**SMALL, tie_embeddings=True), "mt5")


def test_config_round_trip_is_exact():
    for kind in FeedForward:
        config = T5Config(**SMALL, feed_forward=kind, dropout=0.1, norm_eps=1e-5)
        assert config_from_hf(config_to_hf(config)) == config


def test_published_sizes_have_the_published_numbers_of_parameters():
    for name, millions in MILLIONS.items():
        leaves = jax.tree.leaves(t5_params.shapes(t5_size(name)))
        assert sum(x.size for x in leaves) / 1e6 == pytest.approx(millions, rel=3e-3), name
    assert t5_size("google/flan-t5-xl") == t5_size("t5-v1_1-xl")
    assert t5_size("ul2", remat=True).feed_forward is FeedForward.GATED_SILU
    for name in SIZES:
        t5_size(name).validate()
    with pytest.raises(ConfigError, match="t5-tiny"):
        t5_size("t5-tiny")


def test_greedy_generation_equals_the_argmax_of_teacher_forcing(untied):
    config, params = untied
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))
    ids = jnp.asarray([[3, 4, 5, 1, 0, 0], [7, 8, 9, 10, 11, 1]], jnp.int32)
    mask = (ids != 0).astype(jnp.float32)

    @jax.jit
    def both(params):
        t5 = t5_params.build(config, params)
        made = generate(t5, ids, mask, ctx, 6, num_tokens=30)
        return made, logits(t5, encode(t5, ids, mask, ctx), mask, made, ctx)

    made, scores = both(params)
    assert int(made.max()) < 30
    best = np.asarray(scores[..., :30]).argmax(-1)
    ends = np.cumsum(np.asarray(made) == 1, axis=1) - (np.asarray(made) == 1)
    real = ends == 0
    np.testing.assert_array_equal(np.asarray(made)[real], best[real])
    assert (np.asarray(made)[~real] == 0).all()
