"""The report of a Funnel AE: scores, optimised codes, and what few lines leave out."""

import json
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxae
from flaxae.errors import ConfigError
from flaxae.models.funnel_ae import evaluation
from flaxae.models.funnel_ae.evaluation import gap
from flaxae.models.funnel_ae.evaluation.scores import Scorer, summary
from flaxae.models.funnel_ae.latents import Bottleneck, Encoding
from flaxae.task import Context
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import interpolation
from tests.models.funnel_ae.tiny import texts, toy, write_run

SIZES = evaluation.Sizes(
    lines=20,
    samples=20,
    pulled=8,
    texts=20,
    codes=20,
    references=8,
    mmd=20,
    pairs=4,
    steps=4,
    analogies=8,
    optimised=4,
    updates=20,
    draws=20,
)


@pytest.fixture(scope="module")
def loaded(workdir):
    return flaxae.load(workdir)


@pytest.fixture(scope="module")
def scorer(loaded):
    return Scorer(loaded.model, loaded.step, loaded.task.num_tokens)


@pytest.fixture(scope="module")
def ids(loaded):
    codec = Codec(loaded.model, loaded.task.text.tokenizer, loaded.step)
    return codec.ids(loaded.task.text.lines("dev")[:12])


def test_scores_equal_the_sums_of_an_evaluation_during_training(loaded, scorer, ids):
    scores = scorer.score(ids, scorer.encode(ids).mean)
    batch = {"8": {"ids": jnp.asarray(ids), "weight": jnp.ones(len(ids), jnp.float32)}}
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))
    sums = jax.jit(lambda x: loaded.task.eval_step(loaded.model, x, ctx))(batch)
    wanted = loaded.task.finalize(
        {k: (np.asarray(v[0]), np.asarray(v[1])) for k, v in sums.items()}
    )
    found = summary(scores, draws=10)
    assert found["cross_entropy"] == pytest.approx(wanted["recon"], rel=1e-5)
    assert found["perplexity"] == pytest.approx(wanted["perplexity"], rel=1e-4)
    assert found["first_token_accuracy"] == pytest.approx(wanted["first_token_accuracy"])
    same, count = sums["place_accuracy"]
    np.testing.assert_allclose(scores.same.sum(0), same)
    assert [x["lines"] for x in found["by_place"]] == [int(n) for n in count if n]
    low, high = found["intervals"]["cross_entropy"]
    assert low < found["cross_entropy"] < high


def test_scores_of_a_text_do_not_depend_on_the_others(scorer, ids):
    codes = scorer.encode(ids)
    np.testing.assert_allclose(scorer.encode(ids[3:4]).mean[0], codes.mean[3], atol=1e-5)
    one, all_of_them = scorer.score(ids[3:4], codes.mean[3:4]), scorer.score(ids, codes.mean)
    assert one.nats[0] == pytest.approx(all_of_them.nats[3], rel=1e-4)


def test_optimised_codes_are_never_worse_and_the_decoder_stays(scorer, ids):
    codes = scorer.encode(ids).mean
    start = np.broadcast_to(codes.mean(0), codes.shape)
    before = jax.tree.map(np.array, scorer.state)
    end, after = gap.optimised(scorer, ids, start, spread=float(codes.std()), steps=20)
    jax.tree.map(np.testing.assert_array_equal, before, scorer.state)
    assert (after.nats <= scorer.score(ids, start).nats).all()
    assert after.nats.sum() < 0.98 * scorer.score(ids, start).nats.sum()
    np.testing.assert_allclose(after.nats, scorer.score(ids, end).nats, rtol=1e-5)
    # Each text is optimised by itself.
    others = np.concatenate([ids[:2], ids[:1:-1]])
    again, _ = gap.optimised(scorer, others, start, spread=float(codes.std()), steps=20)
    np.testing.assert_allclose(again[:2], end[:2], atol=1e-4)


def test_the_ends_of_an_interpolation_are_the_plain_reconstructions(loaded):
    codec = Codec(loaded.model, loaded.task.text.tokenizer, loaded.step)
    lines = loaded.task.text.lines("dev")[:6]
    for path in interpolation.examples(codec, lines, python=False, steps=5):
        ends = codec.decode(codec.encode([path["from"], path["to"]]))
        assert [path["texts"][0], path["texts"][-1]] == ends


