"""Explorer: every answer, on an autoencoder of letters whose answers are known."""

import json

import numpy as np
import pytest

from flaxae import explore
from flaxae.errors import ConfigError
from flaxae.explore.backend import Explorer
from flaxae.explore.corpus import Corpus
from flaxae.explore.space import MAX_CHARACTERS
from flaxae.text_autoencoder import protocol
from flaxae.text_autoencoder.priors import StandardNormal
from tests.explore.tiny import LINES, WIDTH, Characters, Letters


@pytest.fixture(scope="module")
def explorer():
    made = Explorer(Letters())
    made.warm_up()
    return made


def test_the_letters_satisfy_the_protocol(explorer):
    assert isinstance(explorer.model, protocol.Autoencoder)
    assert explorer.texts == list(dict.fromkeys(LINES)) and explorer.python


def test_the_path_between_two_texts(explorer):
    path = explorer.between("aa", "ii", "lerp", 9)
    assert path.texts == ["aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh", "ii"]
    assert path.parses == [True] * 9 and path.repeats == [False] * 9
    assert (path.path_ratio, path.largest_step, path.distinct) == (2 / 16, 2 / 16, 1)
    constant = explorer.between("aa", "aa", "slerp", 3)
    assert constant.repeats == [False, True, True] and constant.path_ratio == 0
    assert explorer.between_at("aa", "ii", 25, "lerp") == "cc"
    for how in ("slerp", "lerp"):
        eleven = explorer.between("count = 1", "import re", how).texts
        assert [explorer.between_at("count = 1", "import re", 10 * i, how) for i in range(11)] == (
            eleven
        )
    assert explorer.between_at("aa", "ii", 100, "slerp") == "ii"
    assert (path.path, explorer.between("aa", "ii").path) == ("lerp", "slerp")  # not evaluated
    assert explorer.paths == ("slerp", "lerp", "denoised")  # without a flow
    # These letters decode and encode to the centre of the letter, which is the letter itself.
    denoised = explorer.between("aa", "ii", "denoised", 9)
    assert denoised.texts == explorer.between("aa", "ii", "slerp", 9).texts


