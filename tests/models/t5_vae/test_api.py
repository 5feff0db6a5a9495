"""flaxae.T5VAE: codes and texts, directories, and one clear error per mistake."""

import doctest
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import flaxae
from flaxae.config import to_json
from flaxae.data.tokenizer import Tokenizer, train
from flaxae.decoding import Sampling
from flaxae.errors import ConfigError
from flaxae.models.t5_vae.bottlenecks import LatentConfig
from flaxae.storage.checkpoint import Checkpointer
from flaxae.storage.workdir import write_json
from flaxae.task import Context
from flaxae.text_autoencoder import codec
from flaxae.text_autoencoder.api import TextAutoencoder
from flaxae.text_autoencoder.pretrained import Pretrained
from flaxae.text_autoencoder.priors import GaussianPrior
from flaxae.training.layout import init_model
from tests.helpers import ROOT, environment
from tests.models.t5_vae.tiny import tiny_config

VOCAB, LENGTH = 270, 32
LINES = [f"{word} = {i}" for i in range(6) for word in ("x", "y", "name", "import os", "self")]
SHORT = ["import os", "return self.x", "y = 2"]


def make(latent=None, seed=0):
    """Return an untrained model, codes far from N(0, I), and a tokenizer with fewer ids."""
    config = tiny_config(
        data__max_length=LENGTH, data__vocab_size=VOCAB + 10, task__latent__noise_end=0.5
    )
    if latent is not None:
        config.task.latent = latent
    config.freeze()
    model = config.task.make(config).init(nnx.Rngs(seed))
    return flaxae.T5VAE(model, config, train(LINES, VOCAB), 7, lines=lambda: LINES)


@pytest.fixture(scope="module")
def vae():
    return make()


def test_a_saved_config_has_a_valid_constant_noise():
    fields = {"channel": "preserving", "target_bits": 70.0, "reads_noise": True, "noise_low": 0.7}
    config = tiny_config(**{f"task__latent__{k}": v for k, v in fields.items()})
    saved = make(config.task.latent).saved_config()  # 70 bits would need a sigma of .002
    saved.freeze()
    assert saved.task.latent.noise_end == 0.7 and saved.task.latent.target_bits == 0


