"""Dictionaries and the models that they read, split over several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxae.activations.cache import Tap
from flaxae.activations.reader import StateReader
from flaxae.config import MeshConfig
from flaxae.errors import ConfigError
from flaxae.machine.sharding import make_mesh
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig, SparseAutoencoder
from flaxae.sparse_autoencoder.top_k import top_k_mask
from flaxae.task import Context
from tests.tiny.language_models import tiny


@pytest.mark.parametrize("rows", [6, 5])
def test_top_k_over_split_features_is_that_of_one_device(rows):
    """Rows have equal entries, of which the first ones are taken."""
    z = np.random.default_rng(0).integers(-3, 9, (rows, 24)).astype(np.float32)
    mesh = make_mesh(MeshConfig(fsdp=2, model=4))
    for k, count in ((3, None), (10, None), (10, 4)):  # 10 are more than a device has
        want = top_k_mask(jnp.asarray(z), k, None if count is None else jnp.int32(count))
        with jax.set_mesh(mesh):
            split = jax.jit(lambda z, n, k=k: top_k_mask(z, k, n))
            found = split(z, jnp.int32(k if count is None else count))
        np.testing.assert_array_equal(found, want)
        assert np.asarray(found).sum(1).tolist() == [count or k] * rows


def test_top_k_of_lanes_over_split_features_is_that_of_one_device():
    z = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 24)), jnp.float32)
    counts = jnp.asarray([1, 5, 2])
    every = jax.vmap(lambda z, n: top_k_mask(z, 5, n))
    want = every(z, counts)
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, model=4))):
        found = jax.jit(every)(z, counts)
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("kind", [Activation.TOPK, Activation.BATCH_TOPK])
def test_a_split_dictionary_has_the_latents_and_gradients_of_one_device(kind):
    """All numbers are integers, so that sums are exact in any order, and many are equal."""
    rng = np.random.default_rng(0)
    sae = SparseAutoencoder(SAEConfig(4, 32, activation=kind, k=3), rngs=nnx.Rngs(0))
    for name in ("w_enc", "w_dec", "b_enc", "b_dec"):
        param = getattr(sae, name)
        param[...] = jnp.asarray(rng.integers(-1, 2, param.shape), jnp.float32)
    graphdef, params, rest = nnx.split(sae, nnx.Param, ...)
    x = rng.integers(-2, 3, (8, 4)).astype(np.float32)
    ctx = Context(jax.random.key(0), jnp.int32(0), train=True)

    def loss(params, rest, x):
        model = nnx.merge(graphdef, params, rest)
        f = model.encode(x, ctx)
        return jnp.square(model.decode(f, ctx) - x).sum(), f

    step = jax.value_and_grad(loss, has_aux=True)
    (_, f), grads = want = jax.jit(step)(params, rest, x)
    assert 0 < np.asarray(f > 0).sum() and np.asarray(grads["w_enc"]).any()
    split = {"w_enc": P(None, "model"), "w_dec": P("model"), "b_enc": P("model")}
    mesh = make_mesh(MeshConfig(fsdp=2, model=4))
    with jax.set_mesh(mesh):
        for name, spec in split.items():
            params[name][...] = jax.device_put(params[name][...], NamedSharding(mesh, spec))
        x = jax.device_put(x, NamedSharding(mesh, P("fsdp")))
        found = jax.jit(step)(params, rest, x)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_split_over_devices_has_the_same_states(split_small):
    model, mesh = tiny("llama"), make_mesh(MeshConfig(fsdp=4))
    taps = [Tap("resid_out", 1), Tap("mlp_out", 0)]
    ids = np.random.default_rng(0).integers(0, 49, (8, 6)).astype(np.int32)
    mask = np.ones(ids.shape, np.float32)
    want = StateReader(model, taps, 4)(ids, mask)
    reader = StateReader(model, taps, 4, mesh)
    for x, y in zip(reader(ids, mask), want, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)
    kernel = reader._state["blocks"]["mlp"]["down_proj"]["kernel"].get_value()
    assert kernel.sharding.shard_shape(kernel.shape) != kernel.shape
    with pytest.raises(ConfigError, match="6 rows of tokens per pass .* 4 devices: change data.mo"):
        StateReader(model, taps, 6, mesh)
