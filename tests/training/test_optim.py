"""Schedules, optimizers, groups, and optimizer states as plain dicts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxae.config import OptimConfig, Optimizer, Schedule
from flaxae.errors import ConfigError
from flaxae.training import optim
from flaxae.tree import path_name


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def params():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    block = {"mlp": {"kernel": draw(3, 8, 16), "bias": draw(3, 16)}, "norm": {"scale": draw(3, 8)}}
    return {"encoder": {"blocks": block}, "embed": {"embedding": draw(32, 8)}}


def grads():
    return jax.tree.map(lambda p: jnp.sin(3 * p), params())


def schedule(step, horizon=100, **fields):
    return float(optim.learning_rate(OptimConfig(**fields), 2.0, step, horizon))


def test_schedules_reach_their_ends():
    for kind in Schedule:
        assert schedule(0, schedule=kind, warmup=10) == 0
        assert schedule(5, schedule=kind, warmup=10) == pytest.approx(1.0)
        assert schedule(10, schedule=kind, warmup=10) == pytest.approx(2.0)
    for kind in (Schedule.LINEAR, Schedule.COSINE, Schedule.WSD):
        for warmup in (0, 10):
            at_end = schedule(100, schedule=kind, warmup=warmup, final_lr=0.1)
            assert at_end == pytest.approx(0.2)
            # An extended run stays at the last learning rate.
            assert schedule(500, schedule=kind, warmup=warmup, final_lr=0.1) == pytest.approx(0.2)
    assert schedule(80, schedule=Schedule.WSD, wsd_decay=0.2) == pytest.approx(2.0)
    assert schedule(90, schedule=Schedule.WSD, wsd_decay=0.2) == pytest.approx(1.0)
    assert schedule(400, schedule=Schedule.RSQRT, warmup=100) == pytest.approx(1.0)


def test_cosine_equals_optax():
    theirs = optax.warmup_cosine_decay_schedule(0.0, 2.0, 10, 100, 0.2)
    for step in range(0, 120, 7):
        ours = schedule(step, schedule=Schedule.COSINE, warmup=10, final_lr=0.1)
        assert ours == pytest.approx(float(theirs(step)), rel=1e-5, abs=1e-6)


def steps(config, n=3, hparams=None):
    """Make n updates through pack and unpack, jitted, with lr and step traced."""
    hparams = {"lr": jnp.float32(config.lr)} if hparams is None else hparams
    template = jax.eval_shape(lambda p: optim.make_tx(config, {}, 0, 10).init(p), params())

    @jax.jit
    def one(p, packed, step, hparams):
        tx = optim.make_tx(config, hparams, step, 10)
        updates, state = tx.update(grads(), optim.unpack(packed, template), p)
        return optax.apply_updates(p, updates), optim.pack(state)

    p, packed = params(), optim.pack(optim.make_tx(config, {}, 0, 10).init(params()))
    for i in range(n):
        p, packed = one(p, packed, jnp.int32(i), hparams)
    return p, packed


@pytest.mark.parametrize("name", list(Optimizer))
def test_every_optimizer_descends_under_strict_promotion(name):
    config = OptimConfig(name=name, lr=1e-2, schedule=Schedule.CONSTANT, weight_decay=0.1)
    p, packed = steps(config)
    for a, b in zip(jax.tree.leaves(params()), jax.tree.leaves(p), strict=True):
        assert a.dtype == b.dtype and np.isfinite(b).all() and not np.array_equal(a, b)
    # Nested dicts with string keys, no empty node; moments end in the parameter's path.
    paths = [path_name(k) for k, _ in jax.tree_util.tree_leaves_with_path(packed)]
    assert all(x.size for x in jax.tree.leaves(packed))
    assert any(path.endswith("encoder/blocks/mlp/kernel") for path in paths)

    def check(node):
        for key, value in node.items():
            assert isinstance(key, str)
            if isinstance(value, dict):
                assert value
                check(value)

    check(packed)


@pytest.mark.parametrize("theirs", ["adamw", "lion", "sgd", "adafactor"])
def test_updates_equal_those_of_optax(theirs):
    lr, wd = 1e-2, 0.1
    blocks = {"mlp": {"kernel": True, "bias": False}, "norm": {"scale": False}}
    decayed = {"encoder": {"blocks": blocks}, "embed": {"embedding": True}}
    decay = optax.add_decayed_weights(wd, decayed)
    tx = {
        "adamw": optax.adamw(lr, 0.9, 0.99, weight_decay=wd, mask=decayed),
        "lion": optax.lion(lr, 0.9, 0.99, weight_decay=wd, mask=decayed),
        "sgd": optax.chain(optax.trace(0.9), decay, optax.scale(-lr)),
        "adafactor": optax.chain(
            optax.adafactor(multiply_by_parameter_scale=False),
            optax.scale(-1),
            decay,
            optax.scale(-lr),
        ),
    }[theirs]
    config = OptimConfig(
        name=Optimizer(theirs),
        lr=lr,
        b2=0.99,
        weight_decay=wd,
        clip_norm=0.0,
        schedule=Schedule.CONSTANT,
    )
    ours, _ = steps(config)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        p, state = params(), tx.init(params())
        for _ in range(3):
            updates, state = tx.update(grads(), state, p)
            p = optax.apply_updates(p, updates)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(p), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [Optimizer.ADAMW, Optimizer.LION])
def test_the_loops_update_equals_optax_and_a_bad_step_changes_nothing(name):
    """AdamW's update is computed from the moments that are kept."""
    config = OptimConfig(
        name=name, lr=0.01, b2=0.99, weight_decay=0.1, groups=(("embed", 2.0, 0.5),)
    )
    tx = optim.make_tx(config, {}, 50, 100)
    plain, asked = tx.init(params()), tx.init(params())
    for i in range(4):
        g = jax.tree.map(lambda x, i=i: (i + 1) * x, grads())
        norm = optax.tree.norm(g)
        want, plain = tx.update(g, plain, params())
        have, asked = tx.update(g, asked, params(), norm=norm, good=jnp.bool_(True))
        for a, b in zip(*map(jax.tree.leaves, ((have, asked), (want, plain))), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
        worse = jax.tree.map(lambda x: x * jnp.nan, g)
        _, still = tx.update(worse, asked, params(), norm=jnp.nan, good=jnp.bool_(False))
        jax.tree.map(np.testing.assert_array_equal, still, asked)


def test_a_decay_of_zero_does_not_read_the_parameters():
    def reads(weight_decay, hparams):
        tx = optim.make_tx(OptimConfig(weight_decay=weight_decay), hparams, 0, 10)
        unknown = jax.tree.map(lambda p: p * jnp.nan, params())
        updates, _ = tx.update(grads(), tx.init(params()), unknown, good=jnp.bool_(True))
        return any(np.isnan(u).any() for u in jax.tree.leaves(updates))

    assert not reads(0.0, {}) and not reads(0.1, {"weight_decay": 0.0})
    assert reads(0.1, {}) and reads(0.0, {"weight_decay": jnp.float32(0)})


def test_clipping_and_traced_hyperparameters():
    base = OptimConfig(name=Optimizer.SGD, momentum=0.0, lr=1.0, schedule=Schedule.CONSTANT)
    tx = optim.make_tx(base, {"lr": jnp.float32(0.5), "weight_decay": jnp.float32(0)}, 0, 10)
    updates, state = tx.update(grads(), tx.init(params()), params())
    assert float(optax.tree.norm(updates)) == pytest.approx(0.5, rel=1e-5)
    assert optim.pack(state) == {}
    a, _ = steps(dataclasses.replace(base, lr=0.5, weight_decay=0.3), hparams={})
    hparams = {"lr": jnp.float32(0.5), "weight_decay": jnp.float32(0.3)}
    b, _ = steps(base, hparams=hparams)
    # Programs with constants round differently.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_groups_multiply_and_the_first_match_wins():
    base = OptimConfig(name=Optimizer.SGD, momentum=0.0, schedule=Schedule.CONSTANT, clip_norm=0.0)
    base.lr, base.weight_decay = 1.0, 0.1
    base.groups = (("embed", 4.0, 0.0), ("scale", 2.0, 3.0), (".*e", 0.0, 1.0))
    tx = optim.make_tx(base, {}, 0, 10)
    updates, _ = tx.update(grads(), tx.init(params()), params())
    p, g, blocks = params(), grads(), updates["encoder"]["blocks"]
    want = -4 * g["embed"]["embedding"]
    np.testing.assert_allclose(updates["embed"]["embedding"], want, rtol=1e-6)
    p, g = (x["encoder"]["blocks"]["norm"]["scale"] for x in (p, g))
    want = -2 * (g + 0.3 * p)
    np.testing.assert_allclose(blocks["norm"]["scale"], want, rtol=1e-5)
    assert not np.any(blocks["mlp"]["kernel"]) and not np.any(blocks["mlp"]["bias"])


def test_a_wrong_group_is_an_error():
    for regex, message in (("nothing", "matches no parameter"), ("(", "not a reg")):
        tx = optim.make_tx(OptimConfig(groups=((regex, 1, 1),)), {}, 0, 10)
        with pytest.raises(ConfigError, match=message):
            tx.init(params())


def test_muon_orthogonalises_each_stacked_layer():
    config = OptimConfig(name=Optimizer.MUON, lr=1.0, schedule=Schedule.CONSTANT, clip_norm=0.0)
    tx = optim.make_tx(config, {}, 0, 10)
    updates, _ = tx.update(grads(), tx.init(params()), params())
    for layer in updates["encoder"]["blocks"]["mlp"]["kernel"]:  # (8, 16)
        singular = np.linalg.svd(layer, compute_uv=False)
        # Newton-Schulz brings singular values near 1; they are scaled to AdamW's RMS of 0.2.
        assert np.all((singular > 0.5 * 0.8) & (singular < 1.4 * 0.8)), singular
        assert float(jnp.sqrt(jnp.mean(layer**2))) == pytest.approx(0.2, rel=0.3)


def test_unpack_names_the_missing_leaf():
    config = OptimConfig()
    state = optim.make_tx(config, {}, 0, 10).init(params())
    packed = optim.pack(state)
    del packed["nu"]["embed"]
    with pytest.raises(ValueError, match="nu/embed/embedding"):
        optim.unpack(packed, state)
