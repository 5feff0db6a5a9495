"""The autoencoder's parts: what z depends on, and what the decoder makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.lm.t5.modeling import shift_right
from flaxae.models.t5_vae.bottlenecks import Bottleneck
from flaxae.task import Context
from tests.models.t5_vae.tiny import batch, tiny_task


@pytest.fixture
def ctx():
    return Context(key=jax.random.key(0), step=jnp.int32(0))


@pytest.fixture(params=list(Bottleneck))
def model(request):
    return tiny_task(task__latent__bottleneck=request.param.value).init(nnx.Rngs(0))


IDS = jnp.asarray([[5, 6, 1, 0], [7, 8, 9, 1]], jnp.int32)


def test_padding_does_not_change_z(model, ctx):
    z = model.encode([IDS], ctx)
    padded = model.encode([jnp.pad(IDS, ((0, 0), (0, 4)))], ctx)
    assert z.shape == (2, 1, 8) and z.dtype == jnp.float32
    np.testing.assert_allclose(z, padded, atol=1e-5)


def test_rows_of_other_lengths_do_not_change_z(model, ctx):
    both = model.encode([IDS, jnp.full((3, 8), 9, jnp.int32)], ctx)
    np.testing.assert_allclose(both[:2], model.encode([IDS], ctx), atol=1e-5)


def test_flatten_knows_the_order_and_a_mean_of_states_does_too_little(ctx):
    model = tiny_task().init(nnx.Rngs(0))
    a, b = model.encode([jnp.asarray([[5, 6, 1, 0], [6, 5, 1, 0]], jnp.int32)], ctx)
    assert float(jnp.abs(a - b).max()) > 0.1


@pytest.mark.parametrize("injection", [True, False])
@pytest.mark.parametrize("positions", [True, False])
def test_free_running_equals_teacher_forcing_on_its_own_output(ctx, injection, positions):
    options = {"task__latent__injection": injection, "task__latent__positions": positions}
    model = tiny_task(**options).init(nnx.Rngs(1))
    z = jax.random.normal(ctx.key, (6, 1, 8))
    made = jax.jit(lambda z: model.generate(z, ctx, 29))(z)
    states = model.decode(z, [made], ctx)
    best = model.t5.logits(states, ctx)[:, :29].argmax(-1).reshape(made.shape)
    real = np.asarray(made != 0)
    np.testing.assert_array_equal(np.asarray(made)[real], np.asarray(best)[real])
    assert int(made.max()) < 29
    ends = np.asarray(made == 1)
    assert (ends.sum(1) <= 1).all()


def test_segments_decode_as_one_length_does(model, ctx):
    z = jax.random.normal(ctx.key, (4, 1, 8))
    longer = jnp.pad(IDS, ((0, 0), (0, 4)))
    packed = model.decode(z, [IDS, longer], ctx)
    alone = model.decode(z[:2], [IDS], ctx)
    np.testing.assert_allclose(packed[:8], alone, atol=1e-5)
    again = model.decode(z[2:], [longer], ctx)
    np.testing.assert_allclose(packed[8:], again, atol=1e-5)


def test_the_decoder_reads_z(model, ctx):
    a, b = (model.decode(z, [IDS], ctx) for z in jax.random.normal(ctx.key, (2, 2, 1, 8)))
    assert float(jnp.abs(a - b).max()) > 0.05
    np.testing.assert_array_equal(shift_right(IDS)[:, 0], 0)


def test_noise_schedule_and_the_scale_of_clean_codes():
    options = {"noise_start": 0.1, "noise_end": 0.5, "noise_steps": 10}
    task = tiny_task(**{f"task__latent__{k}": v for k, v in options.items()})
    model = task.init(nnx.Rngs(0))
    sigmas = [float(model.sigma(jnp.int32(s))) for s in (0, 5, 10, 99)]
    np.testing.assert_allclose(sigmas, [0.1, 0.3, 0.5, 0.5], rtol=1e-5)
    z = jnp.ones((1, 1, 8))
    np.testing.assert_allclose(model.clean_code(z, jnp.int32(10)), 1.25**0.5, rtol=1e-5)
    plain = tiny_task(task__latent__noise_end=0.5, task__latent__scale_codes=False)
    assert plain.init(nnx.Rngs(0)).clean_code(z, jnp.int32(0)) is z


@pytest.mark.parametrize("packed", [True, False])
def test_parameters_all_have_gradients(packed, ctx):
    task = tiny_task(task__pack_buckets=packed, task__loss_chunks=2)
    graphdef, state = nnx.split(task.init(nnx.Rngs(0)))
    train = Context(key=ctx.key, step=ctx.step, train=True)

    def loss(state):
        return task.loss(nnx.merge(graphdef, state), batch(), train).total

    grads = jax.jit(jax.grad(loss))(state)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert float(jnp.abs(grad).max()) > 0, path