def test_the_best_path_is_that_of_the_runs_evaluation(tmp_path):
    report = {"interpolation": {"best": "denoised"}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    made = Explorer(Letters(), source=tmp_path)
    assert made.between("aa", "ii").path == "denoised" and made.best_path == ("denoised", True)
    report["interpolation"]["best"] = "prior"  # of a flow that the model does not have
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert Explorer(Letters(), source=tmp_path).best_path == ("slerp", False)


def test_a_model_with_a_flow_has_paths_through_its_noise():
    class WithFlow(Letters):
        def prior(self, which=None):
            return StandardNormal(WIDTH) if which == "flow" else super().prior(which)

    made = Explorer(WithFlow())
    assert made.paths == ("slerp", "lerp", "prior", "denoised")
    # The noise of this prior is the code itself.
    assert made.between("aa", "ii", "prior").texts == made.between("aa", "ii", "slerp").texts
    assert made.between_at("aa", "ii", 30, "prior") == made.between_at("aa", "ii", 30, "slerp")


def test_a_decoder_that_reads_the_noise_is_given_that_of_the_place_on_a_path():
    class Reads(Letters):
        """Its noise is the place on the path, by the first letter's number."""

        def decode(self, z, assumed_noise=None, **options):
            self.assumed = assumed_noise
            return super().decode(z, **options)

        def path_noise(self, codes, a, b):
            first, start, end = (x[..., 0, 0] for x in (codes, a, b))
            return (first - start) / (end - start)

    model = Reads()
    made = Explorer(model)
    made.between("aa", "ii", "lerp", steps=3)
    np.testing.assert_allclose(model.assumed, [0, 0.5, 1], atol=1e-6)
    made.between_at("aa", "ii", 30, "lerp")
    np.testing.assert_allclose(model.assumed, [0.3], atol=1e-6)
    made.between("aa", "ii", "denoised", steps=3)
    assert model.assumed is None  # the last codes are those of texts


def test_noise_and_temperature_of_the_words(explorer):
    plain, noisy = explorer.samples(n=4), explorer.samples(n=4, noise=0.5)
    assert noisy.texts != plain.texts == explorer.samples(n=4, noise=0.0).texts
    assert explorer.samples(n=4, decode_temperature=0.5).texts == noisy.texts  # by these letters
    assert explorer.around("abc", noise=0.5, seed=1) != explorer.around("abc", noise=0.5)
    with pytest.raises(ConfigError, match=r"noise=1\.5 must be 0 to 1"):
        explorer.around("abc", noise=1.5)
    plain = Letters()
    plain.max_noise = 0.0
    silent = Explorer(plain)
    assert silent.around("abc") == "abc"
    with pytest.raises(ConfigError, match="decodes without temperature"):
        silent.samples(decode_temperature=0.5)


def test_arithmetic_finds_the_text_of_the_code(explorer):
    answer = explorer.arithmetic("x = 3", "x = 1", "y = 1", k=2)
    assert answer.text == answer.near[0].text == "y = 3" and answer.near[0].distance < 1e-6
    assert [c.edits for c in answer.copies] == [1, 2, 1]
    code = explorer.encode("x = 3") - explorer.encode("x = 1") + explorer.encode("y = 1")
    for copy, text in zip(answer.copies, ("x = 3", "x = 1", "y = 1"), strict=True):
        z = explorer.encode(text)
        assert copy.cosine == pytest.approx(code @ z / np.linalg.norm(code) / np.linalg.norm(z))


def test_neighbours_and_points_of_the_map(explorer):
    near = explorer.neighbours("count = 3", 3, "euclid")
    assert near[0] == (explorer.texts.index("count = 3"), "count = 3", 0.0)
    assert {n.text for n in near[1:]} == {"count = 2", "count = 4"}
    point = explorer.point(7)
    assert point.text == point.decoded == point.near[0].text == explorer.texts[7]
    middle = explorer.place(0.0, 0.0)
    assert middle.text is None
    mean = explorer.codes.mean(0)
    assert middle.decoded == explorer.model.decode(mean.reshape(1, 2, -1))[0]


def test_pca_has_the_directions_of_largest_variance(explorer):
    centred = explorer.codes - explorer.codes.mean(0)
    _, _, rows = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(abs(explorer.pca()), abs(centred @ rows[:2].T), atol=1e-4)
    x, y = explorer.pca()[3]
    np.testing.assert_allclose(
        explorer.gaussian.project(explorer.gaussian.place(np.asarray([x, y]))[None], 2)[0],
        (x, y),
        atol=1e-4,
    )


def test_changed_codes_are_put_on_the_models_space(explorer, monkeypatch):
    there = explorer.model.encode(["on space"])

    def on_space(z):
        return np.repeat(there, len(z), axis=0)

    monkeypatch.setattr(explorer.model, "on_space", on_space, raising=False)
    assert explorer.around("abc", dims={1: 0.25}) == explorer.place(0, 0).decoded == "on space"
    assert explorer.grid("abc", 0, 1, size=2) == [["on space"] * 2] * 2
    assert explorer.arithmetic("a", "b", "c").text == "on space"
    assert explorer.between_at("abc", "abx", 50, "lerp") == "on space"
    assert explorer.around("abc") == explorer.reconstruct("abc").decoded == "abc"
    assert explorer.samples(n=1).texts != ["on space"]


def test_moves_around_a_text(explorer):
    assert explorer.around("count = 1") == "count = 1"
    # The standard deviation is 0.5, which is 16 letters; a quarter of it is 4 letters.
    assert explorer.around("abc", dims={1: 0.25}) == "afc"
    moved = (
        explorer.encode("abc")
        + 2 * explorer.gaussian.variances[1] ** 0.5 * (explorer.gaussian.directions[1])
    )
    there = explorer.model.decode(moved.reshape(1, 2, -1))[0]
    assert explorer.around("abc", {1: 2.0}) == there
    grid = explorer.grid("abc", 0, 1)
    assert grid[2][2] == "abc" and len(grid) == 5 and grid[4][2] == there
    assert grid[2][4] == explorer.around("abc", {0: 2.0})


def test_samples_of_each_prior(explorer):
    made = explorer.samples("normal", 5, 0.5, seed=3)
    drawn = explorer.model.prior().sample(5, 3, 0.5)
    assert made.texts == explorer.model.decode(drawn.reshape(5, 2, -1))
    assert made.valid == sum(made.parses) / 5 and made.distinct == len(set(made.texts)) / 5
    same = explorer.samples("gaussian", 4, 0.0)
    assert same.distinct == 0.25 and same.texts == ["P" * WIDTH] * 4
    with pytest.raises(ConfigError, match="has no prior 'flow'"):
        explorer.samples("flow", 4)


def test_reconstructions(explorer):
    exact = explorer.reconstruct("import os")
    assert exact.exact and exact.edits == 0 and not exact.far and not exact.lost
    assert 0 < exact.percentile < 1
    lossy = explorer.reconstruct("a😀b")
    assert lossy.decoded == "ab" and "'😀'" in lossy.lost and not lossy.exact
    assert [p for p in lossy.diff if not p.same] == [(False, "😀", "")]
    assert explorer.reconstruct("~~~~~~~~~~~~").far


def test_likelihood_is_that_of_the_gaussian(explorer):
    from scipy.stats import multivariate_normal

    gaussian = explorer.gaussian
    covariance = (gaussian.directions.T * gaussian.variances) @ gaussian.directions
    truth = multivariate_normal(gaussian.mean, covariance).logpdf(explorer.codes[:5])
    ours = gaussian.log_likelihood(explorer.codes[:5])
    np.testing.assert_allclose(ours - ours[0], truth - truth[0], atol=1e-2)


def test_groups_of_the_map(explorer):
    assert explorer.groups("length")[0] == len(explorer.texts[0])
    kinds = dict(zip(explorer.texts, explorer.groups("kind"), strict=True))
    assert kinds["import os"] == "import" and kinds["x = 1"] == "assignment"
    assert [kinds[text] for text in ("# why", "for i in y:", "print(x)")] == [
        "comment",
        "loop, with",
        "call",
    ]
    assert set(explorer.groups("cluster")) == {f"cluster {i}" for i in range(1, 9)}
    with pytest.raises(ConfigError, match="no label"):
        explorer.groups("label")
    labelled = Explorer(Letters(), Corpus("c", ["aa", "bb", "aa"], ["one", "two", "three"]))
    assert labelled.groups("label") == ["one", "two"]


def test_the_labels_of_the_training_texts_are_used():
    """They come with the model, so that the copied code does not mention them."""
    model = Letters()
    model.training_labels = lambda: [line.split()[0] for line in LINES]
    made = Explorer(model, source="runs/x")
    wanted = {text: text.split()[0] for text in made.texts}
    assert dict(zip(made.texts, made.groups("label"), strict=True)) == wanted
    assert "labels" not in made.opening
    model.training_labels = lambda: None
    assert Explorer(model).corpus.labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" \t ", "empty"),
        ("a" * 13, r"14 tokens \(with its end token\), the model's limit is 13"),
        ("a" * (MAX_CHARACTERS + 1), f"{MAX_CHARACTERS + 1} characters"),
        ("a\ud800", "lone surrogate"),
    ],
)
def test_a_text_that_cannot_be_encoded_is_an_error(explorer, text, message):
    calls = (
        lambda: explorer.between(text, "a"),
        lambda: explorer.between_at("a", text, 1),
        lambda: explorer.arithmetic("a", "b", text),
        lambda: explorer.neighbours(text),
        lambda: explorer.reconstruct(text),
        lambda: explorer.around(text),
        lambda: explorer.grid(text, 0, 1),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=message):
            call()


