"""Parts that all byte networks share: streams, one pass over a split, resume, lanes, `ByteLM`."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxae
from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    MeshConfig,
    OptimConfig,
    SaveConfig,
    copy_config,
)
from flaxae.data import byte_corpus
from flaxae.errors import ConfigError
from flaxae.models.byte_lm import evaluation
from flaxae.models.byte_lm.streams import (
    MIN_PART,
    WARM_UP,
    ByteDataConfig,
    HeldOutStreams,
    TrainStreams,
    one_pass,
)
from flaxae.training.load import load
from tests.models.byte_lm.toy import ToyConfig

UPDATE, ROWS = 16, 8


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of words in a Markov chain: 120 kB for training, 7 kB per other split."""
    rng = np.random.default_rng(0)
    words = [b"alpha ", b"beta ", b"gamma\n", b"delta "]
    chain = np.cumsum(rng.integers(1, 3, 22_000)) % 4
    path = tmp_path_factory.mktemp("bytes") / "words.txt"
    path.write_bytes(b"".join(words[i] for i in chain))
    return path


def toy_config(path: Path, **overrides: Any) -> Config:
    """Return the config of a run of 48 steps, three calls of 16."""
    config = Config(
        task=ToyConfig(update=UPDATE, eval_streams=2),
        data=ByteDataConfig(path=str(path), batch_size=ROWS, cache=str(path.parent / "cache")),
        optim=OptimConfig(lr=1e-2),
        log=LogConfig(every=16, tensorboard=False, progress=False),
        eval=EvalConfig(num_samples=0),
        save=SaveConfig(every=16),
        mesh=MeshConfig(fsdp=1),
        steps=48,
        steps_per_call=16,
    )
    return copy_config(config, overrides)


