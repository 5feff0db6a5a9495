"""Streams of hidden states: pure functions of (seed, step), with masks, epochs and a disk cache."""

import os
import signal

import numpy as np
import pytest

from flaxae.activations import cache as cache_lib
from flaxae.activations import stream as stream_lib
from flaxae.activations.cache import StateCache, Tap
from flaxae.activations.stream import StateReader, StateStream, StreamSizes, fill, used_states
from flaxae.activations.token_rows import token_rows
from flaxae.errors import ConfigError
from flaxae.machine.preemption import Preemption, Stopped
from tests.tiny.language_models import tiny

SIZES = StreamSizes(batch_size=8, block_rows=4, model_rows=2)
TEXTS = [[3 + (i * 7 + j) % 40 for j in range(5 + i % 4)] for i in range(10)]
TAPS = (Tap("mlp_in", 1), Tap("mlp_out", 1))


@pytest.fixture(scope="module")
def reader():
    return StateReader(tiny("llama"), TAPS, 2)


@pytest.fixture(scope="module")
def rows():
    return token_rows(TEXTS, 7, 2, special=[5], skip=1)


def made(reader, rows, *, seed=0, train=True, sizes=SIZES, target=TAPS[1], cache=""):
    inputs = [t for t in reader.taps if t != target]
    return StateStream(
        reader,
        rows,
        sizes,
        inputs=inputs,
        target=target,
        model_fingerprint="m",
        seed=seed,
        train=train,
        cache=cache,
    )


def test_rows_have_no_padding_but_at_the_end_and_leave_out_special_tokens(rows):
    flat = [i for text in TEXTS for i in (*text, 2)]
    assert rows.ids.shape == (11, 7) and rows.mask.sum() == len(flat)
    np.testing.assert_array_equal(rows.ids[rows.mask > 0], flat)
    assert not rows.use[:, 0].any() and not rows.use[np.isin(rows.ids, [2, 5])].any()
    assert not rows.use[rows.mask == 0].any()
    assert rows.use.sum() == sum(i not in (2, 5) for n, i in enumerate(flat) if n % 7)
    with pytest.raises(ConfigError, match="no tokens to read"):
        token_rows([], 7, 2)


def test_rows_of_one_text_each():
    texts = [[3, 4], [5, 6, 7, 8, 9], [3, 4, 6]]
    rows = token_rows(texts, 4, 2, special=[0], packed=False)
    np.testing.assert_array_equal(
        rows.ids, [[3, 4, 2, 2], [5, 6, 7, 8], [9, 2, 2, 2], [3, 4, 6, 2]]
    )
    np.testing.assert_array_equal(rows.mask.sum(1), [3, 4, 2, 4])
    np.testing.assert_array_equal(rows.use.sum(1), [2, 4, 1, 3])


def direct(reader, rows):
    """Return the used states of all rows, in order, and the model's own states as a check."""
    short = [np.concatenate([x, x[:1]]) for x in (rows.ids, rows.mask)]
    states = [x[:-1][rows.use] for x in reader(*short)]
    return np.concatenate(states, axis=1)


def test_an_evaluation_reads_each_used_state_once(reader, rows):
    stream = made(reader, rows, train=False)
    batches = [stream.batch(i) for i in range(stream.num_batches)]
    kept = [np.concatenate([b["x"], b["y"]], 1)[b["weight"] > 0] for b in batches]
    np.testing.assert_allclose(np.concatenate(kept), direct(reader, rows), atol=1e-6)
    assert {n: x.shape for n, x in batches[0].items()} == {
        n: s.shape for n, s in stream.batch_spec.items()
    }
    with pytest.raises(IndexError):
        stream.batch(stream.num_batches)


def test_batches_are_pure_functions_of_seed_and_step(reader, rows):
    stream, again = made(reader, rows), made(reader, rows)
    assert stream.fingerprint == again.fingerprint and stream.num_batches is None
    first = [stream.batch(i) for i in range(7)]
    for step in (5, 0, 6, 3):  # as after a resume, in any order
        for name, x in first[step].items():
            np.testing.assert_array_equal(x, again.batch(step)[name])
    other = made(reader, rows, seed=1)
    assert other.fingerprint != stream.fingerprint
    assert not np.array_equal(other.batch(0)["x"], first[0]["x"])
    # Each state belongs to its target, and a block is shuffled, not in order.
    known = direct(reader, rows)
    found = np.concatenate([first[0]["x"], first[0]["y"]], 1)
    nearest = np.square(found[:, None] - known[None]).sum(-1).argmin(1)
    np.testing.assert_allclose(found, known[nearest], atol=1e-6)
    assert len(set(nearest)) == 8 and (np.diff(nearest) < 0).any()


def test_several_inputs_have_an_axis_of_their_own(reader, rows):
    stream = made(reader, rows, target=None)
    assert stream.batch(0)["x"].shape == (8, 2, 16) and "y" not in stream.batch_spec


