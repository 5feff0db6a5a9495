"""Files and outputs of SAELens and sparsify equal ours, in both directions.

They need a separate environment, which `make test-sae-parity` makes.
"""

import json

import numpy as np
import pytest

from flaxae.sparse_autoencoder import files, saelens, sparsify
from flaxae.sparse_autoencoder.modules import Activation
from flaxae.sparse_autoencoder.origin import Origin
from flaxae.sparse_autoencoder.parameters import values
from tests.sparse_autoencoder import foreign_files
from tests.sparse_autoencoder.test_foreign_files import outputs
from tests.sparse_autoencoder.tiny_dictionaries import CONFIGS, X, dictionary

pytestmark = pytest.mark.sae_parity
SAELENS = [k for k in CONFIGS if k not in ("groupmax", "topk_transcoder")]
SPARSIFY = {
    "topk": {},
    "groupmax": {},
    "topk_transcoder": {"d_out": 6},
    "skip": {"d_out": 6, "activation": Activation.TOPK, "k": 4},
}


@pytest.mark.parametrize("case", foreign_files.writers())
def test_files_of_the_installed_packages_give_the_same_outputs(case, tmp_path):
    """Other random weights than those of the committed files, and the same code."""
    record = foreign_files.writers()[case](tmp_path / case, case, seed=7)
    sae, origin = files.load(tmp_path / case)
    latents, output = outputs(sae, record["x"])
    np.testing.assert_allclose(output, record["output"], rtol=0, atol=1e-5)
    scale = (origin.factor or 1) if case == "topk_factor" else 1
    np.testing.assert_allclose(latents * scale, record["latents"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["gated", "trained_batch_topk", "sparsify_skip"])
def test_the_committed_files_are_what_they_write(case, tmp_path):
    foreign_files.writers()[case](tmp_path / case, case)
    old, new = (files.load(folder / case)[0] for folder in (foreign_files.FOLDER, tmp_path))
    for name, x in values(old).items():
        np.testing.assert_allclose(values(new)[name], x, rtol=0, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("kind", SAELENS)
def test_saelens_opens_what_is_written(kind, tmp_path):
    import sae_lens
    import torch

    sae = dictionary(kind)
    saelens.write(tmp_path, sae, Origin(model="m", hook="resid_out", layer=3))
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        x = torch.from_numpy(X)
        latents, output = theirs.encode(x).numpy(), theirs(x).numpy()
    ours = outputs(sae, X)
    np.testing.assert_allclose(ours[1], output, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours[0], latents, rtol=0, atol=1e-5)
    assert theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    assert theirs.cfg.metadata.model_name == "m" and theirs.cfg.metadata.flaxae["layer"] == 3
    # What it saves again is the same dictionary with the same metadata.
    theirs.save_model(tmp_path / "again")
    again, origin = files.load(tmp_path / "again", hook="resid_out", layer=3, model="m")
    written, _ = files.load(tmp_path)
    assert again.config == written.config and origin.layer == 3
    for name, x in values(written).items():
        np.testing.assert_array_equal(values(again)[name], x, err_msg=name)


def test_saelens_opens_states_of_heads(tmp_path):
    import sae_lens
    import torch

    sae, origin = files.load(foreign_files.FOLDER / "jumprelu_hook_z")
    saelens.write(tmp_path, sae, origin)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    assert theirs.hook_z_reshaping_mode
    with torch.no_grad():
        output = theirs(torch.from_numpy(foreign_files.X).reshape(-1, 2, 4)).reshape(-1, 8)
    np.testing.assert_allclose(outputs(sae, foreign_files.X)[1], output, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", SPARSIFY)
def test_sparsify_opens_what_is_written(kind, tmp_path):
    import torch
    from sparsify import SparseCoder

    fields = SPARSIFY[kind]
    sae = dictionary("skip_transcoder" if kind == "skip" else kind, **fields)
    sparsify.write(tmp_path, sae)
    theirs = SparseCoder.load_from_disk(tmp_path)
    with torch.no_grad():
        x = torch.from_numpy(X)
        found = theirs.encode(x)
        latents = torch.zeros(len(X), 24).scatter_(-1, found.top_indices, found.top_acts)
        output = theirs(x).sae_out
    ours = outputs(sae, X)
    np.testing.assert_allclose(ours[0], latents, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours[1], output, rtol=0, atol=1e-5)
    theirs.save_to_disk(tmp_path / "again")
    again, _ = files.load(tmp_path / "again")
    assert again.config == sae.config
    raw = [json.loads((p / "cfg.json").read_text()) for p in (tmp_path, tmp_path / "again")]
    assert raw[0] == raw[1]


def test_measures_of_known_features_equal_saelens():
    import torch
    from sae_lens.synthetic import compute_classification_metrics, mean_correlation_coefficient

    from flaxae.measures.known_features import detection_f1, mean_correlation

    rng = np.random.default_rng(3)
    for count in (12, 30):
        decoder, features = rng.normal(size=(20, 8)), rng.normal(size=(count, 8))
        fired, present = rng.random((200, 20)) < 0.2, rng.random((200, count)) < 0.3
        tensors = [torch.from_numpy(x.astype(np.float32)) for x in (decoder, features)]
        want = mean_correlation_coefficient(*tensors)
        np.testing.assert_allclose(mean_correlation(decoder, features), want, rtol=1e-5)
        acts = [torch.from_numpy(x.astype(np.float32)) for x in (fired, present)]
        want = compute_classification_metrics(*acts, *tensors).f1_score
        found = detection_f1(fired, present, decoder, features)
        np.testing.assert_allclose(found, want, rtol=1e-5)
