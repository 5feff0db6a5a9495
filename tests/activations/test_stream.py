"""Streams of hidden states: pure functions of (seed, step), with masks, epochs and a disk cache."""

import numpy as np
import pytest

from flaxae.activations.stream import (
    StateReader,
    StateStream,
    StreamSizes,
    Tap,
    fill,
)
from flaxae.activations.token_rows import token_rows
from flaxae.errors import ConfigError
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


def test_a_cache_gives_the_same_states_and_is_resumable(reader, rows, tmp_path, monkeypatch):
    stream = made(reader, rows, cache=tmp_path)
    first = [stream.batch(i) for i in range(8)]
    files = sorted(tmp_path.glob("*.safetensors"))
    assert 0 < len(files) <= stream.num_blocks == 3
    files[0].unlink()
    fresh = made(reader, rows, cache=tmp_path)
    assert fill(fresh) == 1 + stream.num_blocks - len(files) and fill(fresh) == 0
    monkeypatch.setattr(fresh, "_computed", lambda _: pytest.fail("a cached block is computed"))
    for step in (7, 2, 0):
        np.testing.assert_array_equal(fresh.batch(step)["x"], first[step]["x"])
    known = {row.tobytes() for row in direct(reader, rows).astype(np.float16)[:, :16]}
    assert all(row.tobytes() in known for row in first[0]["x"].astype(np.float16))
    # Another seed has the same blocks, in another order: with both, no row is there twice.
    files[1].unlink()
    other = made(reader, rows, seed=1, cache=tmp_path)
    states = [other._cache.read(i) or other._computed(other._fixed[i]) for i in range(3)]
    all_states = np.concatenate([block[0] for block in states]).astype(np.float16)
    want = direct(reader, rows)[:, :16].astype(np.float16)
    np.testing.assert_allclose(np.sort(all_states[:, 0]), np.sort(want[:, 0]), atol=1e-3)
    # Another text is an error; so is a broken file.
    other = made(reader, token_rows(TEXTS[::-1], 7, 2), cache=tmp_path)
    with pytest.raises(ConfigError, match="states of another model, hook, text or block size"):
        [other.batch(i) for i in range(8)]
    with pytest.raises(ConfigError, match="states of another model, hook, text or block size"):
        fill(other)
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ConfigError, match="not a complete file"):
        made(reader, rows, cache=tmp_path).batch(0)


def test_mistakes_raise(reader, rows):
    with pytest.raises(ConfigError, match="fewer than a batch of 999"):
        made(reader, rows, sizes=StreamSizes(999, 4, 2))
    with pytest.raises(ConfigError, match="not a multiple of rows per pass"):
        made(reader, rows, sizes=StreamSizes(8, 3, 2))
    with pytest.raises(ConfigError, match="hook 'typo' is unknown"):
        StateReader(tiny("llama"), [Tap("typo", 0)], 2)
    with pytest.raises(ConfigError, match="layer 9: the model has 3"):
        StateReader(tiny("llama"), [Tap("mlp_in", 9)], 2)
    with pytest.raises(ConfigError, match="has no cache"):
        fill(made(reader, rows))