@pytest.fixture(scope="module")
def saved(vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    vae.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_docstring_examples_run(vae):
    runner, tests = doctest.DocTestRunner(), []
    for cls in (flaxae.T5VAE, TextAutoencoder, Pretrained):
        tests += doctest.DocTestFinder().find(cls, cls.__name__, globs={"vae": vae})
    for test in tests:
        runner.run(test)
    result = runner.summarize(verbose=False)
    assert result.failed == 0 and result.attempted >= 15


def test_texts_have_the_same_code_alone_and_in_a_batch(vae):
    texts = [*SHORT, "x" * 20, "name name name"]
    codes = vae.encode(texts)
    assert codes.shape == (5, 1, 8) and codes.dtype == np.float32
    decoded = vae.decode(codes)
    for i, text in enumerate(texts):  # 20 letters are in another bucket of lengths
        np.testing.assert_allclose(vae.encode([text])[0], codes[i], atol=1e-5)
        assert vae.reconstruct([text]) == [decoded[i]]


def test_other_sizes_compile_nothing_new(vae):
    def compiled():
        return codec._encode._cache_size(), codec._generate._cache_size()

    vae.reconstruct([SHORT[0]] * 8)
    vae.encode(["x" * 20])
    vae.decode(vae.encode(SHORT), temperature=1.0, top_p=0.9)
    before = compiled()
    for rows in (1, 2, 3, 5, 7, 8):
        for letters in (1, 9, 15, 16, 25, 31):
            vae.reconstruct(["x" * letters] * rows)
    for temperature in (0.1, 0.7, 3.0):
        vae.decode(vae.encode(SHORT), temperature=temperature, top_p=0.5, seed=3)
    assert compiled() == before


def test_many_texts_in_several_calls(vae, monkeypatch):
    monkeypatch.setattr(codec, "ROWS", (8,))
    monkeypatch.setattr(codec, "FEW", 4)
    rng = np.random.default_rng(0)
    texts = ["x" * n for n in rng.integers(1, 30, 50)]
    codes = vae.encode(texts)
    for i in (0, 7, 8, 31, 49):
        np.testing.assert_allclose(vae.encode([texts[i]])[0], codes[i], atol=1e-5)
    for options in ({}, {"temperature": 1.0}):
        texts = vae.decode(codes, **options)
        assert vae.decode(codes, **options) == texts  # calls side by side: in order
        assert vae.decode(codes[:5], **options) == texts[:5]
    assert vae.decode(codes[8:10]) == vae.decode(codes)[8:10]


def test_empty_input_returns_empty_output(vae):
    assert vae.encode([]).shape == (0, 1, 8)
    assert vae.decode([]) == [] == vae.decode(np.zeros((0, 1, 8))) == vae.sample(0)
    for metric in ("cosine", "euclid"):
        assert vae.nearest("a", [], metric=metric) == []
    assert vae.nearest("a", [], codes=np.zeros((0, 8))) == []
    with pytest.raises(ConfigError, match="0 codes of 1 texts"):
        vae.nearest("a", ["b"], codes=[])


def test_whole_numbers_of_python_numpy_and_jax(vae):
    z = vae.encode(SHORT)
    options = {"temperature": 1.0, "top_k": 3}
    drawn = vae.decode(z, seed=5, **options)
    assert vae.decode(z, seed=np.int64(5), temperature=1.0, top_k=np.int32(3)) == drawn
    assert vae.decode(z, seed=jnp.int32(5), **options) == drawn
    assert len(vae.decode(z, seed=2**32 - 1, **options)) == 3


def test_ids_unknown_to_the_tokenizer_are_never_generated():
    vae = make()
    kernel = vae._model.t5.head.kernel
    unused = jnp.abs(kernel[...]).max() * 100 * jnp.sign(kernel[...][:, 5:6])
    kernel[...] = kernel[...].at[:, VOCAB:].set(unused)  # the best, or the worst, everywhere
    vae = flaxae.T5VAE(vae._model, vae.config, vae.tokenizer)
    z = np.random.default_rng(0).normal(size=(8, 1, 8))
    free = vae._model.generate(jnp.asarray(z[:8], jnp.float32), Context(jax.random.key(0), 0))
    assert free.max() >= VOCAB
    for options in ({}, {"temperature": 1.0}, {"beams": 2}):
        assert vae._codec.generate(z, Sampling(**options)).max() < VOCAB


@pytest.mark.parametrize("options", [{}, {"beams": 3}], ids=str)
def test_unrolled_and_scanned_layers_generate_the_same(options):
    """Decode with one cache per layer and with one for all, and all inputs from z to layers."""
    made = []
    for unroll in (1, 2):
        latent = LatentConfig(dim=8, memory_tokens=4, kv_slot=True, cross_gate=True)
        config = tiny_config(task__t5__scan_unroll=unroll, task__latent=latent)
        config.freeze()
        model = config.task.make(config).init(nnx.Rngs(0))
        z = jax.random.normal(jax.random.key(1), (6, 1, 8))
        ctx = Context(jax.random.key(0), jnp.int32(0))
        made.append(model.generate(z, ctx, 29, sampling=Sampling(**options)))
    np.testing.assert_array_equal(*made)


def test_interpolation_includes_its_ends(vae):
    a, b = vae.encode(SHORT[:2])
    for how in ("slerp", "lerp"):
        path = vae.path(a, SHORT[1], 5, how)
        np.testing.assert_allclose(path[[0, -1]], [a, b], atol=1e-5)
    np.testing.assert_allclose(path[2], (a + b) / 2, atol=1e-5)
    path = vae.path(a, b, 5, prior="gaussian")
    np.testing.assert_allclose(path[[0, -1]], [a, b], atol=1e-3)
    assert vae.interpolate(a, b, 5) == vae.decode(vae.path(a, b, 5))


def test_inner_codes_of_a_denoised_path_are_those_of_their_texts(vae):
    a, b = vae.encode(SHORT[:2])
    slerp, once = vae.path(a, b, 4), vae.path(a, b, 4, "denoised", rounds=1)
    np.testing.assert_array_equal(once[[0, -1]], slerp[[0, -1]])
    ids = vae._codec.ids(vae.decode(slerp[1:-1]))
    np.testing.assert_allclose(once[1:-1], vae.encode_ids(ids), atol=1e-5)
    np.testing.assert_array_equal(vae.path(a, b, 4, "denoised", rounds=0), slerp)
    with pytest.raises(ConfigError, match="path='slerp' has no rounds"):
        vae.path(a, b, 4, rounds=2)
    with pytest.raises(ConfigError, match="the argument is called path"):
        vae.interpolate(a, b, how="lerp")


def test_noise_of_the_channel_is_seeded(vae):
    z = np.repeat(vae.encode(["import os"]), 8, axis=0)
    assert len(set(vae.decode(z))) == 1 < len(set(vae.decode(z, noise=3.0)))
    assert vae.decode(z, noise=3.0, seed=1) == vae.decode(z, noise=3.0, seed=1)
    assert vae.decode(z, noise=3.0) != vae.decode(z, noise=3.0, seed=1)
    assert vae.sample(4, noise=3.0, seed=2) != vae.sample(4, seed=2)


def test_each_call_of_a_long_decoding_draws_by_itself(vae, monkeypatch):
    monkeypatch.setattr(codec, "ROWS", (8,))
    z = np.repeat(vae.encode(["import os"]), 16, axis=0)
    texts = vae.decode(z, temperature=1.0, seed=3)
    assert texts[:8] != texts[8:] and texts == vae.decode(z, temperature=1.0, seed=3)


def test_analogy_and_traversal(vae):
    z = vae.encode(SHORT)
    assert vae.analogy(SHORT[0], z[1], SHORT[2]) == vae.decode((z[0] - z[1] + z[2])[None])[0]
    set_to = z[:1].repeat(2, 0)
    set_to[:, 0, 3] = -1, 2.5
    assert vae.traverse(SHORT[0], 3, [-1, 2.5]) == vae.decode(set_to)


def test_nearest(vae):
    codes = np.zeros((3, 1, 8), np.float32)
    codes[0, 0, :2], codes[1, 0, :2], codes[2, 0, :2] = (0, 2), (9, 0), (1, 1)
    here = np.eye(8, dtype=np.float32)[:1]
    found = vae.nearest(here, ["up", "far", "mid"], 2, codes=codes)
    assert [t for t, _ in found] == ["far", "mid"]
    np.testing.assert_allclose([d for _, d in found], [0, 1 - 0.5**0.5], atol=1e-6)
    found = vae.nearest(here, ["up", "far", "mid"], 9, codes=codes, metric="euclid")
    assert [t for t, _ in found] == ["mid", "up", "far"]
    assert vae.nearest(SHORT[1], SHORT, 1)[0][0] == SHORT[1]


def test_samples(vae):
    # What reaches the decoder is N(0, I): codes are scaled by sqrt(1 + .5 ** 2) there.
    normal = vae.prior().sample(4000)
    np.testing.assert_allclose(normal.std() * 1.25**0.5, 1, atol=0.02)
    assert vae.sample(4, seed=1) == vae.sample(4, seed=1) == vae.decode(vae.prior().sample(4, 1))
    own = GaussianPrior(np.ones(8), np.zeros((8, 8)))
    assert vae.sample(2, prior=own) == vae.decode(np.ones((2, 8)))
    assert vae.sample(1, temperature=0) == vae.decode(np.zeros((1, 8)))
    assert len(vae.sample(2, prior="gmm", decode_temperature=1.0)) == 2


def test_statistics(vae):
    codes = vae.encode(LINES)
    np.testing.assert_allclose(vae.statistics.mean, codes.mean(0), atol=1e-5)
    np.testing.assert_allclose(vae.statistics.std, codes.std(0), atol=1e-5)
    assert vae.statistics.count == len(LINES)


def test_saved_model_is_opened_bit_for_bit(vae, saved, tmp_path):
    names = {p.name for p in saved.iterdir()}
    assert names == {
        *("config.json", "model.safetensors", "tokenizer.json", "statistics.safetensors"),
        *("priors", "README.md"),
    }
    again = flaxae.T5VAE.from_pretrained(saved)
    np.testing.assert_array_equal(again.encode(SHORT), vae.encode(SHORT))
    assert again.reconstruct(SHORT) == vae.reconstruct(SHORT)
    for name in ("mean", "std", "count"):
        have, want = getattr(again.statistics, name), getattr(vae.statistics, name)
        np.testing.assert_array_equal(have, want)
    assert again.sample(2, prior="gaussian") == vae.sample(2, prior="gaussian")
    assert (again.step, again.config) == (7, vae.config)
    again.save_pretrained(tmp_path / "twice", priors=())
    one, two = (load_file(p / "model.safetensors") for p in (saved, tmp_path / "twice"))
    assert one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)
    with pytest.raises(ConfigError, match="came without its training texts"):
        again.prior("gmm")


