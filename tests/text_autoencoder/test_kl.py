"""Weights of loss terms over time, and KL terms, against values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae import losses
from flaxae.text_autoencoder import kl
from flaxae.text_autoencoder.kl import WeightSchedule, kl_terms


class TestWeights:
    def at(self, schedule, step, **options):
        options = {"start": 0.2, "ramp": 10} | options
        return float(kl.weight_factor(schedule, jnp.int32(step), **options))

    def test_linear_rises_over_the_ramp(self):
        values = [self.at(WeightSchedule.LINEAR, step) for step in (0, 5, 10, 99)]
        np.testing.assert_allclose(values, [0.2, 0.6, 1, 1], rtol=1e-6)
        assert self.at(WeightSchedule.LINEAR, 3, ramp=0) == 1

    def test_sigmoid_has_the_values_of_the_original_code(self):
        values = [self.at(WeightSchedule.SIGMOID, step) for step in (0, 2500, 5000)]
        np.testing.assert_allclose(values, [1.92673e-3, 0.5, 0.998073], rtol=1e-4)

    def test_bar_weight_rises_after_the_bar_was_passed(self):
        values = [
            self.at(WeightSchedule.BAR, step, passed=jnp.float32(20)) for step in (0, 19, 25, 40)
        ]
        np.testing.assert_allclose(values, [0.2, 0.2, 0.6, 1], rtol=1e-6)
        never = jnp.float32(kl.NEVER)
        assert self.at(WeightSchedule.BAR, 10**6, passed=never) == pytest.approx(0.2)

    def test_cyclical_annealing(self):
        """Two cycles of 100 steps: 50 at zero, 25 rising, 25 at one."""
        steps = (0, 49, 50, 60, 75, 99, 100, 149, 160, 199, 200, 10**4)
        values = [float(kl.cyclical_factor(jnp.int32(s), 200, 2)) for s in steps]
        np.testing.assert_allclose(values, [0, 0, 0, 0.4, 1, 1, 0, 0, 0.4, 1, 1, 1], atol=1e-4)
        assert float(kl.cyclical_factor(jnp.int32(0), 200, 0)) == 1

    def test_running_loss_passes_the_bar_once(self):
        monitor = kl.BarMonitor()
        losses_at = [5.0] * 3 + [0.1] * 200 + [9.0] * 5
        passed = []
        for step, loss in enumerate(losses_at):
            monitor.update(jnp.float32(loss), 1.0, jnp.int32(step))
            passed.append(float(monitor.passed))
        running, weight, below = 0.0, 0.0, []
        for loss in losses_at:
            running, weight = 0.98 * running + 0.02 * loss, 0.98 * weight + 0.02
            below.append(running / weight < 1)
        first = below.index(True)
        assert 3 < first == passed[-1]
        assert passed[first - 1] == kl.NEVER and passed[first] == first


class TestKL:
    mean = jnp.asarray([[0.0, 1.0], [2.0, 0.0]])
    log_variance = jnp.asarray([[0.0, 0.0], [0.0, np.log(4.0)]])
    each = np.asarray([[0.0, 0.5], [2.0, 0.5 * (4 - 1 - np.log(4.0))]])  # by hand
    rows = jnp.ones(2)

    def test_floors_of_free_bits_and_threshold(self):
        raw, same = kl_terms(self.mean, self.log_variance, self.rows)
        assert float(raw) == float(same) == pytest.approx(self.each.sum(), rel=1e-6)
        _, floored = kl_terms(self.mean, self.log_variance, self.rows, threshold=0.6)
        assert float(floored) == pytest.approx(np.maximum(self.each, 0.6).sum(), rel=1e-6)
        _, free = kl_terms(self.mean, self.log_variance, self.rows, free_bits=0.9)
        assert float(free) == pytest.approx(2 * np.maximum(self.each.mean(0), 0.9).sum(), rel=1e-6)

    def test_free_bits_have_no_gradient(self):
        def free(mean):
            return kl_terms(mean, self.log_variance, self.rows, free_bits=0.9)[1]

        grads = jax.grad(free)(self.mean)
        assert grads[1, 0] == 2 and not jnp.any(grads[:, 1])

    def test_padding_rows_do_not_count(self):
        mean = jnp.concatenate([self.mean, jnp.full((1, 2), 9.0)])
        log_variance = jnp.concatenate([self.log_variance, jnp.zeros((1, 2))])
        for options in ({}, {"free_bits": 0.9}, {"threshold": 0.6}):
            expected = kl_terms(self.mean, self.log_variance, self.rows, **options)
            got = kl_terms(mean, log_variance, jnp.asarray([1.0, 1, 0]), **options)
            np.testing.assert_allclose(got, expected, rtol=1e-6)

    def test_closed_form_is_the_mean_of_the_log_ratio(self):
        rng = np.random.default_rng(0)
        z = 2.0 + 0.5 * rng.normal(size=400_000)
        log_q = -0.5 * ((z - 2) / 0.5) ** 2 - np.log(0.5)
        value = losses.kl_to_standard_normal(jnp.float32(2), jnp.float32(2 * np.log(0.5)))
        assert float(value) == pytest.approx(np.mean(log_q + 0.5 * z**2), abs=0.01)