def test_a_cache_gives_the_same_batches_in_float16(reader, rows, tmp_path, monkeypatch):
    plain, stream = made(reader, rows), made(reader, rows, cache=tmp_path)
    assert stream.fingerprint != plain.fingerprint
    for step in (7, 2, 0):
        for name, x in plain.batch(step).items():
            found = stream.batch(step)[name]
            np.testing.assert_allclose(found, x.astype(np.float16), rtol=2e-3, atol=1e-6)
    # Another seed, and an evaluation, read the same files.
    monkeypatch.setattr(
        stream_lib, "used_states", lambda *_: pytest.fail("a cached state is computed")
    )
    first, again = stream.batch(7), made(reader, rows, cache=tmp_path).batch(7)
    np.testing.assert_array_equal(first["x"], again["x"])
    made(reader, rows, seed=1, cache=tmp_path).batch(3)
    made(reader, rows, train=False, cache=tmp_path).batch(0)


def test_a_signal_stops_the_first_pass_after_a_shard(reader, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cache_lib, "SHARD_ROWS", 2)
    stream, whole = (made(reader, rows, cache=tmp_path / x) for x in ("stopped", "whole"))
    compute = stream_lib.used_states
    with Preemption(), pytest.raises(Stopped, match="sigterm while") as found:

        def signalled(*args):
            os.kill(os.getpid(), signal.SIGTERM)
            return compute(*args)

        monkeypatch.setattr(stream_lib, "used_states", signalled)
        stream.batch(0)
    assert found.value.exit_code == 75
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 1 and shown[0].startswith("states of train: shard 1 of ")
    assert len(list((tmp_path / "stopped").glob("*/*.safetensors"))) == 2  # a shard of two hooks
    monkeypatch.setattr(stream_lib, "used_states", compute)
    again = made(reader, rows, cache=tmp_path / "stopped")
    np.testing.assert_array_equal(again.batch(0)["x"], whole.batch(0)["x"])


def test_one_pass_fills_a_cache_for_many_hooks(reader, rows, tmp_path):
    cache = StateCache(tmp_path, "m", rows, shard_rows=4)
    assert cache.num_shards == 3

    def stop(number):
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(cache, reader, after=stop)
    kept = {path: path.read_bytes() for path in tmp_path.glob("*/*.safetensors")}
    assert len(kept) == 4  # two shards of two hooks
    cache.path(TAPS[0], 1).unlink()  # killed between the files of a shard
    calls = []
    assert fill(cache, reader, after=calls.append) == 2 and calls == [1, 2]
    assert fill(cache, reader) == 0
    files = sorted(tmp_path.glob("*/*"))
    assert len(files) == 6 and all(path.read_bytes() == x for path, x in kept.items())
    order = np.asarray([9, 0, 3, 10, 3])
    want = used_states(reader, rows, order)
    for tap, x in zip(TAPS, want, strict=True):
        np.testing.assert_allclose(cache.read(tap, order), x, rtol=2e-3, atol=1e-6)
    # More text adds files; a row that both have is computed once.
    more = token_rows([*TEXTS, [7] * 30], 7, 2, special=[5], skip=1)
    longer = StateCache(tmp_path, "m", more, shard_rows=4)
    assert fill(longer, reader) == longer.num_shards - 2
    # Another model's states are others.
    assert not StateCache(tmp_path, "other", rows, shard_rows=4).has(TAPS[0], 0)


def test_a_broken_file_of_a_cache_is_an_error(reader, rows, tmp_path):
    cache = StateCache(tmp_path, "m", rows)
    fill(cache, reader)
    path = cache.path(TAPS[0], 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(ConfigError, match="not a complete file"):
        cache.read(TAPS[0], np.arange(2))
    path.write_bytes(cache.path(TAPS[1], 0).read_bytes())
    with pytest.raises(ConfigError, match="not the states that its name says"):
        fill(cache, reader)
    with pytest.raises(ConfigError, match="resid_out of layer 0 is beyond float16"):
        cache.write(Tap("resid_out", 0), 0, np.full((1, 1), 7e4, np.float32))


def test_mistakes_raise(reader, rows):
    with pytest.raises(ConfigError, match="fewer than a batch of 999"):
        made(reader, rows, sizes=StreamSizes(999, 4, 2))
    with pytest.raises(ConfigError, match="not a multiple of rows per pass"):
        made(reader, rows, sizes=StreamSizes(8, 3, 2))
    with pytest.raises(ConfigError, match="hook 'typo' is unknown"):
        StateReader(tiny("llama"), [Tap("typo", 0)], 2)
    with pytest.raises(ConfigError, match="layer 9: the model has 3"):
        StateReader(tiny("llama"), [Tap("mlp_in", 9)], 2)
