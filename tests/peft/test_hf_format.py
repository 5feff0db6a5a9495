"""Directories of adapters, read and written, and their errors; tests/parity compares with PEFT."""

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from flaxae import peft
from flaxae.errors import ConfigError
from flaxae.lm.phi.modeling import Phi, PhiConfig
from flaxae.peft.hf_config import LORA_FIELDS, config_from_peft
from tests.peft.test_adapters import CONFIGS, trained
from tests.peft.tiny import Net, moved, run, t5
from tests.test_foreign_json import VALUES

NET = Net()
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_adapter_is_loaded_unchanged(name, tmp_path):
    model = trained(name)
    peft.save_adapter(model, tmp_path)
    again = peft.load_adapter(Net(), tmp_path, "other")
    np.testing.assert_array_equal(run(again), run(model))
    assert peft.adapter_configs(again)["other"] == peft.adapter_configs(model)["default"]
    raw = json.loads((tmp_path / CONFIG).read_text())
    assert raw["peft_type"] == ("IA3" if "ia3" in name else "LORA")


def test_padding_of_ranks_is_not_written(tmp_path):
    peft.save_adapter(trained("some layers"), tmp_path)
    shapes = {k: v.shape for k, v in load_file(tmp_path / WEIGHTS).items()}
    start = "base_model.model.blocks"
    assert shapes == {
        f"{start}.0.up.lora_A.weight": (3, 8),
        f"{start}.0.up.lora_B.weight": (16, 3),
        f"{start}.2.up.lora_A.weight": (1, 8),
        f"{start}.2.up.lora_B.weight": (16, 1),
    }
    model = trained("some layers")
    lora = model.blocks.up.adapters["default"]
    lora.B[...] = lora.B[...].at[2, 1].set(1.0)
    with pytest.raises(ConfigError, match="the padding of its rank is not 0"):
        peft.save_adapter(model, tmp_path / "wrong")


def test_a_saved_alpha_keeps_its_fraction(tmp_path):
    config = peft.LoRAConfig(r=2, lora_alpha=2.5, target_modules=["up"])
    peft.save_adapter(peft.add_adapter(Net(), config), tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["lora_alpha"] == 2.5
    again = peft.load_adapter(Net(), tmp_path)
    assert peft.adapter_configs(again)["default"] == config
    assert again.blocks.up.adapters["default"].scaling == 1.25


@pytest.mark.parametrize("rslora", [True, False])
def test_a_scale_is_that_of_the_modules_own_rank_and_alpha(rslora):
    config = peft.LoRAConfig(
        r=4,
        lora_alpha=6,
        use_rslora=rslora,
        target_modules=["up"],
        rank_pattern={"blocks.1.up": 9, "blocks.2.up": 16},
        alpha_pattern={"blocks.2.up": 8},
    )
    made = peft.add_adapter(Net(), config).blocks.up.adapters["default"]
    power = 0.5 if rslora else 1
    want = [6 / 4**power, 6 / 9**power, 8 / 16**power]
    np.testing.assert_allclose(made.scaling[...], want, rtol=1e-6)
    assert made.ranks == (4, 9, 16)


@pytest.mark.parametrize("rslora", [True, False])
def test_a_saved_rslora_keeps_its_scale(rslora, tmp_path):
    config = peft.LoRAConfig(r=4, lora_alpha=6, use_rslora=rslora, target_modules=["up"])
    model = moved(peft.add_adapter(Net(), config), peft.AdapterParam)
    peft.save_adapter(model, tmp_path)
    again = peft.load_adapter(Net(), tmp_path)
    want = 6 / 4 ** (0.5 if rslora else 1)
    assert again.blocks.up.adapters["default"].scaling == want
    np.testing.assert_array_equal(run(again), run(model))


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        ({"up": 2, "blocks.0.up": 32}, {rf"^blocks\.{i}\.up": 2 for i in range(3)}),
        ({"down": 5, "blocks.1.up": 32}, {"down": 5, "blocks.1.up": 32}),
    ],
)
def test_written_patterns_have_the_same_effect_in_any_order(pattern, written, tmp_path):
    config = peft.LoRAConfig(
        r=4, target_modules=["up", "down"], alpha_pattern=pattern, rank_pattern=pattern
    )
    model = peft.add_adapter(Net(), config)
    peft.save_adapter(model, tmp_path)
    raw = json.loads((tmp_path / CONFIG).read_text())
    for field in ("alpha_pattern", "rank_pattern"):
        assert list(raw[field].items()) == list(written.items())
    (tmp_path / CONFIG).write_text(json.dumps(raw, sort_keys=True))  # as PEFT writes it
    again = peft.load_adapter(Net(), tmp_path)
    for name in ("up", "down"):
        mine, read = (getattr(m.blocks, name).adapters["default"] for m in (model, again))
        assert mine.ranks == read.ranks
        scales = (np.broadcast_to(x.scaling, 3) for x in (mine, read))
        np.testing.assert_array_equal(*scales)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    peft.save_adapter(trained("lora"), folder, base="some/base")
    return folder