def test_a_number_out_of_range_is_an_error(explorer):
    for call in (
        lambda: explorer.point(len(LINES)),
        lambda: explorer.point(-1),
        lambda: explorer.between_at("a", "b", 101),
        lambda: explorer.between("a", "b", "curve"),
        lambda: explorer.grid("a", 1, 1),
        lambda: explorer.around("a", {WIDTH: 1.0}),
        lambda: explorer.around("a", None, {WIDTH: 1.0}),
        lambda: explorer.samples("normal", 65),
        lambda: explorer.samples("normal", 5, float("nan")),
        lambda: explorer.samples("normal", 5, decode_temperature=11.0),
        lambda: explorer.samples("normal", 5, noise=1.5),
        lambda: explorer.neighbours("a", 0),
        lambda: explorer.neighbours("a", 3, "taxi"),
    ):
        with pytest.raises(ConfigError):
            call()


def test_too_long_texts_are_left_out():
    made = Explorer(Letters(), ["a", "b", "a", "c" * 13, " "])
    assert made.texts == ["a", "b"]
    assert made.corpus.notes == ["1 text of more than 13 tokens left out"]
    some = Explorer(Letters(), [f"x{i}" for i in range(50)], most=10)
    assert len(some.texts) == 10 and some.corpus.notes == ["10 of 50 texts, drawn at random"]
    with pytest.raises(ConfigError, match="given texts: the model can read 0 of 1 "):
        Explorer(Letters(), ["c" * 13])


