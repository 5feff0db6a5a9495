"""The module: dependence of z on texts, and of the decoder on z."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.lm.t5.modeling import shift_right
from flaxae.task import Context
from tests.models.t5_vae.tiny import batch, tiny_model, tiny_task


@pytest.fixture
def ctx():
    return Context(key=jax.random.key(0), step=jnp.int32(0))


@pytest.fixture
def model():
    return tiny_model(tiny_task())


IDS = jnp.asarray([[5, 6, 1, 0], [7, 8, 9, 1]], jnp.int32)


@nnx.jit
def decode(model, z, ids):
    return model.decode(z, ids, Context(key=jax.random.key(0), step=jnp.int32(0)))


def test_flatten_depends_on_the_order_of_tokens_more_than_a_mean(model, ctx):
    ids = jnp.asarray([[5, 6, 1, 0], [6, 5, 1, 0]], jnp.int32)
    a, b = nnx.jit(lambda model: model.encode([ids], ctx))(model)
    assert float(jnp.abs(a - b).max()) > 0.1


DECODER_SIDES = {
    "default": {},
    "memory only": {"injection": False, "positions": False, "memory_tokens": 1},
    "optimus": {"injection": False, "embed_injection": True, "kv_slot": True},
    "sphere": {"bottleneck": "attention_pool", "num_latents": 2, "cross_gate": True},
    "all": {
        "embed_injection": True,
        "kv_slot": True,
        "cross_gate": True,
        "num_latents": 2,
        "channel": "preserving",
        "reads_noise": True,
        "reads_estimate": True,
        "noise_low": 0.3,
        "noise_end": 0.5,
    },
}


@pytest.mark.parametrize("side", DECODER_SIDES)
def test_cached_decoding_equals_teacher_forcing(ctx, side):
    task = tiny_task(**{f"task__latent__{k}": v for k, v in DECODER_SIDES[side].items()})
    shape = (3, task.options.latent.num_latents, 8)
    model = tiny_model(task, seed=1)
    if hasattr(model, "cross_gate"):
        model.cross_gate[...] = jnp.asarray([0.3, -0.7])
    graphdef, state = nnx.split(model)

    @jax.jit
    def both(state):
        model = nnx.merge(graphdef, state)
        ids = jax.random.randint(ctx.at("ids").key, (3, 6), 3, 29, jnp.int32)
        z = jax.random.normal(ctx.key, shape)
        states = model.decode(z, [ids], ctx)
        step, cache = model.decode_step(z, ctx, 7)

        def one(cache, at):
            return step(at[0], cache, at[1])[::-1]

        _, cached = jax.lax.scan(one, cache, (shift_right(ids).T, jnp.arange(6)))
        return model.t5.logits(states, ctx), cached, cache

    forced, cached, cache = both(state)
    cached = np.swapaxes(cached, 0, 1).reshape(forced.shape)
    np.testing.assert_allclose(forced, cached, atol=1e-4)
    assert {x.shape[1] for x in jax.tree.leaves(cache["layers"])} == {3}
    assert {x.shape[0] for x in jax.tree.leaves(cache["rows"])} <= {3}


def test_slot_and_gate_change_the_decoder_output(ctx):
    task = tiny_task(task__latent__kv_slot=True, task__latent__cross_gate=True)
    graphdef, state = nnx.split(tiny_model(task))
    z = jax.random.normal(ctx.key, (2, 1, 8))

    @jax.jit
    def states(state, slot, gate):
        model = nnx.merge(graphdef, state)
        model.kv_slot.kernel[...] = slot * model.kv_slot.kernel[...]
        model.cross_gate[...] = gate * model.cross_gate[...]
        return model.decode(z, [IDS], ctx)

    start, slot, gate = (
        states(state, jnp.float32(s), jnp.float32(g)) for s, g in ((1, 1), (2, 1), (1, 0))
    )
    assert float(jnp.abs(slot - start).max()) > 0.01 < float(jnp.abs(gate - start).max())


def test_decoder_reads_the_noise(ctx):
    options = {"reads_noise": True, "noise_low": 0.1, "noise_end": 0.9, "channel": "preserving"}
    model = tiny_model(tiny_task(**{f"task__latent__{k}": v for k, v in options.items()}))
    z = jnp.broadcast_to(jax.random.normal(ctx.key, (1, 1, 8)), (2, 1, 8))
    ids = jnp.tile(IDS[1:], (2, 1))

    @nnx.jit
    def states(model, sigma):
        return model.decode(z, [ids], ctx, sigma=sigma).reshape(2, -1)

    low, high = states(model, jnp.asarray([0.1, 0.9]))
    assert float(jnp.abs(low - high).max()) > 0.05
    np.testing.assert_array_equal(states(model, None)[0], low)
    drawn = model.drawn_sigma(1000, ctx)
    assert 0.1 <= drawn.min() < 0.12 and 0.88 < drawn.max() <= 0.9


def test_free_running_equals_teacher_forcing_on_its_own_output(ctx):
    graphdef, state = nnx.split(tiny_model(tiny_task(), seed=1))

    @jax.jit
    def both(state):
        model = nnx.merge(graphdef, state)
        z = jax.random.normal(ctx.key, (6, 1, 8))
        made = model.generate(z, ctx, 29)
        states = model.decode(z, [made], ctx)
        return made, model.t5.logits(states, ctx)[:, :29].argmax(-1).reshape(made.shape)

    made, best = (np.asarray(x) for x in both(state))
    np.testing.assert_array_equal(made[made != 0], best[made != 0])
    assert made.max() < 29
    assert ((made == 1).sum(1) <= 1).all()


def test_segments_decode_like_a_single_length(model, ctx):
    z = jax.random.normal(ctx.key, (4, 1, 8))
    longer = jnp.pad(IDS, ((0, 0), (0, 4)))
    packed = decode(model, z, [IDS, longer])
    alone = decode(model, z[:2], [IDS])
    np.testing.assert_allclose(packed[:8], alone, atol=1e-5)
    again = decode(model, z[2:], [longer])
    np.testing.assert_allclose(packed[8:], again, atol=1e-5)


def test_decoder_depends_on_z(model, ctx):
    a, b = (decode(model, z, [IDS]) for z in jax.random.normal(ctx.key, (2, 2, 1, 8)))
    assert float(jnp.abs(a - b).max()) > 0.05
    np.testing.assert_array_equal(shift_right(IDS)[:, 0], 0)


def test_decoder_that_ignores_codes_is_a_language_model(ctx):
    task = tiny_task(task__latent__ignored=True)
    model = tiny_model(task)
    graphdef, state = nnx.split(model)
    a, b = (decode(model, z, [IDS]) for z in jax.random.normal(ctx.key, (2, 2, 1, 8)))
    np.testing.assert_array_equal(a, b)
    train = Context(key=ctx.key, step=ctx.step, train=True)

    def reconstruction(state):
        return task.loss(nnx.merge(graphdef, state), batch(), train).metrics["recon"][0]

    grads = nnx.to_pure_dict(jax.jit(jax.grad(reconstruction))(state))
    assert not np.any(jax.tree.leaves(grads["flatten"])[0])
    for name in ("memory", "injection", "decoder_positions"):
        for grad in jax.tree.leaves(grads[name]):
            assert float(jnp.abs(grad).max()) > 0, name


def test_noise_schedule_and_scale_of_clean_codes():
    options = {"noise_start": 0.1, "noise_end": 0.5, "noise_steps": 10}
    task = tiny_task(**{f"task__latent__{k}": v for k, v in options.items()})
    model = tiny_model(task)
    sigmas = [float(model.sigma(jnp.int32(s))) for s in (0, 5, 10, 99)]
    np.testing.assert_allclose(sigmas, [0.1, 0.3, 0.5, 0.5], rtol=1e-5)
    z = jnp.ones((1, 1, 8))
    np.testing.assert_allclose(model.clean_code(z, jnp.int32(10)), 1.25**0.5, rtol=1e-5)
    for other in ({"scale_codes": False}, {"channel": "preserving"}):
        other |= {"noise_end": 0.5}
        plain = tiny_task(**{f"task__latent__{k}": v for k, v in other.items()})
        assert tiny_model(plain).clean_code(z, jnp.int32(0)) is z


@pytest.mark.parametrize("packed", [True, False])
def test_all_parameters_have_gradients(packed, ctx):
    task = tiny_task(task__pack_buckets=packed, task__loss_chunks=2)
    graphdef, state = nnx.split(tiny_model(task))
    train = Context(key=ctx.key, step=ctx.step, train=True)

    def loss(state):
        return task.loss(nnx.merge(graphdef, state), batch(), train).total

    grads = jax.jit(jax.grad(loss))(state)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert float(jnp.abs(grad).max()) > 0, path
