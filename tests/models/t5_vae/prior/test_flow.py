"""The rectified flow through the real loop, on codes whose density is known."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxae
from flaxae.config import (
    Config,
    DataConfig,
    EvalConfig,
    LogConfig,
    OptimConfig,
    SaveConfig,
    set_field,
    to_json,
)
from flaxae.errors import ConfigError
from flaxae.losses import mmd
from flaxae.models.t5_vae.prior import base as base_lib
from flaxae.models.t5_vae.prior.codes import Codes
from flaxae.models.t5_vae.prior.task import FlowConfig, FlowTask, Times
from flaxae.models.t5_vae.task import T5VAEConfig
from flaxae.task import Context
from flaxae.text_autoencoder.priors import (
    FlowPrior,
    GaussianPrior,
    flow_of,
    load_prior,
    parameters_of,
)
from flaxae.text_autoencoder.priors.flow_modeling import Velocity, normal_velocity
from flaxae.training.loop import run
from tests.helpers import arrays_of, assert_same, log_of
from tests.text_autoencoder.priors.planted import PlantedCodes, bumps

CTX = Context(key=jax.random.key(0), step=jnp.int32(0))


def config_for(**overrides: Any) -> Config:
    config = Config(
        task=FlowConfig(codes_from="planted", width=32, depth=2, scan_unroll=2),
        data=DataConfig(batch_size=512),
        optim=OptimConfig(lr=3e-3, ema=0.95, decay_steps=300),
        log=LogConfig(every=50, tensorboard=False, progress=False),
        eval=EvalConfig(num_samples=2),
        save=SaveConfig(every=50),
        steps=300,
        steps_per_call=50,
    )
    config.mesh.fsdp = 1
    for name, value in overrides.items():
        set_field(config, name.replace("__", "."), value)
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Train a flow; while the fixture is used, codes of flows are the planted ones."""
    folder = tmp_path_factory.mktemp("flow") / "w"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_lib, "Codes", PlantedCodes)
        run(config_for(), folder)
        yield folder


@pytest.fixture(scope="module")
def flow(workdir: Path) -> FlowPrior:
    return FlowPrior.from_workdir(workdir)


