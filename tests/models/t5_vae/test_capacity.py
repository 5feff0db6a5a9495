"""The controller of the bits per text: its measure, its fixed point, and resuming."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxae
from flaxae.config import copy_config
from flaxae.models.t5_vae.capacity import CapacityControl, gaussian_bits, unit_sigma
from flaxae.text_autoencoder.channel import Channel, bits
from flaxae.training.loop import run
from tests.helpers import arrays_of, assert_same
from tests.models.t5_vae.test_loop import config_for

MIX = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32) / 2


@pytest.mark.parametrize("channel", Channel)
def test_bits_are_those_of_the_spectrum(channel):
    covariance = MIX @ MIX.T
    expected = bits(np.linalg.eigvalsh(covariance), 0.3, channel)
    found = gaussian_bits(jnp.asarray(covariance), jnp.float32(0.3), channel)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    unit = unit_sigma(12.0, 6, channel)
    assert bits(np.ones(6), unit, channel) == pytest.approx(12)
    assert channel is Channel.ADDITIVE or unit == pytest.approx(2 ** (-12 / 6))


@pytest.mark.parametrize("channel", Channel)
def test_the_controller_reaches_its_target(channel):
    """Codes with a mean and unequal variances, so that it must move from where it starts."""
    control = CapacityControl(9.0, 6, channel)
    start, rng = float(control.sigma[...]), np.random.default_rng(0)
    update = nnx.jit(lambda control, codes: control.update(codes))
    found = 0.0
    for _ in range(400):
        codes = rng.normal(size=(64, 6)).astype(np.float32) @ MIX + 3
        found = float(update(control, codes)[0])
    sigma = float(control.sigma[...])
    assert abs(sigma - start) > 0.05
    assert found == pytest.approx(9, abs=0.3)
    assert bits(np.linalg.eigvalsh(MIX.T @ MIX), sigma, channel) == pytest.approx(9, abs=0.3)


def test_sigma_does_not_fall_below_its_limit_and_bits_are_those_of_the_sigma_in_use():
    control = CapacityControl(60.0, 6, Channel.PRESERVING, lowest=0.3)
    codes = np.random.default_rng(0).normal(size=(4096, 6)).astype(np.float32)
    held, used = control.update(jnp.asarray(codes), jnp.float32(0.5))
    assert float(control.sigma[...]) == np.float32(0.3)  # 60 bits need .001
    assert float(held) == pytest.approx(bits(np.ones(6), 0.3, Channel.PRESERVING), rel=0.03)
    assert float(used) == pytest.approx(bits(np.ones(6), 0.5, Channel.PRESERVING), rel=0.03)


@pytest.mark.slow
def test_stopped_runs_and_lanes_equal_whole_single_runs(tmp_path):
    latent = {"channel": "preserving", "target_bits": 20.0, "noise_end": 0.0, "reads_noise": True}
    noise = {"shuffle": 0.5, "swap": 1, "share": 0.5, "start": 0.3}
    config = config_for(
        tmp_path,
        **{f"task__latent__{k}": v for k, v in latent.items()},
        **{f"task__noise__{k}": v for k, v in noise.items()},
        save__every=3,
        steps=6,
        optim__decay_steps=6,
    )
    run(config, tmp_path / "whole")
    run(copy_config(config, {"steps": 3}), tmp_path / "stopped")
    run(config, tmp_path / "stopped")
    whole = arrays_of(tmp_path / "whole")
    assert_same(whole, arrays_of(tmp_path / "stopped"))
    sigma = next(float(v) for k, v in whole.items() if "capacity" in k and "sigma" in k)
    assert sigma != pytest.approx(unit_sigma(20.0, 8, Channel.PRESERVING), rel=1e-3)
    run(config, tmp_path / "lanes", lanes=[{"seed": 3}, {"seed": config.seed}])
    lanes = arrays_of(tmp_path / "lanes")
    names = [name for name in whole if "capacity" in name]
    assert len(names) == 4
    for name in names:
        np.testing.assert_allclose(lanes[name][1], whole[name], atol=1e-5)
        assert name.endswith("['weight']") or not np.allclose(lanes[name][0], whole[name])
    vae = flaxae.T5VAE.from_pretrained(tmp_path / "whole")
    vae.save_pretrained(tmp_path / "saved")
    again = flaxae.T5VAE.from_pretrained(tmp_path / "saved")
    assert again.config.task.latent.noise_end == pytest.approx(sigma)
    assert again.decode(vae.encode(["import self"])) == vae.decode(vae.encode(["import self"]))
