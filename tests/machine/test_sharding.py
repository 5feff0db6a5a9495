"""Shardings of whole states for the demo's full-size config; no array is made."""

import math
import runpy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxae.config import Config, MeshConfig, copy_config
from flaxae.errors import ConfigError
from flaxae.machine import sharding
from flaxae.nn.linear import Embedding, Linear
from flaxae.task import Context
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
    with pytest.raises(ConfigError, match="mesh.replica=3 is not divisible by the 2 slices"):
        sharding.make_mesh(MeshConfig(3, 1, 1), slices(3, 2))


def slices(devices: int, count: int) -> list[Any]:
    """Make fake devices of several TPU slices."""

    class Device:
        platform, device_kind, process_index = "tpu", "TPU v5 lite", 0

        def __init__(self, i: int):
            self.id, self.slice_index = i, i * count // devices

    return [Device(i) for i in range(devices)]


def test_axes_of_size_0_take_the_rest_and_fewer_devices_may_be_used() -> None:
    for config, shape in (
        (MeshConfig(), (1, 8, 1)),
        (MeshConfig(0, 2, 1), (4, 2, 1)),
        (MeshConfig(2, 1, 0), (2, 1, 4)),
        (MeshConfig(1, 2, 1), (1, 2, 1)),
    ):
        mesh = sharding.make_mesh(config)
        assert tuple(mesh.shape.values()) == shape and mesh.axis_names == sharding.AXES
        assert sharding.data_shards(mesh) == shape[0] * shape[1]


def test_rules_use_several_axes_and_leave_fsdp_to_them() -> None:
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    both, fsdp = P(("fsdp", "model"), None), P(None, "fsdp")
    assert sharding.leaf_spec("w", (256, 512), mesh, (("w", both),)) == P(("fsdp", "model"))
    assert sharding.leaf_spec("w", (256, 512), mesh, (("w", fsdp),)) == P(None, "fsdp")
    # 258 is not divisible by 4: the rule does not apply to that axis, so the largest one is split.
    assert sharding.leaf_spec("w", (258, 512), mesh, (("w", both),)) == P(None, "fsdp")
    # Factored moments have fewer dimensions than their rule.
    assert sharding.leaf_spec("w", (2**15,), mesh, (("w", both),)) == P("fsdp")
    # The first match wins; small arrays are split by rules only.
    assert sharding.leaf_spec("w", (8, 8), mesh, (("w", P("model")), ("w", fsdp))) == P()
    assert sharding.leaf_spec("w", (8, 8), mesh, (("w", P("model", None)),)) == P("model")
    assert sharding.leaf_spec("w", (128, 127), mesh, ()) == P()  # below MIN_SPLIT
    assert sharding.leaf_spec("w", (128, 128), mesh, ()) == P("fsdp")
    one = sharding.make_mesh(MeshConfig(1, 1, 1))
    assert sharding.leaf_spec("w", (256, 512), one, (("w", both),)) == P()


def test_rows_that_do_not_divide_are_named() -> None:
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    spec = {"a": {"ids": jax.ShapeDtypeStruct((24, 3), np.int32)}}
    for accumulate in (1, 2, 3, 6):
        sharding.check_batch(spec, mesh, accumulate)
    with pytest.raises(ConfigError, match="'a/ids' has 24 rows.* 4 data shards x 4 micro-batches"):
        sharding.check_batch(spec, mesh, 4)


@pytest.mark.parametrize("layer", ["linear", "embedding", "attend"])
def test_rows_that_a_program_draws_are_split_over_the_devices(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `split_rows` every device computes all rows: such rows have no sharding."""
    mesh = sharding.make_mesh(MeshConfig(2, 4, 1))
    linear, table = Linear(16, 32, rngs=nnx.Rngs(0)), Embedding(64, 16, rngs=nnx.Rngs(0))
    ctx = Context(jax.random.key(0), jnp.int32(0))

    def program(key: jax.Array) -> jax.Array:
        if layer == "embedding":
            return table(jax.random.randint(key, (256,), 0, 64), ctx)
        x = jax.random.normal(key, (256, 16))
        return linear(x, ctx) if layer == "linear" else table.attend(x, ctx)

    def compiled() -> Any:
        with jax.set_mesh(mesh):
            return jax.jit(lambda key: program(key)).lower(jax.random.key(1)).compile()

    ours = compiled()
    assert ours.output_shardings.spec == P(("replica", "fsdp"))
    monkeypatch.setattr("flaxae.nn.linear.split_rows", lambda x: x)
    plain = compiled()
    assert plain.output_shardings.spec == P()
    assert ours.cost_analysis()["flops"] < plain.cost_analysis()["flops"] / 6


def test_split_rows_leaves_other_rows_and_devices_alone() -> None:
    def spec(mesh: MeshConfig, *shape: int) -> Any:
        made = sharding.make_mesh(mesh)
        with jax.set_mesh(made):
            f = jax.jit(lambda: sharding.split_rows(jnp.zeros(shape)))
            return f.lower().compile().output_shardings

    assert spec(MeshConfig(2, 4, 1), 16, 3).spec == P(("replica", "fsdp"))
    for mesh, shape in ((MeshConfig(2, 4, 1), (12, 3)), (MeshConfig(1, 1, 1), (16, 3))):
        assert spec(mesh, *shape).is_fully_replicated


@pytest.mark.usefixtures("split_small")
def test_gathered_parameters_are_whole_and_their_gradients_split() -> None:
    """The rule of a stacked parameter has one axis more; `model` stays split."""
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    rules = (("kernel", P(None, None, "model")),)
    place = NamedSharding(mesh, P("fsdp", "model"))

    def loss(kernel: jax.Array) -> Any:
        whole = sharding.gathered(kernel, "/mlp/kernel", rules)
        return jnp.sum(whole**2), whole

    shape = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=place)
    with jax.set_mesh(mesh):
        grad, whole = jax.jit(jax.grad(loss, has_aux=True)).lower(shape).compile().output_shardings
    assert grad.spec == P("fsdp", "model") and whole.spec == P(None, "model")
    x = np.arange(128.0, dtype=np.float32).reshape(8, 16)
    with jax.set_mesh(mesh):
        found = jax.jit(jax.grad(lambda k: loss(k)[0]))(sharding.put(x, place))
    np.testing.assert_array_equal(found, 2 * x)
