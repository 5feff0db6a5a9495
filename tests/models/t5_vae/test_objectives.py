"""Loss terms besides the reconstruction: known values, meshes, accumulation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae import losses
from flaxae.config import MeshConfig
from flaxae.errors import ConfigError
from flaxae.losses import Kernel
from flaxae.machine import sharding
from flaxae.models.t5_vae import objectives
from flaxae.task import Context
from flaxae.text_autoencoder.kl import kl_terms
from flaxae.training import step as train_step
from flaxae.training.hparams import make_hparams
from flaxae.training.layout import make_layout
from flaxae.training.state import make_state
from flaxae.tree import nest
from tests.models.t5_vae.tiny import batch, tiny_config, tiny_model, tiny_task
from tests.xla import COMPILE_WELL

jit = jax.jit
ONE_LAYER = {"task__t5__num_layers": 1, "task__t5__num_decoder_layers": 1}


@pytest.fixture
def ctx():
    return Context(key=jax.random.key(0), step=jnp.int32(3), train=True)


def parts_of(task):
    """Return layout, parameters and carry of a task, initialised without compiling."""
    layout = make_layout(task, task.config)
    model = tiny_model(task)
    params = {p: v.get_value() for p, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    return layout, nest(params), layout.carry_of(model)


def loss_fn(task, layout, carry, ctx):
    def loss(params, data):
        out = task.loss(layout.merge(params, carry, {}), data, ctx)
        return out.total / out.weight, out.metrics

    return loss


def test_wrong_fields_are_named():
    for options, name in (
        ({"task__kl_weight": 1.0}, "gaussian"),
        ({"task__kl_free_bits": 0.1, "task__kl_threshold": 0.1}, "kl_threshold"),
        ({"task__mmd_schedule": "bar", "task__mmd_start": 0.0}, "task.bar"),
        ({"task__mmd_schedule": "bar", "task__bar": 1.0}, "mmd_start"),
        ({"task__cycle_weight": -1.0}, "cycle_weight"),
    ):
        with pytest.raises(ConfigError, match=name):
            tiny_config(**options).freeze()


def test_median_bandwidth_follows_the_scale():
    """The value does not change if codes and prior are multiplied by ten."""
    z, prior = jax.random.normal(jax.random.key(0), (2, 64, 8))
    z = z + 1.0
    padded = jnp.concatenate([z, jnp.full((9, 8), 50.0)])
    weights = jnp.asarray([1.0] * 64 + [0.0] * 9)
    squared = np.square(np.asarray(z)[:, None] - np.asarray(prior)).sum(-1)
    gammas = tuple(f / float(np.median(squared)) for f in (0.5, 1, 2))

    @jit
    def values(z, prior, padded):
        return jnp.stack(
            [
                losses.mmd(z, prior, Kernel.RBF_MEDIAN),
                losses.mmd(10 * z, 10 * prior, Kernel.RBF_MEDIAN),
                losses.mmd(z, prior, Kernel.RBF, gammas=gammas),
                losses.mmd(padded, prior, Kernel.RBF_MEDIAN, weights=weights),
            ]
        )

    first, *others = values(z, prior, padded)
    np.testing.assert_allclose(others, float(first), rtol=1e-3)


class TestCritic:
    def test_each_loss_has_gradients_for_its_own_side_only(self):
        critic = objectives.Critic(8, nnx.Rngs(0))
        graphdef, state = nnx.split(critic)
        mixed, plain = jax.random.normal(jax.random.key(0), (2, 6, 8))
        alpha, rows = jnp.linspace(0, 0.5, 6), jnp.ones(6)

        def part(i):
            def value(state, mixed, plain):
                critic = nnx.merge(graphdef, state)
                return objectives.critic_losses(critic, mixed, plain, alpha, rows)[i]

            return [
                max(float(jnp.abs(x).max()) for x in jax.tree.leaves(g))
                for g in jax.grad(value, (0, 1, 2))(state, mixed, plain)
            ]

        assert part(0)[0] == 0 < part(0)[1]
        assert part(1)[0] > 0 == part(1)[1] == part(1)[2]

    def test_known_values(self):
        class Half:
            def __call__(self, z):
                return jnp.full(z.shape[0], 0.25)

            fixed = lambda self: self  # noqa: E731

        z, alpha = jnp.zeros((4, 2)), jnp.full(4, 0.5)
        own, its = objectives.critic_losses(Half(), z, z, alpha, jnp.asarray([1.0, 1, 1, 0]))
        assert (float(own), float(its)) == (0.0625, 0.125)

    def test_neighbours_are_in_the_same_bucket(self):
        x = jnp.arange(5)
        assert objectives.rolled(x, [2, 3]).tolist() == [1, 0, 4, 2, 3]

    def test_cycle_loss_has_no_gradient_for_the_code(self):
        again, z = jnp.zeros((2, 4)), jnp.ones((2, 4))
        rows = jnp.asarray([1.0, 0.0])
        assert float(objectives.cycle_loss(again, z, rows)) == 1
        assert not jnp.any(jax.grad(lambda z: objectives.cycle_loss(again, z, rows))(z))


def test_cycle_and_critic_in_the_loss(ctx):
    """The terms are finite, have gradients, and add to the loss without them."""
    options = {"task__cycle_weight": 0.5, "task__critic_weight": 0.25}
    task = tiny_task(**ONE_LAYER, **options)
    layout, params, carry = parts_of(task)
    run = jit(jax.value_and_grad(loss_fn(task, layout, carry, ctx), has_aux=True))
    (value, metrics), grads = run(params, batch())
    means = {name: float(s / w) for name, (s, w) in metrics.items()}
    assert np.isfinite(list(means.values())).all()
    assert means["critic_fooled"] > 0 < means["cycle"]
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads["critic"]))
    plain = tiny_task(**ONE_LAYER)
    plain_layout = make_layout(plain, plain.config)
    bare = {k: v for k, v in params.items() if k != "critic"}
    without = loss_fn(plain, plain_layout, {"once": {}, "stream": {}}, ctx)
    expected, bare_metrics = jit(without)(bare, batch())
    extra = 0.5 * means["cycle"] + 0.25 * (means["critic_fooled"] + means["critic"])
    assert float(value) == pytest.approx(float(expected) + extra, rel=1e-5)
    assert metrics.keys() - bare_metrics.keys() == {
        f"{name}{end}" for name in ("cycle", "critic", "critic_fooled") for end in ("", "_weighted")
    }


MESH = {"replica": 2, "fsdp": 2, "model": 2}


def test_terms_of_the_code_are_equal_on_eight_devices():
    """Values and gradients of every kernel, with and without a queue, and of every KL."""
    rng = np.random.default_rng(0)
    z, prior = rng.normal(size=(2, 16, 8)).astype(np.float32)
    queue = rng.normal(size=(8, 8)).astype(np.float32)

    def terms(z, prior):
        both = jnp.concatenate([prior, prior[:8]])
        out = [losses.mmd(z, prior, kernel) for kernel in Kernel]
        out.append(losses.mmd(z, both, reference=queue))
        rows = jnp.ones(16)
        for options in ({}, {"free_bits": 0.4}, {"threshold": 0.4}):
            out.append(kl_terms(z, 0.5 * z, rows, **options)[1] / 16)
        return jnp.stack(out)

    def mixed(z, prior):
        values = terms(z, prior)
        return values @ jnp.linspace(0.5, 1.5, len(values)), values

    both = jax.jit(jax.value_and_grad(mixed, has_aux=True), compiler_options=COMPILE_WELL)
    one = both(z, prior)
    mesh = sharding.make_mesh(MeshConfig(**MESH))
    placed = sharding.put((z, prior), sharding.batch_sharding(mesh))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(both(*placed)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


OBJECTIVES = {
    "kl": {
        "task__latent__gaussian": True,
        "task__kl_weight": 0.5,
        "task__kl_free_bits": 0.1,
        "task__latent__queue": 8,
        "task__mmd_schedule": "bar",
        "task__bar": 9.0,
        "task__mmd_start": 0.5,
        "task__noise__mask": 0.2,
        "task__noise__word_dropout": 0.2,
    },
    "cycle and critic": {"task__cycle_weight": 0.5, "task__critic_weight": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl", "cycle and critic"])
def test_one_device_equals_eight(name, ctx):
    task = tiny_task(**ONE_LAYER, **OBJECTIVES[name], task__loss_chunks=2)
    layout, params, carry = parts_of(task)
    loss = jax.value_and_grad(loss_fn(task, layout, carry, ctx), has_aux=True)
    (value, _), grads = jit(loss)(params, batch())
    mesh = sharding.make_mesh(MeshConfig(**MESH))
    with jax.set_mesh(mesh):  # as in the loop: buckets are not packed, logits are not chunked
        shardings = sharding.infer_sharding(params, mesh, task.sharding_rules)
        data = sharding.put(batch(), sharding.batch_sharding(mesh))
        (split, _), split_grads = jit(loss)(jax.device_put(params, shardings), data)
    np.testing.assert_allclose(value, split, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(split_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_accumulation_with_a_queue_is_the_mean_over_micro_batches(ctx):
    """With plain gradient descent at rate 1, a step's update is its gradient."""
    options = {"optim__name": "sgd", "optim__lr": 1.0, "optim__momentum": 0.0}
    options |= {"optim__schedule": "constant", "optim__clip_norm": 0.0, "accumulate": 2}
    task = tiny_task(**ONE_LAYER, **options, task__latent__queue=12, task__mmd_weight=50.0)
    config = task.config
    layout, params, carry = parts_of(task)
    hparams = make_hparams(task, [config], False)
    state = jax.eval_shape(lambda: make_state(task, config, hparams))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    state |= {"params": params, "carry": carry, "step": jnp.int32(3)}
    new, _ = jit(train_step.make_update(task, config, layout))(state, {}, batch(), hparams)
    key = jax.random.fold_in(jax.random.key(hparams["seed"]), 3)

    @jit
    def expected(params, data):
        def total(params):
            model = layout.merge(params, carry, {})
            sums, queues = [], []
            for i in range(2):
                micro = jax.tree.map(lambda x, i=i: x[i::2], data)
                at = dataclasses.replace(ctx, key=jax.random.fold_in(key, i), hparams=hparams)
                sums.append(task.loss(model, micro, at))  # this updates the model's queue
                queues.append(model.queue[...])
            return (sums[0].total + sums[1].total) / (sums[0].weight + sums[1].weight), queues

        return jax.grad(total, has_aux=True)(params)

    grads, queues = expected(params, batch())
    np.testing.assert_allclose(new["carry"]["once"]["queue"], queues[1], atol=1e-6)
    np.testing.assert_array_equal(queues[1][4:8], queues[0][:4])  # the first codes, moved back
    for a, b, g in zip(*map(jax.tree.leaves, (params, new["params"], grads)), strict=True):
        np.testing.assert_allclose(a - b, g, atol=2e-5)
