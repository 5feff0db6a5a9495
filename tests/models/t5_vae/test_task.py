"""Sums of the loss: packing, padding rows, sharding, the queue."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from flaxae.config import MeshConfig, from_json, to_json
from flaxae.errors import ConfigError
from flaxae.machine import sharding
from flaxae.models.t5_vae.batches import compare
from flaxae.models.t5_vae.task import T5VAEConfig
from flaxae.task import Context
from flaxae.training.layout import init_model, make_layout
from tests.models.t5_vae.tiny import batch, tiny_config, tiny_task


@pytest.fixture
def ctx():
    return Context(key=jax.random.key(0), step=jnp.int32(3), train=True)


@functools.cache
def tiny_params():
    task = tiny_task()
    return jax.jit(lambda: init_model(task, jnp.uint32(0), 0)["params"])()


def model_of(task, params):
    """Return the task's model with parameters that all options share."""
    layout = make_layout(task, task.config)
    return layout.merge(params, {"once": {}, "stream": {}}, {})


def loss_of(task, data, ctx):
    return jax.jit(lambda p, b: task.loss(model_of(task, p), b, ctx))(tiny_params(), data)


def test_packed_and_chunked_losses_equal_the_plain_one(ctx):
    plain = loss_of(tiny_task(task__pack_buckets=False), batch(), ctx)
    for options in ({}, {"task__loss_chunks": 3, "task__t5__remat": True}):
        other = loss_of(tiny_task(**options), batch(), ctx)
        np.testing.assert_allclose(plain.total, other.total, rtol=1e-5)
        assert jax.tree.structure(plain.metrics) == jax.tree.structure(other.metrics)


def test_sums_are_over_real_tokens(ctx):
    data = batch()
    loss = loss_of(tiny_task(task__mmd_weight=0.0), data, ctx)
    tokens = sum(int((b["ids"] != 0).sum()) for b in data.values())
    assert float(loss.weight) == tokens
    np.testing.assert_allclose(loss.total, loss.metrics["recon"][0], rtol=1e-6)
    assert float(loss.metrics["sigma"][1]) == tokens