def test_an_untrained_flow_keeps_normal_noise() -> None:
    times = jnp.asarray([0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(normal_velocity(times), [-1, -0.8, 0, 1], rtol=1e-6)
    base = GaussianPrior(np.zeros(3), np.eye(3))
    untrained = FlowPrior(Velocity(3, 8, 1, rngs=nnx.Rngs(0)), base)
    noise = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    # Both ends of the path have the variance t^2 + (1 - t)^2 = 1.
    np.testing.assert_allclose(untrained.from_noise(noise), noise, atol=0.01)


def test_flow_fits_codes_that_no_gaussian_fits(workdir: Path, flow: FlowPrior) -> None:
    held_out = bumps(1000, seed=7)
    gaussian = GaussianPrior.fit(bumps(4000))
    score = jax.jit(mmd)
    ours, theirs = (float(score(p.sample(1000, seed=1), held_out)) for p in (flow, gaussian))
    assert theirs > 0.01
    assert ours < 0.1 * theirs
    losses = [row["loss"] for row in log_of(workdir) if row["split"] == "train"]
    # These are losses of single batches, the first one after 50 steps.
    assert losses[-1] < 0.9 * losses[0]
    assert (workdir / "samples.jsonl").read_text().count("samples of the flow") == 1


def test_codes_become_normal_noise_and_noise_becomes_codes(flow: FlowPrior) -> None:
    codes = bumps(400, seed=8)
    noise = flow.to_noise(codes)
    np.testing.assert_allclose(noise.mean(0), np.zeros(2), atol=0.2)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(2), atol=0.25)
    errors = {}
    for steps in (4, 32):
        prior = FlowPrior(nnx.merge(flow.graphdef, flow.state), flow.base, steps)
        back = prior.from_noise(prior.to_noise(codes))
        errors[steps] = float(np.abs(back - codes).mean())
    assert errors[32] < 0.01
    assert errors[32] < 0.2 * errors[4]


def test_rows_do_not_depend_on_the_batch(flow: FlowPrior) -> None:
    noise = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    whole = flow.from_noise(noise)
    np.testing.assert_allclose(flow.from_noise(noise[290:]), whole[290:], atol=1e-5)
    assert flow.from_noise(noise[:0]).shape == (0, 2)


def test_untrained_flow_is_the_gaussian() -> None:
    base = GaussianPrior.fit(bumps(500))
    flow = FlowPrior(Velocity(2, 8, 1, rngs=nnx.Rngs(0)), base)
    noise = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    np.testing.assert_allclose(flow.from_noise(noise), base.from_noise(noise), atol=2e-3)


@pytest.fixture(scope="module")
def conditioned() -> Velocity:
    """Return a self-conditioned velocity with random parameters."""
    graphdef, state = nnx.split(Velocity(2, 8, 1, self_condition=True, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)

    def draw(x):
        return jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32)

    return nnx.merge(graphdef, jax.tree.map(draw, state))


def test_a_self_conditioned_velocity_reads_its_first_estimate(conditioned: Velocity) -> None:
    x = jnp.asarray(bumps(64))
    t = jnp.linspace(0, 1, 64)
    first = conditioned.once(x, t, CTX)
    estimate = x + (1 - t)[:, None] * first
    whole = conditioned(x, t, CTX)
    np.testing.assert_allclose(whole, conditioned.once(x, t, CTX, estimate), atol=1e-5)
    assert np.abs(whole - first).max() > 0.05
    # In training half of the rows lack an estimate.
    task = object.__new__(FlowTask)
    trained = task._velocity(conditioned, x, t, dataclasses.replace(CTX, train=True))
    plain = np.isclose(trained, first, atol=1e-5).all(1)
    assert (plain | np.isclose(trained, whole, atol=1e-5).all(1)).all() and 15 < plain.sum() < 49


def test_a_self_conditioned_flow_is_inverted_and_saved(conditioned: Velocity, tmp_path) -> None:
    prior, codes = FlowPrior(conditioned, GaussianPrior.fit(bumps(500)), 64), bumps(9)
    np.testing.assert_allclose(prior.from_noise(prior.to_noise(codes)), codes, atol=0.01)
    prior.save(tmp_path)
    np.testing.assert_array_equal(load_prior(tmp_path).to_noise(codes), prior.to_noise(codes))


def test_the_flow_of_a_run_is_the_one_saved_with_it(conditioned: Velocity, tmp_path) -> None:
    model = conditioned  # any module
    assert flow_of(tmp_path, model) is None
    base = GaussianPrior.fit(bumps(500))
    for made_for in ("", parameters_of(model)):
        base.made_for = made_for
        FlowPrior(conditioned, base, 8).save(tmp_path / "priors" / "flow")
        found = flow_of(tmp_path, model)
        assert found is not None and found.dim == 2 and found.kind == "flow"
        assert found.made_for == made_for
    base.made_for = "another"
    FlowPrior(conditioned, base, 8).save(tmp_path / "priors" / "flow")
    with pytest.raises(ConfigError, match="the codes of another checkpoint"):
        flow_of(tmp_path, model)


def test_saved_flow_is_loaded_bit_for_bit(flow: FlowPrior, tmp_path: Path) -> None:
    flow.save(tmp_path)
    again = load_prior(tmp_path)
    assert isinstance(again, FlowPrior) and again.steps == flow.steps
    np.testing.assert_array_equal(again.sample(5), flow.sample(5))
    about = json.loads((tmp_path / "prior.json").read_text())
    (tmp_path / "prior.json").write_text(json.dumps(about | {"width": 16}))
    with pytest.raises(ConfigError, match="sizes"):
        load_prior(tmp_path)


def test_resumed_flow_is_the_same_bit_for_bit(workdir: Path, tmp_path: Path) -> None:
    run(config_for(steps=150), tmp_path / "w")
    result = run(config_for(), tmp_path / "w")
    assert result.status == "done"
    assert_same(arrays_of(tmp_path / "w"), arrays_of(workdir))
    assert flaxae.load(tmp_path / "w").step == 300


@pytest.mark.slow
def test_eight_devices_train_the_same_flow_as_one(workdir: Path, tmp_path: Path) -> None:
    small = {"steps": 5, "steps_per_call": 1, "save__every": 5, "log__every": 1}
    run(config_for(**small), tmp_path / "one")
    run(config_for(**small, mesh__replica=2, mesh__fsdp=2, mesh__model=2), tmp_path / "eight")
    a, b = ([r["loss"] for r in log_of(tmp_path / n) if "loss" in r] for n in ("one", "eight"))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    # Modulations start at 0, and Adam divides by the root of gradients that are rounding errors
    # around 0: parameters differ by more than losses. SGD would hardly move what is behind a gate.
    assert_same(arrays_of(tmp_path / "one"), arrays_of(tmp_path / "eight"), atol=2e-4)


def test_loss_of_an_untrained_flow_on_normal_codes(workdir: Path) -> None:
    # E|code - noise|^2 given x_t is 1 / (t^2 + (1-t)^2), whose mean over t is pi / 2.
    task = FlowTask(config_for())
    model = task.init(nnx.Rngs(0))
    call = jax.jit(lambda codes, weight: task.loss(model, {"codes": codes, "weight": weight}, CTX))
    codes = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    weight = np.ones(20_000, np.float32)
    loss = call(codes, weight)
    assert float(loss.total / loss.weight) == pytest.approx(np.pi / 2, abs=0.03)
    weight[10:], codes[10:] = 0, 1e6
    padded = call(codes, weight)
    assert float(padded.weight) == 10 and float(padded.total) < 100


def test_logit_normal_times_are_used_in_training_only(workdir: Path) -> None:
    task = FlowTask(config_for(task__times=Times.LOGIT_NORMAL))
    uniform = task._times(4000, CTX)
    middle = task._times(4000, dataclasses.replace(CTX, train=True))
    assert float(uniform.std()) == pytest.approx(12**-0.5, abs=0.01)
    assert float(middle.std()) == pytest.approx(0.208, abs=0.01)


def test_flops_count_every_kernel(workdir: Path) -> None:
    task = FlowTask(config_for())
    leaves = jax.tree_util.tree_leaves_with_path(nnx.split(task.init(nnx.Rngs(0)))[1])
    kernels = sum(x.size for path, x in leaves if "kernel" in jax.tree_util.keystr(path))
    assert task.flops(task.data("dev").batch_spec, {}) == 6 * 512 * kernels
    again = FlowTask(config_for(task__self_condition=True))
    both = (6 + 2) * 512 * kernels + 6 * 512 * 2 * 32  # a pass without gradient, its estimate
    assert again.flops(task.data("dev").batch_spec, {}) == both


def test_codes_of_another_width_raise(workdir: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(PlantedCodes, "dim", 3)
    with pytest.raises(ConfigError, match="2 dimensions.*now have 3"):
        run(config_for(steps=350, optim__decay_steps=350), workdir)
    with pytest.raises(ConfigError, match="2 dimensions.*now have 3"):
        FlowPrior.from_workdir(workdir)


def test_codes_from_must_be_the_workdir_of_a_t5_vae(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(base_lib, "Codes", Codes)
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "config.json").write_text(json.dumps(to_json(config_for())))
    for name, message in (("", "empty"), ("none", "not a run's workdir"), ("flow", "FlowConfig")):
        config = config_for(task__codes_from=str(tmp_path / name) if name else "")
        with pytest.raises(ConfigError, match=f"task.codes_from.*{message}"):
            run(config, tmp_path / "w")
    (tmp_path / "vae").mkdir()
    vae = to_json(Config(task=T5VAEConfig()))
    (tmp_path / "vae" / "config.json").write_text(json.dumps(vae))
    with pytest.raises(ConfigError, match="T5VAEConfig, not of a prior"):
        FlowPrior.from_workdir(tmp_path / "vae")
