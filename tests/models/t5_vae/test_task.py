"""Sums of the loss: packing, padding rows, sharding, the queue."""

import contextlib
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from flaxae.config import MeshConfig, from_json, to_json
from flaxae.errors import ConfigError
from flaxae.losses import Kernel
from flaxae.machine import sharding
from flaxae.models.t5_vae import objectives
from flaxae.models.t5_vae.task import T5VAEConfig
from flaxae.task import Context, Rows
from flaxae.text_autoencoder import split_terms
from flaxae.text_autoencoder.batches import compare
from flaxae.text_autoencoder.channel import Channel
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


def split_metrics(task, params, batches, ctx):
    """Evaluate batches of one shape as the loop does."""
    run = jax.jit(lambda p, b: task.eval_step(model_of(task, p), b, ctx))
    parts = [run(params, data) for data in batches]
    sums = {
        name: Rows(*(np.concatenate(x) for x in zip(*(p[name] for p in parts), strict=True)))
        if isinstance(value, Rows)
        else tuple(map(sum, zip(*(p[name] for p in parts), strict=True)))
        for name, value in parts[0].items()
    }
    return task.finalize(sums), sums


def keep(data, *weights, junk=None):
    """Return a batch in which only some rows are real; the others contain `junk`."""
    out = {}
    for (name, bucket), weight in zip(data.items(), weights, strict=True):
        real = np.asarray(weight, np.float32)
        filler = np.zeros_like(bucket["ids"]) if junk is None else junk[name]["ids"]
        out[name] = {"ids": np.where(real[:, None] > 0, bucket["ids"], filler), "weight": real}
    return out


def test_the_metrics_of_a_split_depend_on_neither_padding_nor_batches(ctx):
    """The MMD and free bits of five texts are the same where a batch has only one of them."""
    options = {"gaussian": True, "noise_end": 0.3}
    task = tiny_task(
        **{f"task__latent__{k}": v for k, v in options.items()},
        task__kl_weight=0.5,
        task__kl_free_bits=0.9,
    )
    params = jax.jit(lambda: init_model(task, jnp.uint32(0), 0)["params"])()
    ctx = dataclasses.replace(ctx, train=False)
    data, junk = batch(), batch(seed=9)
    whole, sums = split_metrics(task, params, [keep(data, [1, 1, 0, 0], [1, 1, 1, 0])], ctx)
    parts = [
        keep(data, [1, 0, 0, 0], [0, 0, 0, 0], junk=junk),
        keep(data, [0, 0, 0, 0], [1, 1, 0, 0], junk=junk),
        keep(data, [0, 1, 0, 0], [0, 0, 1, 0], junk=junk),
    ]
    divided, _ = split_metrics(task, params, parts, ctx)
    for name, value in whole.items():
        assert value == pytest.approx(divided[name], rel=1e-5), name
    # By hand: cross entropy, MMD and KL per token.
    tokens = float(sums["loss"][1])
    codes, weight = (np.asarray(x) for x in sums["codes"])
    log_variances = np.asarray(sums["log_variances"].values)
    each = 0.5 * (codes**2 + np.exp(log_variances) - 1 - log_variances)[weight > 0]  # (5, 1, 8)
    free = 5 * np.maximum(each.mean(0), 0.9).sum() / tokens
    assert 0.9 * 8 * 5 / tokens < free and (each.mean(0) < 0.9).any()
    assert whole["kl_weighted"] == pytest.approx(0.5 * free, rel=1e-5)
    assert whole["mmd_weighted"] == whole["mmd"] != 0
    expected = whole["recon"] + whole["mmd"] + 0.5 * free
    assert whole["loss"] == pytest.approx(expected, rel=1e-5)
    # One text has no MMD: it is not measured, and does not count.
    one, _ = split_metrics(task, params, parts[:1], ctx)
    assert math.isnan(one["mmd"]) and math.isnan(one["mmd_weighted"])
    assert one["loss"] == pytest.approx(one["recon"] + one["kl_weighted"], rel=1e-5)


