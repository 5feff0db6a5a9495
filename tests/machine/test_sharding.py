"""Shardings of whole states for the demo's full-size config; no array is made."""

import math
import runpy

import jax
import pytest
from jax.sharding import PartitionSpec as P

from flaxae.config import Config, MeshConfig, copy_config
from flaxae.errors import ConfigError
from flaxae.machine import sharding
from flaxae.training.state import abstract_state
from flaxae.tree import path_name
from tests.helpers import ROOT

LARGE = 2**20  # bytes


def demo(**overrides: object) -> Config:
    config = runpy.run_path(str(ROOT / "configs/t5_vae/python_lines.py"))["get_config"]()
    config = copy_config(config, {k.replace("__", "."): v for k, v in overrides.items()})
    config.freeze()
    return config


@pytest.mark.parametrize("mesh", [MeshConfig(1, 8, 1), MeshConfig(2, 2, 2)])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon", "lion", "sgd"])
@pytest.mark.parametrize("lanes", [0, 2])
def test_no_large_leaf_is_replicated(mesh: MeshConfig, optimizer: str, lanes: int) -> None:
    config = demo(optim__name=optimizer, optim__ema=0.9)
    made = sharding.make_mesh(mesh)
    state = abstract_state(config.task.make(config), config, made, lanes)
    large = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if size > LARGE * max(lanes, 1):
            large += 1
            assert not leaf.sharding.is_fully_replicated, jax.tree_util.keystr(path)
            assert math.prod(leaf.sharding.shard_shape(leaf.shape)) * made.shape["fsdp"] <= (
                math.prod(leaf.shape)
            )
    assert large >= 10


def test_moments_are_sharded_like_their_parameters() -> None:
    config = demo()
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    state = abstract_state(config.task.make(config), config, mesh)
    names = {path_name(p): x.sharding.spec for p, x in jax.tree_util.tree_leaves_with_path(state)}
    params = [n.removeprefix("params/") for n in names if n.startswith("params/")]
    for name in params:
        moments = [n for n in names if n.startswith("opt/") and n.endswith("/" + name)]
        assert len(moments) == 2, (name, moments)
        assert all(names[m] == names["params/" + name] for m in moments)
    assert any("model" in spec for spec in names.values())


def test_rules_apply_first_then_the_largest_free_dimension_is_split() -> None:
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    rules = (("w$", P(None, "model")),)
    assert sharding.leaf_spec("a/w", (256, 512), mesh, rules) == P("fsdp", "model")
    assert sharding.leaf_spec("a/v", (256, 512), mesh, rules) == P(None, "fsdp")
    assert sharding.leaf_spec("a/w", (256, 513), mesh, rules) == P("fsdp")
    assert sharding.leaf_spec("a/b", (16,), mesh, rules) == P()


def test_a_mesh_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ConfigError, match="needs 16 devices"):
        sharding.make_mesh(MeshConfig(2, 8, 1))
    with pytest.raises(ConfigError, match="cannot be divided"):
        sharding.make_mesh(MeshConfig(3, 0, 1))