@pytest.fixture(scope="session")
def run(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    workdir = tmp_path_factory.mktemp("runs") / "toy"
    return flaxae.run(toy_config(text_file), workdir), workdir


@pytest.fixture(scope="session")
def model(run: Any) -> Any:
    return flaxae.ByteLM.from_pretrained(run[1], ToyConfig)


def test_train_streams_are_contiguous_and_wrap_around(text_file: Path):
    corpus = byte_corpus.read(str(text_file))
    data = corpus.splits["train"]
    streams = TrainStreams(corpus, ROWS, UPDATE, seed=3)
    per_stream = len(data) // (ROWS * UPDATE)
    for step in (0, 1, per_stream, 5 * per_stream):  # the last one is beyond the end
        one, two = streams.batch(step), streams.batch(step + 1)
        np.testing.assert_array_equal(one["x"][:, 1:], one["y"][:, :-1])
        np.testing.assert_array_equal(one["y"][:, -1], two["x"][:, 0])
        assert one["weight"].all()
    starts = [bytes(row) for row in streams.batch(0)["x"]]
    whole = bytes(data) + bytes(data[:UPDATE])
    assert all(start in whole for start in starts)
    assert TrainStreams(corpus, ROWS, UPDATE, 4).fingerprint != streams.fingerprint


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("size", [3000, 20_000])
def test_a_pass_predicts_each_byte_once_from_those_before_it(
    text_file: Path, parts: int, size: int
):
    corpus = byte_corpus.read(str(text_file))
    data = corpus.splits["train"][:size]
    corpus = dataclasses.replace(corpus, splits={"dev": data})
    streams = HeldOutStreams(corpus, "dev", parts, 128)
    batches = [streams.batch(i) for i in range(streams.num_batches)]
    with pytest.raises(IndexError):
        streams.batch(streams.num_batches)
    x, y, w = (np.concatenate([b[k] for b in batches], 1) for k in ("x", "y", "weight"))
    assert w.sum() == size
    np.testing.assert_array_equal(
        np.concatenate([row[c > 0] for row, c in zip(y, w, strict=True)]), data
    )
    np.testing.assert_array_equal(x[:, 1:][w[:, 1:] > 0], y[:, :-1][w[:, 1:] > 0])
    assert x[0, 0] == 0 and w[0, 0] == 1  # the first byte is predicted from a separator
    for row in w[1 : max(1, min(parts, size // MIN_PART))]:
        assert row[:WARM_UP].sum() == 0 and row[WARM_UP] == 1


def test_one_part_equals_one_pass(text_file: Path):
    corpus = byte_corpus.read(str(text_file))
    streams = HeldOutStreams(corpus, "test", 1, 100)
    ours = one_pass(corpus.splits["test"], 100)
    assert len(ours) == streams.num_batches
    for i, batch in enumerate(ours):
        theirs = streams.batch(i)
        np.testing.assert_array_equal(batch["weight"], theirs["weight"])
        counted = batch["weight"] > 0
        np.testing.assert_array_equal(batch["x"][counted], theirs["x"][counted])
        np.testing.assert_array_equal(batch["y"][counted], theirs["y"][counted])


def test_a_resumed_run_continues_in_the_middle_of_its_streams(
    run: Any, text_file: Path, tmp_path: Path
):
    config = toy_config(text_file)
    flaxae.run(copy_config(config, {"steps": 16, "optim.decay_steps": 48}), tmp_path / "w")
    again = flaxae.run(copy_config(config, {"optim.decay_steps": 48}), tmp_path / "w")
    jax.tree.map(np.testing.assert_array_equal, again.state, run[0].state)
    assert np.abs(np.asarray(again.state["carry"]["stream"]["state"])).max() > 0


def test_one_device_equals_eight(run: Any, text_file: Path, tmp_path: Path):
    eight = flaxae.run(toy_config(text_file, **{"mesh.fsdp": 8}), tmp_path)

    def check(mine: Any, theirs: Any) -> None:
        np.testing.assert_allclose(mine, theirs, atol=1e-5)

    jax.tree.map(check, eight.state["params"], run[0].state["params"])
    bits = "dev/bits_per_byte"
    assert eight.metrics[bits] == pytest.approx(run[0].metrics[bits], abs=1e-5)


def test_lanes_equal_single_runs(run: Any, text_file: Path, tmp_path: Path):
    lanes = flaxae.run(toy_config(text_file), tmp_path, lanes=[{"task.gain": 0.5}, {}])
    single = run[0].state["params"]

    def check(mine: Any, theirs: Any) -> None:
        np.testing.assert_allclose(np.asarray(mine)[1], theirs, atol=1e-5)

    jax.tree.map(check, lanes.state["params"], single)
    assert lanes.metrics["dev/bits_per_byte"][0] != lanes.metrics["dev/bits_per_byte"][1]


def test_the_network_has_learned_and_the_evaluation_equals_one_pass(
    run: Any, model: Any, text_file: Path
):
    corpus = byte_corpus.read(str(text_file))
    found = model.bits_per_byte(bytes(corpus.splits["dev"]))
    assert found < 4.5
    assert run[0].metrics["dev/bits_per_byte"] == pytest.approx(found, abs=1e-5)
    assert run[0].metrics["dev/loss"] == pytest.approx(found * np.log(2), abs=1e-5)


def test_reading_in_parts_equals_one_pass(model: Any):
    text = b"alpha gamma\nbeta delta alpha beta "
    whole = model.stream().push(text)
    for size in (1, 16):
        stream = model.stream()
        for at in range(0, len(text), size):
            stream.push(text[at : at + size])
        np.testing.assert_allclose(stream.log_probs, whole.log_probs, atol=1e-5)
    assert np.exp(whole.log_probs).sum() == pytest.approx(1, abs=1e-5)
    # The sum of the code lengths of single bytes is that of the text.
    stream, total = model.stream(), 0.0
    for byte in text:
        total -= float(stream.log_probs[byte]) / np.log(2)
        stream.push(bytes([byte]))
    assert total / len(text) == pytest.approx(model.bits_per_byte(text), abs=1e-5)


def test_a_stream_continues_from_a_saved_state(model: Any):
    stream = model.stream().push("alpha ")
    other = model.stream().restore(stream.state)
    np.testing.assert_array_equal(other.log_probs, stream.log_probs)
    np.testing.assert_array_equal(other.push("be").log_probs, stream.push("be").log_probs)
    with pytest.raises(ConfigError, match=r"another model: state is \(1, 3\), not \(1, 16\)"):
        other.restore({**stream.state, "state": np.zeros((1, 3))})
    with pytest.raises(ConfigError, match="another model: state, model, extra"):
        other.restore({"log_probs": stream.log_probs, "extra": np.zeros(1)})
    with pytest.raises(ConfigError, match="continue it with the model that made it"):
        other.restore({**stream.state, "model": stream.state["model"][::-1]})


def test_generation_is_reproducible_and_greedy_at_temperature_0(model: Any):
    made = model.generate("alpha ", temperature=0.5, count=20)
    assert made == model.generate("alpha ", temperature=0.5, count=20) and len(made) == 20
    greedy = model.generate("alpha ", temperature=0, count=3)
    stream = model.stream().push("alpha ")
    for letter in greedy:
        assert stream.log_probs.argmax() == ord(letter)
        stream.push(letter)


def test_a_saved_model_is_the_same(model: Any, run: Any, tmp_path: Path):
    model.save_pretrained(tmp_path / "m")
    again = flaxae.ByteLM.from_pretrained(tmp_path / "m", ToyConfig)
    assert again.bits_per_byte("alpha beta") == model.bits_per_byte("alpha beta")
    with pytest.raises(ConfigError, match="is a run's workdir"):
        model.save_pretrained(run[1])
    with pytest.raises(ConfigError, match="neither model.safetensors nor a run"):
        flaxae.ByteLM.from_pretrained(tmp_path)


def test_the_end_of_a_training_shows_texts_and_the_table(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluation, "SAMPLE_BYTES", 20)
    loaded = load(run[1], ToyConfig)
    ctx = flaxae.task.Context(jax.random.key(0), jnp.int32(48), hparams={"gain": jnp.float32(1)})
    monkeypatch.setattr(
        evaluation.baselines,
        "measure",
        lambda *a, **k: iter([evaluation.baselines.Row("x", False, 9, 1)]),
    )
    made = loaded.task.sample(loaded.model, ctx, 2)
    assert len(made["texts"]) == 2
    lines = made["bits per byte of the test split"]
    assert lines[2].startswith("| x |") and lines[3].startswith("| **Toy** | yes |")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"ab", "too few for three splits"),
        (b"a" * 50, r"has 45 bytes, fewer than data.batch_size \* task.update"),
    ],
)
def test_bad_data(tmp_path: Path, content: bytes | None, match: str):
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=match):
        flaxae.run(toy_config(path), tmp_path / "w")