@pytest.mark.parametrize("name", ["ae", pytest.param("kl", marks=pytest.mark.slow)])
def test_report_writes_json_figures_and_text(tmp_path, loaded, capsys, name):
    if name == "kl":
        options = {"task__latent__kind": Bottleneck.KL, "task__latent__weight": 0.1}
        write_run(texts(tmp_path, **options), tmp_path / "run")
        loaded = flaxae.load(tmp_path / "run")
    rows = [{"step": s, "split": x, "recon": 2.0 / s} for s in (1, 2) for x in ("train", "dev")]
    (loaded.workdir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = evaluation.report(loaded, str(tmp_path / "out"), SIZES)
    text = (tmp_path / "out" / "report.json").read_text()
    assert json.loads(text) == result and "NaN" not in text
    for figure in result["figures"].values():
        with open(figure, "rb") as file:
            assert file.read(4) == b"\x89PNG"
    drawn = {
        "learning_curves",
        "by_length",
        "by_place",
        "latent_map",
        "histograms",
        "gap",
        "states",
    }
    assert drawn <= set(result["figures"])
    row = result["splits"]["dev"]
    for measure in ("exact_match", "token_accuracy", "cross_entropy", "first_token_accuracy"):
        low, high = row["intervals"][measure]
        assert low <= row[measure] <= high
    found = result["gap"]
    assert found["texts"] == 4
    for start in ("encoder", "mean"):
        before, after = (found[start][x]["cross_entropy"]["value"] for x in ("before", "after"))
        assert after <= before
    assert isinstance(result["latent"]["information"], dict) == (name == "kl")
    assert result["samples"]["others"].keys() == {"gaussian", "gmm", "real_lines"}
    printed = capsys.readouterr().out
    parts = [
        "accuracy by place: 1: ",
        "encoder's gap of 4 lines",
        "over uniform: ",
        "samples of N(0, I)",
        "near: ",
    ]
    for part in (*parts, "arithmetic of codes, 8 exchanges", "histograms.png", "16 numbers"):
        assert part in printed


@pytest.mark.parametrize("count", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_report_of_few_lines_says_what_it_leaves_out(
    tmp_path, loaded, capsys, monkeypatch, count
):
    dev, lines = loaded.task.text.lines("dev")[:count], loaded.task.text.lines

    def few(split):
        if split == "dev" and not count:
            raise ConfigError("split 'dev' of letters: 0 of 3 texts are left")
        return dev if split == "dev" else lines(split)

    monkeypatch.setattr(loaded.task.text, "lines", few)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = evaluation.report(loaded, str(tmp_path / "out"), SIZES)
    left_out = {k for k, v in result.items() if isinstance(v, str) and v.startswith("n/a")}
    # Samples are compared with the lines of another split.
    studies = {"gap", "states", "latent", "references", "text_space", "interpolation"}
    studies |= {"arithmetic", "attributes"}
    assert left_out - {"samples"} == studies
    printed = capsys.readouterr().out
    for name in left_out:
        assert f"{name}: n/a: " in printed
    assert ("dev is left out: split 'dev'" in printed) == (not count)
    assert "nan" not in printed and "NaN" not in (tmp_path / "out" / "report.json").read_text()


def test_a_run_of_random_codes_is_evaluated_with_random_codes(tmp_path):
    config = texts(tmp_path, task__latent__encoding=Encoding.RANDOM)
    config.freeze()
    task = config.task.make(config)
    model = task.init(nnx.Rngs(params=0, frozen=1))
    moments = jnp.stack([jnp.full((4, 4), 2.0), jnp.full((4, 4), 4.25)])
    model.moments.values[...], model.moments.weight[...] = moments, jnp.float32(1)
    ids = np.random.default_rng(0).integers(3, 20, (200, 8)).astype(np.int32)
    scorer = Scorer(model, 0, task.num_tokens)
    codes = scorer.encode(ids).mean
    assert codes.mean() == pytest.approx(2, abs=0.05) and codes.std() == pytest.approx(
        0.5, abs=0.02
    )
    np.testing.assert_array_equal(scorer.encode(ids[7:9]).mean, codes[7:9])
    assert np.unique(codes[:, 0, 0]).size > 190


def test_rows_of_ids_have_no_report():
    config = toy()
    config.freeze()
    with pytest.raises(ConfigError, match="metrics.jsonl"):
        config.task.make(config).report(types.SimpleNamespace(), "")
