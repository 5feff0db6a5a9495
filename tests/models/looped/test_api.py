"""A saved model predicts like the trained one; shapes that do not fit are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from flaxae.errors import ConfigError
from flaxae.models.looped.api import LoopedModel
from flaxae.task import Context
from flaxae.training.loop import run
from tests.models.looped.tiny import tiny_config

XS, YS, QUERY = (np.random.default_rng(0).normal(size=s) for s in [(5, 3, 2), (5, 3), (5, 2)])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(tiny_config(), folder)
    return folder


def test_a_saved_and_loaded_model_predicts_the_same(workdir, tmp_path):
    trained = LoopedModel.from_pretrained(workdir)
    trained.save_pretrained(tmp_path / "m")
    loaded = LoopedModel.from_pretrained(tmp_path / "m")
    for loops in (0, 1, 7):
        np.testing.assert_array_equal(
            trained.predict(XS, YS, QUERY, loops), loaded.predict(XS, YS, QUERY, loops)
        )
    assert not np.allclose(loaded.predict(XS, YS, QUERY, 1), loaded.predict(XS, YS, QUERY, 7))
    # One problem, with fewer examples than positions.
    one = loaded.predict(XS[0, :2], YS[0, :2], QUERY[0])
    assert one.shape == ()
    np.testing.assert_allclose(one, loaded.predict(XS[:, :2], YS[:, :2], QUERY)[0], atol=1e-6)


def test_predict_equals_the_models_readout(workdir):
    looped = LoopedModel.from_pretrained(workdir)
    model, ctx = looped.model, Context(jax.random.key(0), jnp.int32(0))
    xs = jnp.asarray(np.concatenate([XS, QUERY[:, None]], 1), jnp.float32)
    ys = jnp.asarray(np.concatenate([YS, np.full((5, 1), 9.0)], 1), jnp.float32)  # never seen
    trace = model.every_loop(model.prompt(xs, ys, ctx), ctx, 3)
    np.testing.assert_allclose(
        looped.predict(XS, YS, QUERY), trace.predictions[-1, :, -1], atol=1e-5
    )


@pytest.mark.parametrize(
    "arguments, word",
    [
        ((XS[..., :1], YS, QUERY[:, :1]), "1 dimensions"),
        ((np.zeros((5, 4, 2)), np.zeros((5, 4)), QUERY), "4 examples"),
        ((XS[:, :0], YS[:, :0], QUERY), "0 examples"),
        ((XS, YS[:, :2], QUERY), "ys"),
        ((XS, YS, QUERY[:3]), "x_query"),
        ((XS, YS, QUERY, -1), "loops=-1"),
        (("a", YS, QUERY), "numbers"),
    ],
)
def test_shapes_that_do_not_fit_are_errors(workdir, arguments, word):
    with pytest.raises(ConfigError, match=word):
        LoopedModel.from_pretrained(workdir).predict(*arguments)


def test_invalid_directories_are_errors(workdir, tmp_path):
    with pytest.raises(ConfigError, match="not a looped model"):
        LoopedModel.from_pretrained(tmp_path)
    looped = LoopedModel.from_pretrained(workdir)
    with pytest.raises(ConfigError, match="workdir"):
        looped.save_pretrained(workdir)
    looped.save_pretrained(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    arrays = {k: v for k, v in load_file(weights).items() if k != "positions"}
    save_file(arrays, weights)
    with pytest.raises(ConfigError, match="positions"):
        LoopedModel.from_pretrained(tmp_path / "m")
    assert isinstance(nnx.split(looped.model)[0], nnx.GraphDef)
