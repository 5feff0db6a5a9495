"""States of known features: their generator, and a dictionary that finds them."""

import numpy as np
import pytest

from flaxae.config import flags
from flaxae.config.serialize import set_field
from flaxae.models.sae.config import Scaling
from flaxae.models.sae.synthetic import KnownFeatures, Trainer, measures
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig
from flaxae.sparse_autoencoder.parameters import build
from tests.helpers import ROOT

SOURCE = KnownFeatures(count=12, width=8, active=2.0)


def test_batches_are_pure_functions_of_seed_and_step():
    one, two = SOURCE.batch(3, 500), SOURCE.batch(3, 500)
    np.testing.assert_array_equal(one.x, two.x)
    assert (SOURCE.batch(4, 500).x != one.x).any()
    assert (KnownFeatures(12, 8, 2.0, seed=1).batch(3, 500).x != one.x).any()
    rates = one.present.mean(0)
    np.testing.assert_allclose(rates, SOURCE.frequencies, atol=0.08)
    assert one.present.sum(1).mean() == pytest.approx(2, abs=0.2) and rates[0] > rates[-1]
    # States are sums of the directions of the features that are present.
    magnitudes, *_ = np.linalg.lstsq(SOURCE.directions[:8].T, one.x.T, rcond=None)
    alone = ~one.present[:, 8:].any(1)
    np.testing.assert_array_equal(magnitudes.T[alone] > 1e-4, one.present[alone, :8])


def test_the_features_themselves_are_found():
    source = KnownFeatures(count=6, width=64, active=1.0, spread=0.1)
    w_dec = source.directions
    config = SAEConfig(64, 6, activation=Activation.JUMPRELU)
    arrays = {"w_enc": np.linalg.pinv(w_dec), "w_dec": w_dec, "b_enc": np.zeros(6)}
    sae = build(config, arrays | {"b_dec": np.zeros(64), "threshold": np.full(6, 0.2)})
    found = measures(sae, source.batch(0, 300), source.directions)
    assert found["mcc"] == pytest.approx(1) and found["f1"] == pytest.approx(1)
    assert found["fvu"] == pytest.approx(0, abs=1e-6) and found["dead"] == 0
    assert found["l0"] == pytest.approx(source.batch(0, 300).present.sum(1).mean())


@pytest.mark.slow
def test_training_finds_the_features():
    config = flags.load_config(str(ROOT / "configs/sae/smollm2_topk.py:topk"))
    fields = {"task.d_sae": 12, "task.k": 2.0, "task.dead_after": 10_000, "optim.lr": 1e-2}
    for name, value in fields.items():
        set_field(config, name, value)
    config.task.scaling = Scaling.NONE
    config.freeze()
    trainer = Trainer(config, SOURCE.width)
    held_out = SOURCE.batch(10_000, 2000)
    before = measures(trainer.dictionary(), held_out, SOURCE.directions)
    for step in range(config.steps):
        trainer.step(SOURCE.batch(step, 128).x)
    after = measures(trainer.dictionary(), held_out, SOURCE.directions)
    assert after["mcc"] > max(0.8, before["mcc"] + 0.2) and after["f1"] > before["f1"] + 0.3