def test_codes_are_cached(tmp_path):
    one = Explorer(Letters(), folder=tmp_path)
    (file,) = tmp_path.glob("codes-*.safetensors")
    model = Letters()
    model.encode = None  # it is not called
    two = Explorer(model, folder=tmp_path)
    np.testing.assert_array_equal(one.codes, two.codes)
    model = Letters()
    model.fingerprint = "another"
    assert Explorer(model, folder=tmp_path).cache.key != one.cache.key
    assert Explorer(Letters(), ["a", "b"], folder=tmp_path).cache.key != one.cache.key
    file.write_bytes(b"truncated")
    np.testing.assert_array_equal(Explorer(Letters(), folder=tmp_path).codes, one.codes)


def test_a_note_says_that_the_folder_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    made = Explorer(Letters(), folder=tmp_path / "file")
    assert "nothing is cached in" in made.cache.note and len(made.codes) == len(made.texts)


def test_codes_that_are_not_finite_are_an_error():
    model = Letters()
    model.encode = lambda texts, truncate=False: np.full((len(texts), 2, 6), np.nan)
    with pytest.raises(ConfigError, match="not finite"):
        Explorer(model)


def test_all_missing_members_of_a_model_are_named():
    class HalfWritten:
        num_latents, dim, max_length, step = 1, 2, 3, 4

    with pytest.raises(ConfigError) as e:
        Explorer(HalfWritten(), LINES)
    members = "fingerprint, tokenizer, statistics, encode, decode, prior, training_texts"
    assert f"a HalfWritten without {members}: see" in str(e.value)


def test_statistics_are_not_computed_by_the_check():
    class Late(Letters):
        def __init__(self):
            self.tokenizer = Characters()

        @property
        def statistics(self):
            raise ConfigError("computed too early")

    protocol.check_autoencoder(Late(), "")


def test_paths_and_single_texts_are_refused():
    with pytest.raises(ConfigError, match=r"Explorer.open\('runs/x'\)"):
        Explorer("runs/x")
    with pytest.raises(ConfigError, match="must be a list of str"):
        Explorer(Letters(), "import os")


@pytest.mark.parametrize("show", [explore.app, explore.serve])
def test_the_app_names_the_call_that_makes_an_explorer(show):
    with pytest.raises(ConfigError, match=r"not a str: .*Explorer.open\('runs/x'\)"):
        show("runs/x")
    with pytest.raises(ConfigError, match=r"not a Letters: .*Explorer\(model, texts\)"):
        show(Letters())
