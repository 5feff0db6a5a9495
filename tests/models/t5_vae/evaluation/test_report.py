"""The whole report of tiny models with deterministic and Gaussian encoders."""

import json
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.errors import ConfigError
from flaxae.models.t5_vae import evaluation
from flaxae.models.t5_vae.evaluation import studies
from flaxae.task import Context
from flaxae.text_autoencoder import figures
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import interpolation
from tests.models.t5_vae.tiny import Letters, tiny_model, tiny_task

SIZES = evaluation.Sizes(
    lines=20,
    samples=20,
    pulled=8,
    texts=20,
    codes=20,
    mmd=20,
    pairs=4,
    steps=4,
    bounded=8,
    importance=2,
    draws=20,
)


def loaded(task, workdir):
    model = tiny_model(task)
    return types.SimpleNamespace(
        model=model, task=task, step=2, workdir=workdir, check_data=lambda: None
    )


@pytest.fixture(scope="module")
def codec():
    task = tiny_task(task__latent__noise_end=0.3)
    return Codec(tiny_model(task), Letters(), 7)


def test_codec_converts_texts_to_ids_and_back(codec):
    ids = codec.ids(["ab", "abcdefghij"])
    assert ids.tolist() == [[3, 4, 1, 0, 0, 0, 0, 0], [3, 4, 5, 6, 7, 8, 9, 1]]  # EOS is kept
    assert codec.texts(ids) == ["ab", "abcdefg"]


def test_codes_do_not_depend_on_the_batch(codec):
    texts = ["ab", "cde", "fedcba"]
    codes = codec.encode(texts)
    assert codes.shape == (3, 1, 8)
    np.testing.assert_allclose(codes[1], codec.encode(["cde"])[0], atol=1e-5)
    assert codec.decode(codes)[1] == codec.decode(codes[1:2])[0]


def test_principal_components_follow_the_largest_variances():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(500, 6)) * np.asarray([5, 1, 0.1, 0.1, 3, 0.1])
    points, share = figures.principal_components(codes)
    assert abs(np.corrcoef(points[:, 0], codes[:, 0])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], codes[:, 4])[0, 1]) > 0.99
    assert share[0] == pytest.approx(25 / 35, abs=0.05)
    points, share = figures.principal_components(codes[:, :1])  # one-dimensional codes
    assert points.shape == (500, 2) and not points[:, 1].any()
    np.testing.assert_allclose(share, [1, 0])


def test_sample_returns_texts_for_the_log():
    task = tiny_task()
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))
    made = task.sample(tiny_model(task), ctx, 2)
    assert {len(v) for k, v in made.items() if k != "interpolation"} == {2}
    assert len(made["interpolation"]) == 5


def test_codes_of_no_lines_can_be_flattened():
    codes, ids = np.zeros((0, 2, 4), np.float32), np.zeros((0, 8), np.int32)
    assert studies.EncodedLines([], ids, codes, None, np.zeros((0, 16))).flat.shape == (0, 8)


@pytest.mark.parametrize("gaussian", [False, True])
def test_report_writes_json_figures_and_text(tmp_path, capsys, monkeypatch, gaussian):
    monkeypatch.setattr(interpolation, "PAIRS", (("ab", "cd"),))
    if gaussian:  # also treats the corpus as plain text with labels
        monkeypatch.setattr("flaxae.measures.text.PYTHON_SHARE", 1.0)
    task = tiny_task(task__latent__gaussian=gaussian, data__labels=gaussian)
    task.text.labels = lambda split: [line[0] for line in task.text.lines(split)]
    rows = [
        {"step": s, "split": split, "recon": 9.0 / s, "mmd": 0.1, "exact_match": 0.1}
        for s in (1, 2)
        for split in ("train", "dev")
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = evaluation.report(loaded(task, tmp_path), str(tmp_path / "out"), SIZES)
    text = (tmp_path / "out" / "report.json").read_text()
    assert json.loads(text) == result and "NaN" not in text
    for name in ("learning_curves", "latent_map", "spectrum", "by_length", "interpolation"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    row = result["splits"]["dev"]
    assert row["lines"] == 20 and row["in_training_files"] == 0.25
    low, high = row["intervals"]["token_accuracy"]
    assert 0 <= low <= row["token_accuracy"] <= high <= 1
    assert result["references"].keys() == {"shuffled_codes", "zero_code"}
    assert result["samples"]["n"] == 20 and len(result["samples"]["examples"]) == 12
    assert result["samples"]["others"].keys() == {"gaussian", "gmm", "real_lines"}
    assert ("validity" in row) == ("validity" in result["samples"]) == (not gaussian)
    assert result["interpolations"][0]["from"] in (task.text.lines("dev") if gaussian else ["ab"])
    best = result["interpolation"]["best"]
    assert best == "slerp" or len(result["interpolations"][0]["best_texts"]) == 7
    assert result["interpolation"]["real_ppl"] > 1
    bound = result["likelihood"]["importance_weighted"]
    if gaussian:
        assert result["latent"]["information"]["kl"]["value"] > 0
        assert bound["perplexity"]["value"] > 1 and bound["lines"] == 8
    else:
        assert bound == result["latent"]["information"] == studies.STOCHASTIC_ONLY
    printed = capsys.readouterr().out
    assert result["signatures"].keys() == {"bleu", "chrf"}
    for signature in result["signatures"].values():  # sacreBLEU's, with its version
        assert "|version:" in signature and signature in printed
    parts = ["exact", "samples of N(0, I)", "latent_map.png", "gap to another line", "N(0, I)"]
    parts += ["disentanglement: n/a: the lines have fewer than two factors"]
    parts += ["linear probes for label"] if gaussian else ["probes: n/a"]
    for part in parts:
        assert part in printed


STUDIES = {"latent", "likelihood", "references", "samples", "interpolation", "disentanglement"}
STUDIES |= {"text_space"}
# Lines of the dev split -> the parts of its report that need more.
LEAVES_OUT = {0: STUDIES, 1: STUDIES, 2: {"disentanglement"}, 3: {"disentanglement"}}


@pytest.mark.parametrize("count", [0, 1, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("gaussian", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_report_of_few_lines_says_what_it_leaves_out(
    tmp_path, capsys, monkeypatch, count, gaussian
):
    monkeypatch.setattr(interpolation, "PAIRS", (("ab", "cd"),))
    task = tiny_task(task__latent__gaussian=gaussian)
    dev, lines = task.text.lines("dev")[:count], task.text.lines

    def few(split):
        if split == "dev" and not count:
            raise ConfigError("split 'dev' of letters: 0 of 3 texts are left")
        return dev if split == "dev" else lines(split)

    task.text.lines = few
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = evaluation.report(loaded(task, tmp_path), str(tmp_path / "out"), SIZES)
    left_out = {k for k, v in result.items() if isinstance(v, str) and v.startswith("n/a")}
    # The labels of the probes are all equal, and attributes need two.
    assert left_out - {"probes", "attributes"} == LEAVES_OUT[count]
    assert "attributes" in left_out
    assert "NaN" not in (tmp_path / "out" / "report.json").read_text()
    printed = capsys.readouterr().out
    for name in left_out:
        assert f"{name}: n/a: " in printed
    assert ("dev is left out: split 'dev'" in printed) == (not count)
    if count == 1:
        assert "needs at least 2 lines, and there is 1" in result["latent"]
        assert result["splits"]["dev"]["intervals"]["token_accuracy"] == [None, None]
        assert "None" not in printed and "nan" not in printed