def test_rows_of_weight_zero_do_not_count(ctx):
    task, ctx = tiny_task(), dataclasses.replace(ctx, train=False)
    data, junk = batch(), batch(seed=9)
    for bucket, other in zip(data.values(), junk.values(), strict=True):
        bucket["weight"] = np.asarray([1, 1, 1, 0], np.float32)
        bucket["ids"][3] = 0
        other["weight"] = bucket["weight"]
        other["ids"][:3] = bucket["ids"][:3]
    run = jax.jit(lambda p, b: task.eval_step(model_of(task, p), b, ctx))
    changed = run(tiny_params(), junk)
    for name, (a, b) in run(tiny_params(), data).items():
        np.testing.assert_allclose(a, changed[name][0], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(b, changed[name][1], err_msg=name)


def test_mmd_weight_is_traced(ctx):
    task = tiny_task(task__mmd_weight=5.0)

    @jax.jit
    def total(weight):
        at = dataclasses.replace(ctx, hparams={"mmd_weight": weight})
        return task.loss(model_of(task, params), batch(), at).total

    params = tiny_params()
    np.testing.assert_allclose(total(jnp.float32(5)), loss_of(task, batch(), ctx).total, rtol=1e-6)
    assert total(jnp.float32(0)) != total(jnp.float32(5))
    assert total._cache_size() == 1  # pyright: ignore


def test_queue_is_updated_in_training_only(ctx):
    task = tiny_task(task__latent__queue=12)

    @jax.jit
    def after(train):
        model = task.init(nnx.Rngs(0))
        before = model.queue[...]
        z = task._encode(model, [b["ids"] for b in batch().values()], ctx)
        task.loss(model, batch(), dataclasses.replace(ctx, train=True))
        trained = model.queue[...]
        task.loss(model, batch(), dataclasses.replace(ctx, train=False))
        return before, z, trained, model.queue[...]

    before, z, trained, evaluated = after(True)
    np.testing.assert_allclose(trained[:8], z[:, 0], atol=1e-5)  # sigma is 0: the codes themselves
    np.testing.assert_array_equal(trained[8:], before[:4])
    np.testing.assert_array_equal(evaluated, trained)


@pytest.mark.usefixtures("split_small")
def test_one_device_equals_eight(ctx):
    """Loss and gradients on replica=2 x fsdp=2 x model=2, with the rules of the model axis."""
    task = tiny_task()
    layout = make_layout(task, task.config)
    params = tiny_params()
    carry = {"once": {}, "stream": {}}

    def loss(params, data):
        out = task.loss(layout.merge(params, carry, {}), data, ctx)
        return out.total / out.weight

    run = jax.jit(jax.value_and_grad(loss))
    data = batch()
    value, grads = run(params, data)
    mesh = sharding.make_mesh(MeshConfig(replica=2, fsdp=2, model=2))
    shardings = sharding.infer_sharding(params, mesh, task.sharding_rules)
    specs = jax.tree.map(lambda s: s.spec, shardings)
    block = specs["t5"]["encoder"]["blocks"]
    assert block["attention"]["q"]["kernel"] == P(None, "fsdp", "model")
    assert block["mlp"]["wo"]["kernel"] == P(None, "model", "fsdp")
    assert specs["t5"]["embedding"]["table"] == P("model", "fsdp")
    split = run(
        jax.device_put(params, shardings), sharding.put(data, sharding.batch_sharding(mesh))
    )
    np.testing.assert_allclose(value, split[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(split[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_training_learns_to_reconstruct():
    """Free-running exact match on a few memorised texts rises to 1."""
    task = tiny_task(task__mmd_weight=0.01)
    layout = make_layout(task, task.config)
    params = tiny_params()
    carry, data = {"once": {}, "stream": {}}, batch()
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0), train=True)

    def loss(params):
        out = task.loss(layout.merge(params, carry, {}), data, ctx)
        return out.total / out.weight

    @jax.jit
    def update(params, mean, square, rate):
        grads = jax.grad(loss)(params)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)
        square = jax.tree.map(lambda s, g: 0.98 * s + 0.02 * g * g, square, grads)
        step = jax.tree.map(lambda m, s: rate * m / (jnp.sqrt(s) + 1e-6), mean, square)
        return jax.tree.map(jnp.subtract, params, step), mean, square

    mean = square = jax.tree.map(jnp.zeros_like, params)
    for rate in np.linspace(1e-2, 0.0, 400, dtype=np.float32):
        params, mean, square = update(params, mean, square, rate)
    still = dataclasses.replace(ctx, train=False)
    sums = jax.jit(lambda p: task.eval_step(layout.merge(p, carry, {}), data, still))(params)
    metrics = task.finalize(sums)
    assert metrics["exact_match"] == 1 and metrics["token_accuracy"] == 1
    assert metrics["forced_accuracy"] == 1


def test_compare_counts_the_tokens_of_the_longer_text():
    made = jnp.asarray([[5, 6, 1, 0], [5, 1, 0, 0], [5, 6, 7, 8]])
    truth = [jnp.asarray([[5, 6, 1, 0], [5, 6, 1, 0], [5, 6, 1, 0]])]
    exact, matches, longest = compare(made, truth, 4)
    assert exact.tolist() == [1, 0, 0]
    assert matches.tolist() == [3, 1, 2]
    assert longest.tolist() == [3, 3, 4]


def test_flops_are_close_to_xlas_count(ctx):
    task = tiny_task(task__t5__scan_unroll=2)
    spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch())

    def loss(params, data):
        return task.loss(model_of(task, params), data, ctx).total

    cost = jax.jit(jax.grad(loss)).lower(tiny_params(), spec).compile().cost_analysis()
    assert 0.6 < task.flops(spec, {}) / cost["flops"] < 1.2  # pyright: ignore


def test_config_round_trip_and_errors():
    config = tiny_config(task__latent__bottleneck="mean", task__mmd_kernel="rbf")
    again = from_json(to_json(config))
    assert to_json(again) == to_json(config) and isinstance(again.task, T5VAEConfig)
    with pytest.raises(ConfigError, match="latent.dim"):
        tiny_config(task__latent__dim=0).freeze()
    with pytest.raises(ConfigError, match="not one of: flatten, mean"):
        tiny_config(task__latent__bottleneck="median")
    with pytest.raises(ConfigError, match="mmd_weight"):
        tiny_config(task__mmd_weight=-1.0).freeze()