def test_training_state_is_not_saved(tmp_path):
    queued = make(LatentConfig(dim=4, num_latents=2, memory_tokens=4, queue=16))
    queued.save_pretrained(tmp_path, priors=())
    assert not [k for k in load_file(tmp_path / "model.safetensors") if "queue" in k]
    again = flaxae.T5VAE.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.encode(SHORT), queued.encode(SHORT))
    assert queued.encode(SHORT).shape == (3, 2, 4)


def test_readme_shows_the_evaluation(vae, copy, tmp_path):
    assert "None yet" in (copy / "README.md").read_text()
    row = {"exact_match": 0.5, "intervals": {"exact_match": [0.4, 0.6]}, "lines": 20, "note": "x"}
    report = {"splits": {"dev": row, "test": {"lines": 3}}, "samples": {"validity": 0.25}}
    (copy / "report.json").write_text(json.dumps(report))
    flaxae.T5VAE.from_pretrained(copy).save_pretrained(tmp_path / "new")
    card = (tmp_path / "new" / "README.md").read_text()
    assert "| exact match | 0.500 [0.400, 0.600] | – |" in card and "| lines | 20 | 3 |" in card
    assert "The space of texts: samples valid 0.250.\n" in card
    assert json.loads((tmp_path / "new" / "report.json").read_text())["splits"]["dev"] == row


