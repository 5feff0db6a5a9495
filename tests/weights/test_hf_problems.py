"""Hugging Face directories that are not what they seem: other types, names, shards, methods."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from flaxae.errors import ConfigError
from flaxae.weights import hf
from flaxae.weights.hf import names, quantised
from tests.weights.test_hf import ABSTRACT, TABLE, Tensors, equal, params, read, tensors

__all__ = ["params", "tensors"]  # fixtures


def refused(directory, message):
    with pytest.raises(ConfigError, match=message):
        hf.read_config(directory)
        read(directory)


def write(directory, values, config=None):
    save_file(values, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config or {}))


def write_raw(path, values, kinds):
    """Write a safetensors file by hand: types that numpy lacks, all bytes 0."""
    sizes = {"F8_E4M3": 1, "F8_E5M2": 1, "F32": 4}
    header, start = {}, 0
    for name, value in values.items():
        kind = kinds.get(name, "F32")
        end = start + value.size * sizes[kind]
        header[name] = {"dtype": kind, "shape": value.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(start))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.bool_, np.complex64])
def test_a_tensor_that_is_not_stored_as_floats_is_refused_by_name(kind, tmp_path, tensors):
    write(tmp_path, tensors | {"h.1.w": tensors["h.1.w"].astype(kind)})
    refused(tmp_path, r"h\.1\.w stored as \w+, not as one of F64, F32, F16, BF16: quantised")


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_float8_is_refused_by_name_also_where_aliases_are_compared(kind, tmp_path, tensors):
    (tmp_path / "config.json").write_text("{}")
    write_raw(tmp_path / "model.safetensors", tensors, {"h.0.w": kind, "h.1.w": kind})
    refused(tmp_path, rf"h\.0\.w and 1 more stored as {kind}")
    both = tensors | {"tied": tensors["shared"]}
    write_raw(tmp_path / "model.safetensors", both, {"tied": kind})
    refused(tmp_path, f"tied stored as {kind}")


def test_floats_of_other_widths_are_converted(tmp_path, tensors, params):
    write(tmp_path, {name: x.astype(np.float64) for name, x in tensors.items()})
    equal(read(tmp_path), params)
    write(tmp_path, tensors | {"old.mask": np.ones(3, np.int64)})  # not read
    equal(read(tmp_path), params)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantization_config: gptq"),
        ({"quant_method": "fp8"}, "quantization_config: fp8"),
        ({"load_in_8bit": True}, "quantization_config: bitsandbytes"),
        ({"bits": 2}, "quantization_config: of an unknown method"),
        ("int4", "quantization_config: 'int4'"),
    ],
)
def test_the_config_of_a_quantised_model_is_refused_by_its_method(
    config, method, tmp_path, tensors
):
    write(tmp_path, tensors, {"quantization_config": config})
    refused(tmp_path, rf"quantised \({method}\).*dequantize\(\).*remove quantization_config")
    write(tmp_path, tensors, {"quantization_config": None})
    read(tmp_path)


def test_other_signs_of_quantised_weights_are_named(tmp_path, tensors):
    write(tmp_path, tensors)
    for name in quantised.FILES:
        (tmp_path / name).write_text("{}")
        refused(tmp_path, rf"its weights are quantised \({name}\)")
        (tmp_path / name).unlink()
    write(tmp_path, tensors | {"h.0.weight_scale": np.ones(1, np.float32)})
    refused(tmp_path, r"h\.0\.weight_scale is of quantised weights, which are not supported")


def test_missing_and_unexpected_tensors_are_both_named(tmp_path, tensors):
    del tensors["h.0.w"], tensors["h.1.w"]
    more = {f"extra.{i}": np.ones(2, np.float32) for i in range(9)}
    write(tmp_path, tensors | more)
    refused(tmp_path, r"h\.0\.w is missing.*extra\.0 is not a weight.*and 5 more are unexpected")


@pytest.mark.parametrize("start", ["_orig_mod.", "module.", "module._orig_mod."])
def test_what_torch_compile_and_data_parallel_add_to_names_is_removed(
    start, tmp_path, tensors, params
):
    write(tmp_path, {f"{start}{name}": x for name, x in tensors.items()})
    equal(read(tmp_path), params)


def test_parts_of_names_are_only_removed_if_no_two_become_one():
    inner = {"h._orig_mod.0": "h.0", "s": "s"}
    assert names.without_wrappers(inner) == inner
    two = ["h._orig_mod.0", "h.0"]
    assert names.without_wrappers(two) == dict.fromkeys(two) | {x: x for x in two}
    assert names.without_wrappers(["module.a", "b"]) == {"module.a": "module.a", "b": "b"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.removeprefix("model."), "names lack the prefix 'model.'"),
        (lambda x: f"base_model.model.{x}", "names have the prefix 'base_model.model.'"),
        (lambda x: x.replace(".weight", ".default.weight"), "names contain 'default'"),
        (lambda x: x.replace("q.", "q.base_layer.inner."), "names contain 'base_layer.inner'"),
        (lambda x: x.replace("model.", "transformer."), "begin with 'transformer', not 'model'"),
    ],
)
def test_a_prefix_that_names_lack_or_have_is_named(change, message):
    wanted = [f"model.h.{i}.q.weight" for i in range(3)]
    assert message in names.hint([change(name) for name in wanted], wanted)
    assert not names.hint(["a.b", "c.weight"], wanted) and not names.hint([], wanted)


def test_the_lost_prefix_is_in_the_message(tmp_path, tensors):
    write(tmp_path, {name.removeprefix("h."): x for name, x in tensors.items()})
    refused(tmp_path, r"0\.s is not a weight.*names lack the prefix 'h\.': save the tensors again")


def test_a_model_whose_shards_are_not_all_there_is_never_read_in_part(tmp_path, params):
    hf.write(tmp_path, {}, TABLE, params, max_shard_size=300)
    index = tmp_path / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    last = "model-00003-of-00003.safetensors"
    part = {name: file for name, file in whole["weight_map"].items() if file != last}
    index.write_text(json.dumps({"weight_map": part}))
    refused(tmp_path, f"does not name {last}: download all of the model's files again")
    for wrong in (["a"], {"a": 1}, "x"):
        index.write_text(json.dumps({"weight_map": wrong}))
        refused(tmp_path, "weight_map")
    index.write_text("{}")
    refused(tmp_path, "it has no weight_map")
    index.unlink()
    refused(tmp_path, "only model-00001-of-00003.safetensors.*needs its model.safetensors.index")
    index.write_text(json.dumps(whole))
    (tmp_path / "model-00001-of-00003.safetensors").rename(tmp_path / "model.safetensors")
    refused(tmp_path, r"model\.safetensors lacks .*, which model\.safetensors\.index\.json names")


def test_a_whole_model_beside_its_shards_is_read(tmp_path, tensors, params):
    hf.write(tmp_path, {}, TABLE, params, max_shard_size=300)
    save_file(tensors, tmp_path / "model.safetensors")
    equal(hf.read_params(Tensors(tmp_path), TABLE, ABSTRACT, dtype=jnp.float32), params)
