"""MCC and F1 of dictionaries whose answer is known."""

import numpy as np
import pytest

from flaxae.measures.known_features import detection_f1, mean_correlation

EYE = np.eye(4)


def test_the_features_themselves_have_mcc_1_in_any_order_and_sign():
    assert mean_correlation(-EYE[[2, 0, 3, 1]] * 7, EYE) == pytest.approx(1)
    # Two latents of one feature: one of them is matched with a feature at right angles.
    assert mean_correlation(EYE[[0, 0, 2, 3]], EYE) == pytest.approx(0.75)
    # With fewer latents than features, what is left over does not count.
    assert mean_correlation(EYE[:2], EYE) == pytest.approx(1)
    between = (EYE[0] + EYE[1])[None]
    assert mean_correlation(between, EYE) == pytest.approx(0.5**0.5)
    # The best matching, not that of each latent's nearest feature.
    pair = np.asarray([[1.0, 0], [0.8, 0.6]])
    assert mean_correlation(pair, np.eye(2)) == pytest.approx((1 + 0.6) / 2)


def test_f1_is_that_of_the_nearest_feature():
    present = np.asarray([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    assert detection_f1(present, present, EYE, EYE) == pytest.approx(3 / 4)  # one never occurs
    swapped = detection_f1(present[:, ::-1], present, EYE[::-1], EYE)
    assert swapped == pytest.approx(3 / 4)
    fired = present.copy()
    fired[2, 0] = True  # precision 2 / 3, recall 1
    fired[0, 3] = fired[1, 3] = True  # precision 1 / 3, recall 1
    want = (2 * 2 / 5 + 1 + 0 + 2 * 1 / 4) / 4
    assert detection_f1(fired, present, EYE, EYE) == pytest.approx(want)
