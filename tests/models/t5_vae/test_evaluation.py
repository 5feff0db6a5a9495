"""The report of a toy model, and the measures in it."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.models.t5_vae import evaluation, figures
from flaxae.models.t5_vae.evaluation import Codec
from flaxae.task import Context
from tests.models.t5_vae.tiny import Letters, tiny_task


@pytest.fixture
def codec():
    task = tiny_task(task__latent__noise_end=0.3)
    return Codec(task.init(nnx.Rngs(0)), Letters(), 7)


def test_texts_to_ids_and_back(codec):
    ids = codec.ids(["ab", "abcdefghij"])
    assert ids.tolist() == [[3, 4, 1, 0, 0, 0, 0, 0], [3, 4, 5, 6, 7, 8, 9, 1]]  # EOS is kept
    assert codec.texts(ids) == ["ab", "abcdefg"]


def test_codes_do_not_depend_on_the_batch(codec):
    texts = ["ab", "cde", "fedcba"]
    codes = codec.encode(texts)
    assert codes.shape == (3, 1, 8)
    np.testing.assert_allclose(codes[1], codec.encode(["cde"])[0], atol=1e-5)
    assert codec.decode(codes)[1] == codec.decode(codes[1:2])[0]


def test_validity():
    assert evaluation.is_valid("return self.x") and evaluation.is_valid("x = [1]")
    assert not evaluation.is_valid("else:") and not evaluation.is_valid(" ")
    assert not evaluation.is_valid("x = \0")
    assert evaluation.validity(["x", "x ="]) == 0.5


def test_interpolation_keeps_ends_and_length():
    a, b = np.asarray([3.0, 0, 0]), np.asarray([0, 3.0, 0])
    way = evaluation.interpolate(a, b, 5)
    np.testing.assert_allclose(way[[0, -1]], [a, b], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), 3, rtol=1e-5)
    np.testing.assert_allclose(evaluation.interpolate(a, a, 3), [a] * 3, atol=1e-6)


def test_principal_axes():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(500, 6)) * np.asarray([5, 1, 0.1, 0.1, 3, 0.1])
    points, share = figures.principal_components(codes)
    assert abs(np.corrcoef(points[:, 0], codes[:, 0])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], codes[:, 4])[0, 1]) > 0.99
    assert share[0] == pytest.approx(25 / 35, abs=0.05)


def test_latent_statistics_tell_the_prior_from_a_collapse(codec):
    normal = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    good = evaluation.latent_statistics(codec, normal)
    bad = evaluation.latent_statistics(codec, np.zeros((300, 8), np.float32))
    assert good["mmd_over_null"] < 2 < 50 < bad["mmd_over_null"]
    assert good["squared_norm_over_dim"] == pytest.approx(1, abs=0.1)
    assert bad["mmd_with_noise_over_null"] < bad["mmd_over_null"]


def test_samples_for_the_log():
    task = tiny_task()
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))
    made = task.sample(task.init(nnx.Rngs(0)), ctx, 2)
    assert {len(v) for k, v in made.items() if k != "interpolation"} == {2}
    assert len(made["interpolation"]) == 5


def test_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "PAIRS", (("ab", "cd"),))
    monkeypatch.setattr(evaluation, "NUM_SAMPLES", 20)
    task = tiny_task()
    rows = [
        {"step": s, "split": split, "recon": 9.0 / s, "mmd": 0.1, "exact_match": 0.1}
        for s in (1, 2)
        for split in ("train", "dev")
    ]
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "metrics.jsonl").write_text(text)
    model = task.init(nnx.Rngs(0))
    loaded = types.SimpleNamespace(
        model=model, task=task, step=2, workdir=tmp_path, check_data=lambda: None
    )
    result = task.report(loaded, str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == result
    for name in ("learning_curves.png", "latent_map.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    row = result["splits"]["dev"]
    assert row["lines"] == 20 and 0 <= row["exact_match"] <= 1
    assert result["references"].keys() == {"shuffled_codes", "zero_code"}
    printed = capsys.readouterr().out
    assert "exact" in printed and "samples of N(0, I)" in printed and "latent_map.png" in printed