def changed(saved, tmp_path, tensors=None, **fields):
    """Copy a directory and change some tensors or fields."""
    folder = tmp_path / "changed"
    shutil.copytree(saved, folder)
    if fields:
        raw = json.loads((folder / CONFIG).read_text()) | fields
        (folder / CONFIG).write_text(json.dumps(raw))
    if tensors is not None:
        old = load_file(folder / WEIGHTS)
        tensors(old)
        save_file(old, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 3}, r"lora_A.weight is \(2, 16\), config and model say \(3, 16\)"),
        ({"target_modules": ["up", "sideways"]}, "'sideways' is not a module of this model"),
        ({"target_modules": ["up"]}, "blocks.0.down.lora_A.weight is not a tensor"),
        ({"target_modules": ["up", "down", "head"]}, "head.lora_A.weight is missing"),
        ({"use_dora": True}, "lora_magnitude_vector is missing"),
        ({"peft_type": "VERA"}, "peft_type='VERA' is not one of: LORA, IA3"),
        ({"lora_bias": True}, "lora_bias=True is not supported"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"some_new_option": 3}, "some_new_option=3 is not supported"),
        ({"bias": "all"}, "bias='all' together with LoRA's factors"),
        ({"init_lora_weights": "pissa"}, "changes the base's weights"),
        ({"init_lora_weights": "lora_ga"}, "changes the base's weights"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True is not supported"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"lora_dropout": 1.5}, "lora_dropout=1.5"),
        ({"r": "4"}, 'adapter_config.json: r="4" is a string, not an integer'),
        ({"r": True}, "adapter_config.json: r=true is a boolean, not an integer"),
        ({"r": 10**12}, r"r=1000000000000 must be in \[1, 65536\]"),
        ({"lora_alpha": [6]}, r"adapter_config.json: lora_alpha=\[6\] is a list, not a number"),
        ({"use_dora": "yes"}, 'adapter_config.json: use_dora="yes" is a string, not a boolean'),
        ({"bias": True}, "adapter_config.json: bias=true is a boolean, not a string"),
        (
            {"target_modules": 3},
            "target_modules=3 is an integer, not a list of str",
        ),
        ({"target_modules": ["up", 3]}, r"target_modules\[1\]=3 is an integer, not a string"),
        ({"target_modules": "up("}, r"target_modules: 'up\(' is not a regular expression"),
        ({"exclude_modules": "*up"}, r"exclude_modules: '\*up' is not a regular expression"),
        ({"modules_to_save": ["(?i)head"]}, "modules_to_save: .* is not a regular expression"),
        (
            {"layers_to_transform": "all"},
            'layers_to_transform="all" is a string, not a list of int',
        ),
        ({"rank_pattern": ["up"]}, r'rank_pattern=\["up"\] is a list, not an object of integers'),
        ({"rank_pattern": {"up": "2"}}, r'rank_pattern\["up"\]="2" is a string, not an integer'),
        ({"alpha_pattern": {"up)": 2}}, r"alpha_pattern: 'up\)' is not a regular expression"),
    ],
)
def test_a_config_that_does_not_match_raises(saved, tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        peft.load_adapter(Net(), changed(saved, tmp_path, **fields))


@given(st.sampled_from(LORA_FIELDS), VALUES)
def test_any_value_of_a_field_is_read_or_is_one_message(field, value):
    raw = {"peft_type": "LORA", "target_modules": ["up"], "layers_to_transform": [0]}
    try:
        peft.add_adapter(NET, config_from_peft(raw | {field: value}))
    except ConfigError as error:
        assert str(error).count("\n") == 0


def test_fields_without_effect_are_ignored(saved, tmp_path):
    folder = changed(
        saved,
        tmp_path,
        loftq_config={},
        megatron_core="megatron.core",
        init_lora_weights="eva",
        eva_config={"rho": 2.0},
        some_option=None,
        lora_ga_config={"scale": "stable"},
    )
    np.testing.assert_array_equal(run(peft.load_adapter(Net(), folder)), run(trained("lora")))


def test_a_target_that_neither_model_nor_file_has_is_ignored_as_in_peft(saved, tmp_path):
    model = peft.load_adapter(
        Net(), changed(saved, tmp_path, target_modules=["up", "down", "gate"])
    )
    np.testing.assert_array_equal(run(model), run(trained("lora")))
    assert peft.adapter_configs(model)["default"].target_modules == ("down", "up")


def test_tensors_that_do_not_match_raise(saved, tmp_path):
    key = "base_model.model.blocks.1.up.lora_A.weight"
    for number, (change, message) in enumerate(
        (
            (lambda t: t.pop(key), f"{key} is missing"),
            (lambda t: t.update(extra=np.zeros(1, np.float32)), "extra is not a tensor"),
            (
                lambda t: t.update({key: t[key].T.copy()}),
                r"is \(8, 2\), config and model say \(2, 8\)",
            ),
        )
    ):
        with pytest.raises(ConfigError, match=message):
            peft.load_adapter(Net(), changed(saved, tmp_path / str(number), change))


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda k: k.removeprefix("base_model.model."), "lack the prefix 'base_model.model.'"),
        (lambda k: k.replace("lora_A.", "lora_A.default."), "names contain 'default'"),
        (lambda k: k.replace("blocks", "layers"), "layers.0.down.lora_A.weight is not a tensor of"),
        (lambda k: k.replace("blocks", "layers"), "the adapter was trained on 'some/base'$"),
    ],
)
def test_wrong_names_are_shown_of_both_kinds_with_what_they_lack(saved, tmp_path, rename, message):
    def change(tensors):
        old = dict(tensors)
        tensors.clear()
        tensors.update({rename(key): value for key, value in old.items()})
        tensors.popitem()  # names that all fit after a known change are understood

    with pytest.raises(ConfigError, match=f"lora_A.weight is missing.*{message}"):
        peft.load_adapter(Net(), changed(saved, tmp_path, change))