def test_a_folder_without_text(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.bin").write_bytes(b"\0\1\2")
    with pytest.raises(ConfigError, match="contains no text"):
        flaxae.run(toy_config(tmp_path / "data"), tmp_path / "w")


def test_other_data_than_those_of_the_start_are_refused(text_file: Path, tmp_path: Path):
    path = tmp_path / "t.txt"
    path.write_bytes(text_file.read_bytes())
    config = copy_config(toy_config(path), {"steps": 16, "optim.decay_steps": 48})
    flaxae.run(config, tmp_path / "w")
    path.write_bytes(text_file.read_bytes() + b"more")
    with pytest.raises(ConfigError, match="the data changed"):
        flaxae.run(copy_config(config, {"steps": 32}), tmp_path / "w")
    # The model can still be used.
    assert flaxae.ByteLM.from_pretrained(tmp_path / "w", ToyConfig).bits_per_byte("alpha") > 0


def test_bad_requests(model: Any, tmp_path: Path):
    with pytest.raises(ConfigError, match="the text is empty"):
        model.bits_per_byte("")
    with pytest.raises(ConfigError, match="cannot be read"):
        model.bits_per_byte(tmp_path / "missing")
    (tmp_path / "a.txt").write_text("alpha beta")
    with pytest.raises(ConfigError, match=r"names a file: give pathlib.Path\("):
        model.bits_per_byte(str(tmp_path / "a.txt"))
    assert model.bits_per_byte(tmp_path / "a.txt") == model.bits_per_byte("alpha beta")
    with pytest.raises(ConfigError, match="temperature=-1"):
        model.generate(temperature=-1)
    with pytest.raises(ConfigError, match="count=0"):
        model.generate(count=0)