def write_run(workdir, lines):
    """Write the workdir of a run of one step, without training."""
    path = workdir.with_name("lines.txt")
    path.write_text("\n".join(lines))
    config = tiny_config(
        data__path=str(path), data__max_length=16, data__vocab_size=270, data__cache=""
    )
    config.freeze()
    task = config.task.make(config)
    state = init_model(task, 0, 0)
    write_json(workdir / "config.json", to_json(config))
    task.save_assets(str(workdir))
    saver = Checkpointer(workdir, config.save)
    carry = {"once": state["once"], "stream": {}}
    saver.save(1, {"params": state["params"], "ema": {}, "carry": carry}, {}, wait=True)
    saver.close()


def test_run_is_opened_and_saved(tmp_path):
    lines = [f"{a} {b} {c}" for a in ("x", "y", "if") for b in "abcdef" for c in ("1", "22", "()")]
    (tmp_path / "run").mkdir()
    write_run(tmp_path / "run", lines)
    vae = flaxae.T5VAE.from_pretrained(tmp_path / "run")
    assert vae.step == 1 and vae.statistics.count > 30
    vae.save_pretrained(tmp_path / "saved", priors=("gaussian", "gmm"))
    again = flaxae.T5VAE.from_pretrained(str(tmp_path / "saved"))
    np.testing.assert_array_equal(again.encode(lines), vae.encode(lines))
    assert again.sample(3, prior="gmm") == vae.sample(3, prior="gmm")
    with pytest.raises(ConfigError, match="is a run's workdir"):
        vae.save_pretrained(tmp_path / "run")
    # A prior in the folder priors/ of a run is opened by its name.
    with pytest.raises(ConfigError, match="prior='flow'"):
        vae.prior("flow")
    vae.prior("gmm").save(tmp_path / "run" / "priors" / "flow")
    beside = flaxae.T5VAE.from_pretrained(tmp_path / "run")
    assert beside.sample(3, prior="flow") == vae.sample(3, prior="gmm")
    pairs = [f"{a}{b}{a}{b}" for a in "abcdefghi" for b in "jklmnopq"]
    train(pairs, 300).save(str(tmp_path / "run" / "tokenizer.json"))
    with pytest.raises(ConfigError, match="another model's tokenizer"):
        flaxae.T5VAE.from_pretrained(tmp_path / "run")


