"""Hugging Face directories: strict reading and writing, shards, dtypes, reads by slices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from flaxae.config import MeshConfig
from flaxae.errors import ConfigError
from flaxae.machine.sharding import make_mesh
from flaxae.weights import hf
from flaxae.weights.hf import Table, Tensors, Weight

TABLE = Table(
    {
        "table": Weight(("shared",), aliases=("tied",)),
        "blocks/kernel": Weight(("h.0.w", "h.1.w"), stacked=True, transpose=True),
        "blocks/scale": Weight(("h.0.s", "h.1.s"), stacked=True),
    },
    unused=("old.mask",),
)
SHAPES = {"table": (16, 4), "blocks": {"kernel": (2, 8, 6), "scale": (2, 5)}}
ABSTRACT = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s, jnp.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), ABSTRACT)


@pytest.fixture
def tensors(params):
    """Return the tensors of a directory with these parameters."""
    kernel, scale = params["blocks"]["kernel"], params["blocks"]["scale"]
    out = {"shared": params["table"]}
    for i in range(2):
        out[f"h.{i}.w"], out[f"h.{i}.s"] = np.ascontiguousarray(kernel[i].T), scale[i]
    return out


def read(directory, **options):
    return hf.read_params(Tensors(directory), TABLE, ABSTRACT, **options)


def refused(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=message):
        read(tmp_path)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_written_directory_is_read_unchanged(tmp_path, params, tensors):
    hf.write(tmp_path, {"a": 1}, TABLE, params)
    equal(load_file(tmp_path / "model.safetensors"), tensors)
    equal(read(tmp_path), params)
    assert hf.read_config(tmp_path) == {"a": 1}


def test_large_models_are_written_as_shards_with_an_index(tmp_path, params):
    hf.write(tmp_path, {}, TABLE, params, max_shard_size=300)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * sum(x.size for x in jax.tree.leaves(params))
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert [f.name for f in files] == sorted(set(index["weight_map"].values()))
    assert len(files) == 3
    sizes = [sum(x.nbytes for x in load_file(file).values()) for file in files]
    assert max(sizes) <= 300
    equal(read(tmp_path), params)
    hf.write(tmp_path, {}, TABLE, params)  # removes the shards
    assert {f.name for f in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    equal(read(tmp_path), params)


def test_bfloat16_is_stored_in_half_and_read_as_float32(tmp_path, params):
    hf.write(tmp_path, {}, TABLE, params, dtype=jnp.bfloat16)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    assert load_file(tmp_path / "model.safetensors")["h.0.w"].dtype == jnp.bfloat16
    equal(read(tmp_path), jax.tree.map(lambda x: x.astype(np.float32), rounded))
    kept = read(tmp_path, dtype=jnp.bfloat16)
    assert kept["table"].dtype == jnp.bfloat16
    hf.write(tmp_path / "again", {}, TABLE, kept, dtype=jnp.bfloat16)
    equal(read(tmp_path / "again", dtype=jnp.bfloat16), kept)


def test_each_read_is_at_most_one_devices_slice(tmp_path, params, monkeypatch):
    mesh = make_mesh(MeshConfig(fsdp=8))
    specs = {"table": ("fsdp",), "blocks": {"kernel": (None, "fsdp"), "scale": ()}}
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, PartitionSpec(*spec)),
        specs,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    hf.write(tmp_path, {}, TABLE, params)
    readings = []
    original = Tensors.read

    def counted(self, name, index=()):
        value = original(self, name, index)
        readings.append((name, value.nbytes))
        return value

    monkeypatch.setattr(Tensors, "read", counted)
    loaded = read(tmp_path, shardings=shardings)
    equal(loaded, params)
    assert loaded["blocks"]["kernel"].sharding == shardings["blocks"]["kernel"]
    assert max(size for name, size in readings if name != "h.0.s" and name != "h.1.s") == 32
    # Replicated tensors are read once; the others once over all devices.
    assert sum(size for _, size in readings) == 4 * sum(x.size for x in jax.tree.leaves(params))


def test_a_missing_tensor_raises_and_is_named(tmp_path, tensors):
    del tensors["h.1.w"]
    refused(tmp_path, tensors, r"h\.1\.w is missing \(it fills blocks/kernel\)")


def test_an_unread_tensor_raises_and_is_named(tmp_path, tensors):
    refused(tmp_path, tensors | {"h.2.w": tensors["h.1.w"]}, r"h\.2\.w is not a weight")


def test_a_wrong_shape_raises_and_is_named(tmp_path, tensors):
    wrong = np.ascontiguousarray(tensors["h.0.w"].T)
    refused(tmp_path, tensors | {"h.0.w": wrong}, r"h\.0\.w is \(8, 6\), the config says \(6, 8\)")


def test_aliases_are_read_and_must_have_equal_values(tmp_path, params, tensors):
    path = tmp_path / "model.safetensors"
    save_file(tensors | {"tied": tensors["shared"], "old.mask": np.ones(3, np.float32)}, path)
    equal(read(tmp_path), params)
    alone = {**tensors, "tied": tensors["shared"]}
    del alone["shared"]
    save_file(alone, path)
    equal(read(tmp_path), params)
    refused(tmp_path, tensors | {"tied": tensors["shared"] + 1}, "tied should be the same weight")


def test_parameters_that_the_table_lacks_raise_and_are_named(tmp_path, params):
    with pytest.raises(ConfigError, match="differ in head"):
        hf.write(tmp_path, {}, TABLE, {**params, "head": params["table"]})


def test_pickles_are_never_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    message = r"only pytorch_model\.bin.*save_pretrained\(NEW_DIR\)"
    with pytest.raises(ConfigError, match=message):
        Tensors(tmp_path)
    save_file({"mean": np.zeros(3, np.float32)}, tmp_path / "statistics.safetensors")
    with pytest.raises(ConfigError, match=message):  # not that the weights have a wrong name
        Tensors(tmp_path)
    for name in ("pytorch_model.bin", "statistics.safetensors"):
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"neither model\.safetensors nor.*AutoModel\.from_pre"):
        Tensors(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(ConfigError, match=r"transformers\.LlamaForCausalLM\.from_pretrained\(DIR"):
        Tensors(tmp_path)


def test_broken_files_and_indices_raise_and_are_named(tmp_path, params):
    hf.write(tmp_path, {}, TABLE, params, max_shard_size=300)
    index = tmp_path / "model.safetensors.index.json"
    whole = index.read_text()
    index.write_text(whole.replace('"h.0.w"', '"h.9.w"'))
    with pytest.raises(ConfigError, match=r"disagree on \['h\.0\.w', 'h\.9\.w'\]"):
        Tensors(tmp_path)
    index.write_text(whole.replace("model-00001", "../model-00001"))
    with pytest.raises(ConfigError, match="is not a file name"):
        Tensors(tmp_path)
    index.write_text(whole)
    first = tmp_path / "model-00001-of-00003.safetensors"
    data = first.read_bytes()
    first.write_bytes(data[:-8])
    with pytest.raises(ConfigError, match="not a complete safetensors file"):
        Tensors(tmp_path)
    first.unlink()
    with pytest.raises(ConfigError, match="model-00001-of-00003.safetensors, named in"):
        Tensors(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        hf.read_config(tmp_path)


def test_a_hub_id_without_network_raises_with_advice(tmp_path, monkeypatch):
    assert hf.resolve(tmp_path) == tmp_path
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="hf download google/no-such-t5 --local-dir DIR"):
        hf.resolve("google/no-such-t5")  # conftest.py sets HF_HUB_OFFLINE
    with pytest.raises(ConfigError, match="no such directory, and not a Hub id"):
        hf.resolve("runs/some/where")
    with pytest.raises(ConfigError, match="no such directory, and not a Hub id"):
        hf.resolve("./t5")
    (tmp_path / "demo-quick").mkdir()
    with pytest.raises(ConfigError, match=r"no such directory \(there is .*/demo-quick\), and not"):
        hf.resolve(tmp_path / "demo")


@pytest.mark.parametrize("kind", ["XetDownloadError", "GatedRepoError", "LocalEntryNotFoundError"])
def test_the_cause_of_a_failed_download_is_shown(monkeypatch, kind: str):
    bases = (OSError,) if kind == "LocalEntryNotFoundError" else (Exception,)
    error = type(kind, bases, {})("401 Client Error.\n\nThe cause")

    def download(*_, **__):
        raise error from OSError("disk quota")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ConfigError, match="401 Client Error.*disk quota") as found:
        hf.resolve("owner/name")
    text = str(found.value)
    assert ("hf auth login" in text) == (kind == "GatedRepoError") and "\n" not in text
    assert ("The cause" in text) == (kind != "LocalEntryNotFoundError")