def test_the_mmd_of_a_split():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(300, 4)).astype(np.float32) + 1
    value = split_terms.split_mmd(codes, Kernel.IMQ, seed=3)
    assert split_terms.split_mmd(codes[::-1], Kernel.IMQ, seed=3) == pytest.approx(value, abs=0.05)
    assert math.isnan(split_terms.split_mmd(codes[:1], Kernel.IMQ, seed=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_terms, "BLOCK", 100)
        blocks = split_terms.split_mmd(codes, Kernel.IMQ, seed=3)
    assert blocks != value and blocks == pytest.approx(value, rel=0.2)
    rows = Rows(codes[:, None], np.ones(300, np.float32))
    noisy = split_terms.noisy_codes(rows, None, 0.5, seed=3)
    order = rng.permutation(300)
    again = split_terms.noisy_codes(Rows(codes[order, None], rows.weight), None, 0.5, seed=3)
    np.testing.assert_array_equal(noisy, again)
    ordered = codes[np.lexsort(codes.T[::-1])]
    assert (noisy - ordered).std() == pytest.approx(0.5, rel=0.05)
    kept = split_terms.noisy_codes(rows, None, 0.6, 3, Channel.PRESERVING)
    assert (kept - 0.8 * ordered).std() == pytest.approx(0.6, rel=0.05)
    # A sigma per text, uniform from .1 to .9: its mean square is (.9^3 - .1^3) / 3 / .8.
    own = split_terms.noisy_codes(rows, None, 0.9, 3, lowest=0.1)
    assert np.square(own - ordered).mean() == pytest.approx(0.728 / 2.4, rel=0.1)
    assert np.abs(own - ordered).max(1).min() < 0.1 < np.abs(noisy - ordered).max(1).min() + 0.1


def test_the_mmd_of_a_decoder_that_reads_the_noise_is_of_a_sigma_per_text():
    z = np.random.default_rng(0).normal(size=(64, 1, 4)).astype(np.float32)
    rows = Rows(z, np.ones(64, np.float32))
    latent = {"channel": "preserving", "reads_noise": True, "noise_low": 0.2, "noise_end": 0.8}
    options = tiny_config(**{f"task__latent__{k}": v for k, v in latent.items()}).task
    metrics = {"sigma": 0.8, "mmd_weighted": 1.0, "loss": 2.0}
    found = split_terms.add(metrics, {"codes": rows}, options, seed=3)
    codes = split_terms.noisy_codes(rows, None, 0.8, 3, Channel.PRESERVING, lowest=0.2)
    assert found["mmd"] == split_terms.split_mmd(codes, Kernel.IMQ, 3)
    assert found["loss"] == pytest.approx(2 + found["mmd"])


@given(
    weights=st.lists(st.sampled_from([0.0, 1.0]), max_size=8),
    seed=st.integers(0, 99),
    gaussian=st.booleans(),
)
def test_codes_of_a_split_depend_on_neither_order_nor_padding(weights, seed, gaussian):
    rng, n = np.random.default_rng(seed), len(weights)
    mean, logs = rng.normal(size=(2, n, 2, 3)).astype(np.float32)
    rows, order = np.asarray(weights, np.float32), rng.permutation(n)

    def collected(pick, weight):
        log_variance = Rows(logs[pick], weight) if gaussian else None
        codes = split_terms.noisy_codes(Rows(mean[pick], weight), log_variance, 0.2, seed)
        return codes, split_terms.free_kl(Rows(mean[pick], weight), Rows(logs[pick], weight), 0.3)

    codes, free = collected(order, rows[order])
    real = np.flatnonzero(rows)
    again, same = collected(real, np.ones(len(real), np.float32))
    assert codes.shape == (len(real), 6)
    np.testing.assert_array_equal(codes, again)
    np.testing.assert_allclose(free, same)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            (1, 0),
            {},
            r"mmd_weight=1\.0: an MMD needs two texts per micro-batch.*batch_size=8 / acc",
        ),
        ((1, 0), {"task__latent__queue": 1}, ""),
        ((1, 0), {"task__mmd_weight": 0.0}, ""),
        ((1, 1), {}, ""),
        ((2, 1), {"task__critic_weight": 1.0}, r"critic_weight=1\.0: each code is mixed"),
        ((2, 2), {"task__critic_weight": 1.0}, ""),
    ],
)
def test_training_with_too_few_texts_per_micro_batch_is_refused(rows, options, message):
    config = tiny_config(**options)
    with pytest.raises(ConfigError, match=message) if message else contextlib.nullcontext():
        objectives.check_rows(config, [n for n in rows if n])


def test_a_micro_batch_of_one_text_is_refused_when_it_is_traced(ctx):
    data = {"004": {"ids": np.asarray([[3, 1, 0, 0]], np.int32), "weight": np.ones(1, np.float32)}}

    def trace(at):
        task = tiny_task()
        model = nnx.eval_shape(lambda: task.init(nnx.Rngs(0)))
        split = nnx.split(model)

        def total(state):
            return task.loss(nnx.merge(split[0], state), data, at).total

        return jax.eval_shape(total, split[1])

    with pytest.raises(ConfigError, match="an MMD needs two texts"):
        trace(ctx)
    assert trace(dataclasses.replace(ctx, train=False)).shape == ()


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
        z = task.terms.posterior(model, [b["ids"] for b in batch().values()], ctx)[0]
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
    task = tiny_task(task__latent__channel="preserving", task__latent__noise_end=0.3)
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


@pytest.mark.slow
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