def change(folder, edit):
    """Edit the weights of a saved model."""
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def test_wrong_weights_are_named(copy):
    kept = load_file(copy / "model.safetensors")
    name = "memory/kernel"
    for edit, message in (
        (lambda w: w.pop(name), rf"{name} is missing"),
        (lambda w: w.update(more=w[name]), "more is not a weight"),
        (lambda w: w.update({name: w[name][:, :-1].copy()}), rf"{name} is \(8, 63\)"),
    ):
        change(copy, edit)
        with pytest.raises(ConfigError, match=message):
            flaxae.T5VAE.from_pretrained(copy)
        save_file(kept, copy / "model.safetensors")


def test_wrong_directories_raise(saved, copy, tmp_path):
    def opens(folder, message):
        with pytest.raises(ConfigError, match=message):
            flaxae.T5VAE.from_pretrained(folder)

    train(LINES, VOCAB - 3).save(str(copy / "tokenizer.json"))
    opens(copy, "267 tokens")
    pairs = [f"{a}{b}{a}{b}" for a in "abcdefghi" for b in "jklmnopq"]
    for size in (VOCAB + 60, VOCAB):  # also one of the same size
        train(pairs, size).save(str(copy / "tokenizer.json"))
        opens(copy, "another model's tokenizer")
    (copy / "tokenizer.json").unlink()
    opens(copy, "there is no tokenizer")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    opens(copy, "pickle")
    (tmp_path / "empty").mkdir()
    opens(tmp_path / "empty", "model.safetensors")
    opens(tmp_path / "none" / "at" / "all", "no such directory")
    opens(saved / "README.md", "no such directory")
    opens("someone/t5-vae", "no such directory, and downloading it from the Hub failed")
    other = json.loads((saved / "config.json").read_text())
    del other["saved"]
    shutil.copy(saved / "model.safetensors", tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text(json.dumps(other))
    opens(tmp_path / "empty", "not a T5-VAE that save_pretrained wrote")


def test_push_to_hub_without_network_is_one_error(vae):
    with pytest.raises(ConfigError, match="the upload to the Hub failed .*hf upload me/vae"):
        vae.push_to_hub("me/vae")


BAD = {
    "a str": (lambda v: v.encode("import os"), r"give \[text\]"),
    "no str": (lambda v: v.encode(["a", 3]), r"texts\[1\] is a int"),
    "empty": (lambda v: v.encode(["a", ""]), r"texts\[1\] is empty"),
    "surrogate": (lambda v: v.encode(["\ud800"]), "surrogate"),
    "long": (lambda v: v.encode(["a", "z" * 40]), r"texts\[1\] has 41 tokens .* limit is 32"),
    "ids above": (lambda v: v.encode_ids([[3, VOCAB, 1]]), rf"ids\[0, 1\] is {VOCAB}"),
    "ids below": (lambda v: v.encode_ids([[3, -1, 1]]), r"ids\[0, 1\] is -1"),
    "ids of floats": (lambda v: v.encode_ids([[3.0, 1.0]]), "not integers"),
    "ids too long": (lambda v: v.encode_ids(np.ones((1, 33), int)), r"shape \(1, 33\)"),
    "ids of nothing": (lambda v: v.encode_ids([[0, 0]]), "padding"),
    "width": (lambda v: v.decode(np.zeros((2, 1, 9))), r"shape \(2, 1, 9\)"),
    "one code": (lambda v: v.decode(np.zeros((1, 1, 1, 8))), "codes of shape"),
    "no numbers": (lambda v: v.decode(["import os"]), "codes must be numbers"),
    "nan": (lambda v: v.decode(np.full((2, 1, 8), np.nan)), r"codes\[0\] .* not finite"),
    "option": (lambda v: v.decode(np.zeros((1, 8)), tempreture=1.0), "tempreture"),
    "beams": (lambda v: v.decode(np.zeros((1, 8)), beams=0), "beams=0"),
    "half beams": (lambda v: v.decode(np.zeros((1, 8)), beams=2.5), r"beams=2\.5: .* whole number"),
    "half top_k": (lambda v: v.decode(np.zeros((1, 8)), temperature=1.0, top_k=1.5), r"top_k=1\.5"),
    "top_k of text": (lambda v: v.decode(np.zeros((1, 8)), top_k="3"), "top_k='3'"),
    "seed": (lambda v: v.decode(np.zeros((1, 8)), seed=-1), "seed=-1: give a whole number from 0"),
    "large seed": (lambda v: v.decode(np.zeros((1, 8)), seed=2**32), "seed=4294967296"),
    "half seed": (lambda v: v.reconstruct(["a"], seed=0.5), r"seed=0\.5"),
    "a sample's seed": (lambda v: v.sample(2, seed=-1), "seed=-1: give a whole number from 0"),
    "steps": (lambda v: v.interpolate("a", "b", steps=1), "steps=1"),
    "path": (lambda v: v.interpolate("a", "b", path="straight"), "straight"),
    "noise": (lambda v: v.sample(2, noise=-0.5), r"noise=-0\.5: sigma .* at least 0"),
    "path without a flow": (lambda v: v.interpolate("a", "b", path="prior"), "prior='flow'"),
    "lerp of a prior": (lambda v: v.interpolate("a", "b", path="lerp", prior="gaussian"), "lerp"),
    "dim": (lambda v: v.traverse("a", 8, [0.0]), "dim=8"),
    "metric": (lambda v: v.nearest("a", ["b"], metric="l1"), "l1"),
    "corpus": (lambda v: v.nearest("a", ["b"], codes=np.zeros((2, 8))), "2 codes of 1"),
    "prior": (lambda v: v.sample(1, prior="flow"), "prior='flow'"),
    "a prior's width": (
        lambda v: v.sample(1, prior=GaussianPrior(np.ones(3), np.eye(3))),
        "codes have 3",
    ),
    "no prior": (lambda v: v.sample(1, prior=3), "neither a Prior"),
    "temperature": (lambda v: v.sample(1, temperature=-1.0), "temperature=-1.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_error(vae, name):
    call, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        call(vae)


def test_truncation_must_be_requested(vae):
    ids = np.asarray([[*vae.tokenizer.encode(["z" * 40])[0][:31], 1]])
    np.testing.assert_allclose(
        vae.encode(["z" * 40], truncate=True), vae.encode_ids(ids), atol=1e-6
    )


def test_facade_is_lazy():
    code = (
        "import sys, flaxae; before = 'jax' in sys.modules; flaxae.T5VAE; "
        "print(before, [m for m in ('torch', 'tensorflow', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.stdout.strip() == "False []", done.stderr


def test_tokenizer_is_saved_unchanged(saved, vae):
    assert Tokenizer.load(saved / "tokenizer.json").fingerprint == vae.tokenizer.fingerprint
