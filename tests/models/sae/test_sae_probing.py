"""Probes of few latents choose the informative ones on the training examples only."""

import numpy as np

from flaxae.models.sae.probing import k_sparse_auroc


def test_few_latents_are_enough_if_they_carry_the_label():
    rng = np.random.default_rng(0)
    labels = rng.random(80) < 0.5
    latents = rng.exponential(size=(80, 30)).astype(np.float32)
    latents[:, 7] += 3 * labels
    latents[:, 20] += 1 * labels
    latents[50:, 3] += 100 * labels[50:]  # informative in the test examples alone
    found = k_sparse_auroc(latents[:50], labels[:50], latents[50:], labels[50:], (1, 2, 8))
    assert found[1] > 0.9 and set(found) == {1, 2, 8}
    # One latent: the AUROC of that latent itself.
    right = np.mean([
        (a > b) + 0.5 * (a == b)
        for a in latents[50:, 7][labels[50:]]
        for b in latents[50:, 7][~labels[50:]]
    ])  # fmt: skip
    np.testing.assert_allclose(found[1], right, atol=1e-6)
