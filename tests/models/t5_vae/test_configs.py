"""Every config file: its fields, its model's shapes, and its docstring."""

import importlib
import math

import jax
import pytest
from flax import nnx

from flaxae import summary
from flaxae.config import MeshConfig, copy_config, from_json, to_json
from flaxae.errors import ConfigError
from flaxae.machine import sharding
from flaxae.sweep import group_by_shape
from flaxae.text_autoencoder.channel import Channel

# file:preset -> millions of parameters
CONFIGS = {
    "docstrings": 8.0,
    "sentences": 6.4,
    "sentences:quick": 6.4,
    "legacy_mmd": 1.65,
    "baselines": 3.55,
    "baselines:docstrings": 3.55,
    "optimus_kl:tiny": 1.24,
    "optimus_kl": 258,
    "wikipedia_base": 260,
    "wikipedia_base:scratch": 260,
    "wikipedia_large": 801,
    "wikipedia_3b": 2893,
}


def config_of(name):
    file, _, preset = name.partition(":")
    module = importlib.import_module(f"configs.t5_vae.{file}")
    return module.get_config(preset) if preset else module.get_config()


@pytest.mark.parametrize("name", CONFIGS)
def test_model_has_the_size_of_its_docstring(name):
    config = config_of(name)
    config.freeze()
    task = config.task.make(config)
    _, state = nnx.split(nnx.eval_shape(lambda: task.init(nnx.Rngs(0))), nnx.Param, ...)[:2]
    millions = sum(math.prod(x.shape) for x in jax.tree.leaves(state)) / 1e6
    assert millions == pytest.approx(CONFIGS[name], rel=0.05)
    assert to_json(from_json(to_json(config))) == to_json(config)
    rows = config.data.batch_size // config.data.num_buckets
    spec = {"a": {"ids": jax.ShapeDtypeStruct((rows, config.data.max_length), "int32")}}
    mesh = sharding.make_mesh(MeshConfig(replica=2, fsdp=2, model=2))
    sharding.check_batch(spec, mesh, config.accumulate)
    assert task.flops(spec, {}) > 2 * 3 * rows * config.data.max_length * 0.5e6


def test_the_wide_flow_is_larger_and_reads_its_own_estimate():
    small, wide = (config_of(f"flow_prior{x}") for x in ("", ":wide"))
    for config in (small, wide):
        config.freeze()
    assert wide.task.self_condition and not small.task.self_condition
    assert wide.task.width > small.task.width and wide.steps > small.steps


@pytest.mark.parametrize(
    ("name", "presets"),
    [
        ("python_lines", "full, quick, copy, copy_quick"),
        ("docstrings", "full, quick"),
        ("sentences", "full, quick"),
        ("ignored_codes", "full, quick"),
        ("baselines", "python_lines, docstrings"),
        ("legacy_mmd", "python_lines, docstrings"),
        ("optimus_kl", "pretrained, scratch, tiny"),
        ("wikipedia_base", "pretrained, scratch"),
    ],
)
def test_wrong_preset_raises_and_lists_the_presets(name, presets):
    with pytest.raises(ConfigError, match=f"no preset 'quik'; there are {presets}$"):
        config_of(f"{name}:quik")


def test_fixed_presets_of_the_demo():
    """Benchmarks and older results refer to them: a new demo does not change them."""
    from configs.t5_vae import python_lines, space

    for name, fixed in (("full", "copy"), ("quick", "copy_quick")):
        kept = config_of(f"python_lines:{fixed}")
        fields = space.fields(python_lines.SETTING, kept.steps)
        assert to_json(copy_config(kept, fields)) == to_json(config_of(f"python_lines:{name}"))
        assert kept.task.latent.channel is Channel.ADDITIVE and kept.task.latent.noise_end == 0.15


def test_other_corpora_do_not_inherit_the_latent_space_of_the_demo(monkeypatch):
    from configs.t5_vae import python_lines

    names = ("docstrings", "docstrings:quick", "sentences", "sentences:quick")
    before = [to_json(config_of(name)) for name in names]
    monkeypatch.setattr(python_lines, "SETTING", "bits_70")
    made = config_of("python_lines")
    assert made.task.latent.target_bits == 70 and made.task.latent.noise_steps == 0.6 * made.steps
    for name, kept in zip(names, before, strict=True):
        config = config_of(name)
        assert to_json(config) == kept
        config.freeze()


def test_batch_shapes_are_planned_without_data():
    config = config_of("optimus_kl")
    text = summary.summary(config)
    assert "not checked" not in text and "kv_slot/kernel" in text
    text = summary.summary(copy_config(config, {"data.bucket_edges": ()}))  # depend on the texts
    assert "The batch is not checked" in text and "data.tokenizer" in text


def test_baselines_differ_only_in_their_objective():
    from configs.t5_vae import baselines

    base = to_json(baselines.get_config())
    seen = set()
    for name, overrides in baselines.VARIANTS.items():
        config = copy_config(baselines.get_config(), overrides)
        config.freeze()
        made = to_json(config)
        assert {k: v for k, v in made.items() if k != "task"} == {
            k: v for k, v in base.items() if k != "task"
        }
        assert made["task"]["t5"] == base["task"]["t5"]
        assert made["task"]["latent"]["dim"] == base["task"]["latent"]["dim"]
        seen.add(str(made["task"]))
        assert name == "ae" or made["task"] != base["task"]
    assert len(seen) == len(baselines.VARIANTS) == 7
    runs = [v | {"seed": s} for v in baselines.VARIANTS.values() for s in range(3)]
    assert len(group_by_shape(baselines.get_config(), runs)) == 7  # seeds train as lanes