def test_names_that_torch_compile_writes_are_read_and_8_bits_are_not(saved, tmp_path):
    def compiled(tensors):
        old = dict(tensors)
        tensors.clear()
        tensors.update({k.replace("blocks.", "_orig_mod.blocks."): v for k, v in old.items()})

    folder = changed(saved, tmp_path / "compiled", compiled)
    np.testing.assert_array_equal(run(peft.load_adapter(Net(), folder)), run(trained("lora")))

    def small(tensors):
        tensors.update({k: v.astype(ml_dtypes.float8_e4m3fn) for k, v in tensors.items()})

    with pytest.raises(ConfigError, match="lora_A.weight is stored as F8_E4M3, not as one of F64"):
        peft.load_adapter(Net(), changed(saved, tmp_path / "small", small))


def test_missing_and_truncated_files_raise_and_are_named(saved, tmp_path):
    with pytest.raises(ConfigError, match="not a PEFT adapter's directory"):
        peft.load_adapter(Net(), tmp_path)
    folder = changed(saved, tmp_path)
    (folder / WEIGHTS).write_bytes(b"torn")
    with pytest.raises(ConfigError, match="not a complete safetensors file"):
        peft.load_adapter(Net(), folder)
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="a pickle, which is not opened"):
        peft.load_adapter(Net(), folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        peft.load_adapter(Net(), folder)


def test_a_config_json_of_a_model_makes_no_run_of_an_adapters_folder(saved, tmp_path):
    """Check for a merge of two downloads, or PEFT's folder inside of its base's."""
    folder = changed(saved, tmp_path)
    for raw in ({"model_type": "llama"}, {"task": "text-generation"}, [], "x"):
        (folder / "config.json").write_text(json.dumps(raw))
        assert peft.adapter_names(peft.load_adapter(Net(), folder)) == ("default",)
    weights = (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(ConfigError, match="adapter_model.bin is a pickle, which is not opened"):
        peft.load_adapter(Net(), folder)
    weights.unlink()
    with pytest.raises(ConfigError, match=f"no {WEIGHTS}$"):
        peft.load_adapter(Net(), folder)


def test_an_adapter_is_not_saved_into_a_run_and_folders_of_adapters_are_named(saved, tmp_path):
    with pytest.raises(ConfigError, match="there are adapters in its folders changed$"):
        peft.load_adapter(Net(), changed(saved, tmp_path).parent)
    (tmp_path / "config.json").write_text('{"task": {"class": "flaxae.x:Y"}}')
    with pytest.raises(ConfigError, match="is a run's workdir, whose adapter_config.json would be"):
        peft.save_adapter(trained("lora"), tmp_path)
    with pytest.raises(ConfigError, match="a run without an adapter"):
        peft.load_adapter(Net(), tmp_path)


def test_an_adapter_of_another_base_raises(saved):
    other = Net(seed=1)
    with pytest.raises(ConfigError, match="it was trained on another base"):
        peft.load_adapter(other, saved)
    assert peft.adapter_names(peft.load_adapter(other, saved, check_base=False)) == ("default",)
    with pytest.raises(ConfigError, match="'down' is not a module|'up' is not a module"):
        peft.load_adapter(t5(), saved, check_base=False)
    # Other adapters on the model do not change its base.
    both = peft.load_adapter(trained("ia3"), saved, "second")
    assert peft.adapter_names(both) == ("default", "second")


PHI = PhiConfig(
    d_model=8,
    d_ff=12,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    rotary_dim=2,
    num_layers=2,
    vocab_size=16,
)
OLD = "base_model.model.transformer.h"


def old_phi(directory, ends, **fields):
    """Write an adapter with phi's original names; `ends`: {end: shapes of Wqkv and out_proj}."""
    rng, tensors = np.random.default_rng(0), {}
    for layer in range(2):
        for end, shapes in ends.items():
            for name, shape in zip(("mixer.Wqkv", "mixer.out_proj"), shapes, strict=False):
                tensors[f"{OLD}.{layer}.{name}.{end}"] = rng.normal(size=shape).astype("f")
    save_file(tensors, directory / WEIGHTS)
    (directory / CONFIG).write_text(json.dumps(fields))
    return tensors


def old_lora(directory, **fields):
    ends = {"lora_A.weight": ((2, 8), (2, 8)), "lora_B.weight": ((24, 2), (8, 2))}
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["Wqkv", "out_proj"]}
    return old_phi(directory, ends, **config, **fields)


def test_an_adapter_with_phis_original_names_is_read(tmp_path):
    """Check that the fused projection's adapter becomes three that compute the same."""
    tensors = old_lora(tmp_path)
    model = peft.load_adapter(Phi(PHI, rngs=nnx.Rngs(0)), tmp_path)
    attention = model.blocks.self_attn
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        lora = getattr(attention, name).adapters["default"]
        a, b = (tensors[f"{OLD}.1.mixer.Wqkv.lora_{x}.weight"] for x in "AB")
        np.testing.assert_array_equal(lora.A[...][1], a.T)
        np.testing.assert_array_equal(lora.B[...][1], b[8 * i : 8 * i + 8].T)
    assert jnp.any(attention.dense.adapters["default"].B[...])


@pytest.mark.parametrize(
    ("pattern", "qkv", "dense"),
    [
        ({"Wqkv": 64}, [32, 32], [4, 4]),
        ({r"h\.1\.mixer.Wqkv": 64, "mixer.out_proj": 2}, [4, 32], [1, 1]),
        ({"transformer.h.0.mixer.out_proj": 6, "dense": 10}, [4, 4], [3, 5]),
    ],
)
def test_patterns_with_phis_original_names_are_applied(pattern, qkv, dense, tmp_path):
    old_lora(tmp_path, alpha_pattern=pattern, lora_alpha=8)
    attention = peft.load_adapter(Phi(PHI, rngs=nnx.Rngs(0)), tmp_path).blocks.self_attn
    for name, want in (("q_proj", qkv), ("v_proj", qkv), ("dense", dense)):
        scaling = getattr(attention, name).adapters["default"].scaling
        np.testing.assert_array_equal(np.broadcast_to(scaling, 2), want)


def test_a_regex_of_phis_original_names_raises(tmp_path):
    old_lora(tmp_path, alpha_pattern={"h.*Wqkv": 64})
    with pytest.raises(ConfigError, match="alpha_pattern: 'h.*Wqkv' is a regex of phi's original"):
        peft.load_adapter(Phi(PHI, rngs=nnx.Rngs(0)), tmp_path)


def test_an_ia3_on_phis_fused_input_is_read_for_all_three(tmp_path):
    fields = {"peft_type": "IA3", "target_modules": ["Wqkv"], "feedforward_modules": ["Wqkv"]}
    tensors = old_phi(tmp_path, {"ia3_l": ((1, 8),)}, **fields)
    model = peft.load_adapter(Phi(PHI, rngs=nnx.Rngs(0)), tmp_path)
    for name in ("q_proj", "k_proj", "v_proj"):
        ia3 = getattr(model.blocks.self_attn, name).adapters["default"]
        np.testing.assert_array_equal(ia3.factors[...][1], tensors[f"{OLD}.1.mixer.Wqkv.ia3_l"][0])
    old_phi(tmp_path, {"ia3_l": ((25, 1),)}, **fields)
    with pytest.raises(ConfigError, match=r"Wqkv.ia3_l is \(25, 1\): not an adapter of queries"):
        peft.load_adapter(Phi(PHI, rngs=nnx.Rngs(0)), tmp_path)
