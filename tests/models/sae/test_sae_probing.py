"""Probes of few latents and of outputs, with and without the importance of features."""

import types

import numpy as np
import pytest
from flax import nnx

from flaxae.errors import ConfigError
from flaxae.measures.stats import auroc
from flaxae.models.sae import compare_probes, evaluation, probing
from flaxae.models.sae.config import SAEOptions
from flaxae.models.sae.encoders import Encoded, encode_dictionary, encode_layers
from flaxae.models.sae.per_layer import LayeredAutoencoder
from flaxae.models.sae.probing import k_sparse_scores, regression_scores
from flaxae.sparse_autoencoder.api import SAE
from flaxae.sparse_autoencoder.modules import SAEConfig, SparseAutoencoder


def test_few_latents_are_enough_if_they_carry_the_label():
    rng = np.random.default_rng(0)
    labels = rng.random(80) < 0.5
    latents = rng.exponential(size=(80, 30)).astype(np.float32)
    latents[:, 7] += 3 * labels
    latents[:, 20] += 1 * labels
    latents[50:, 3] += 100 * labels[50:]  # informative in the test examples alone
    scores = k_sparse_scores(latents[:50], labels[:50], latents[50:], (1, 2, 8))
    found = {k: auroc(x, labels[50:]) for k, x in scores.items()}
    assert found[1] > 0.9 and set(found) == {1, 2, 8}
    # One latent: the AUROC of that latent itself.
    right = np.mean([
        (a > b) + 0.5 * (a == b)
        for a in latents[50:, 7][labels[50:]]
        for b in latents[50:, 7][~labels[50:]]
    ])  # fmt: skip
    np.testing.assert_allclose(found[1], right, atol=1e-6)
    # With a scale, the one whose scaled difference is largest.
    scale = np.where(np.arange(30) == 20, 50, 1)
    scores = k_sparse_scores(latents[:50], labels[:50], latents[50:], (1, 2, 8), scale)
    np.testing.assert_allclose(
        auroc(scores[1], labels[50:]), auroc(latents[50:, 20], labels[50:]), atol=1e-6
    )


def test_a_latents_scale_is_the_norm_of_its_weighted_contribution():
    """The contribution of one latent is the difference of two outputs, in raw states."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 2, 3)).astype(np.float32)
    for rescaled in (False, True):
        config = SAEConfig(3, 6, rescale_by_decoder_norm=rescaled)
        sae = SAE(SparseAutoencoder(config, rngs=nnx.Rngs(0), decoder_norm=0.5))
        weights = rng.normal(size=3).astype(np.float32)
        found = encode_dictionary(sae, x[:, 0], weights)
        one = np.asarray(sae.decode(np.eye(6)) - sae.decode(np.zeros((6, 6))))
        np.testing.assert_allclose(found.scale, np.linalg.norm(one * weights, axis=1), rtol=1e-4)
        np.testing.assert_allclose(found.output, sae(x[:, 0]), rtol=1e-5)
    inner = LayeredAutoencoder(2, 3, 4, normalised=True, rngs=nnx.Rngs(0))
    inner.norm.variance[...] = np.asarray([[4.0] * 3, [9.0] * 3], np.float32)
    weights = rng.normal(size=(2, 3)).astype(np.float32)
    found = encode_layers(inner, 2.0, x, weights)
    kernel = np.asarray(inner.decoder.kernel[...]) * np.asarray([2.0, 3.0])[:, None, None]
    want = np.linalg.norm(kernel * weights[:, None], axis=-1).reshape(-1)
    np.testing.assert_allclose(found.scale, want, rtol=1e-5)
    latents = found.latents.reshape(5, 2, 4)
    output = np.einsum("nlf,lfd->nld", latents, kernel) / 2  # biases and means are 0
    np.testing.assert_allclose(found.output, output.reshape(5, 6), rtol=0, atol=1e-5)


def test_importance_is_the_inverse_of_a_features_penalty():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2 == 0
    x = rng.normal(size=(80, 2)).astype(np.float32) * 7
    x[:, 1] += 20 * labels
    for weights, high in (([1.0, 1.0], True), ([1.0, 0.0], False)):
        scores = regression_scores(x[:50], labels[:50], x[50:], np.asarray(weights))
        assert (auroc(scores, labels[50:]) > 0.85) == high


def test_runs_are_compared_with_and_without_importance(monkeypatch):
    """A probe here is one latent: the first, or with importance that of the largest scale."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2 == 0
    latents = rng.normal(size=(60, 3)) + labels[:, None]
    data = types.SimpleNamespace(
        states={"resid_out": None},
        labels=labels,
        cut=20,
        dense=lambda hook: 0.75,
        probe_scores=lambda found, weighted: {
            "k1": found.latents[20:, found.scale.argmax() if weighted else 0]
        },
    )
    monkeypatch.setattr(probing, "city_states", lambda *_: data)
    weights, scale = np.asarray([0.0, 1.0]), np.asarray([0.0, 1.0, 5.0])
    given = []

    def encoded(loaded, x, importance):
        given.append(importance)
        return Encoded(latents, latents, scale, importance)

    monkeypatch.setattr(evaluation, "encoded", encoded)

    def opened(importance, layer=1):
        options = SAEOptions(layer=layer)
        source = types.SimpleNamespace(fingerprint="f")
        task = types.SimpleNamespace(options=options, source=source, importance=importance)
        return types.SimpleNamespace(task=task)

    table = compare_probes.compare({"a": opened(None), "b": opened(weights)})
    assert len(given) == 2 and all(x is weights for x in given)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[4:8]]
    assert [row[:3] for row in rows] == [
        ["a", "no", "no"],
        ["a", "no", "yes"],
        ["b", "yes", "no"],
        ["b", "yes", "yes"],
    ]
    first, third = (auroc(latents[20:, i], labels[20:]) for i in (0, 2))
    assert [row[3].split()[0] for row in rows] == [f"{x:.3f}" for x in (first, third) * 2]
    assert f"({third - first:+.3f} [" in rows[1][3]
    assert rows[2][3].endswith("(+0.000 [+0.000, +0.000])")
    assert len(compare_probes.compare({"a": opened(None)}).splitlines()) == 7
    with pytest.raises(ConfigError, match="b has read other states than a"):
        compare_probes.compare({"a": opened(None), "b": opened(None, layer=2)})
    with pytest.raises(ConfigError, match="different task.importance"):
        compare_probes.compare({"a": opened(weights), "b": opened(2 * weights)})
