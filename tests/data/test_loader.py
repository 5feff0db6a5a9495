"""Tests of sources: every example once, constant shapes, pure functions of the step."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from flaxae.config import Config
from flaxae.data import loader
from flaxae.data.config import LongLines, TextDataConfig
from flaxae.data.loader import ArraySource, IndexStream, TextSource
from flaxae.errors import ConfigError
from flaxae.task import Loaded, Source


def _tokens(n=203, longest=20, seed=0):
    """Return n lists with distinct contents: the first two ids are their number."""
    rng = np.random.default_rng(seed)
    return [[3 + i // 100, 3 + i % 100, *([9] * rng.integers(0, longest - 1))] for i in range(n)]


def _source(tokens=None, **changes):
    options = dict(batch_size=16, max_length=24, num_buckets=4, seed=0, train=True)
    return TextSource(_tokens() if tokens is None else tokens, **{**options, **changes})


def _texts(batches):
    """Return the token lists of all rows with weight 1."""
    out = []
    for batch in batches:
        for bucket in batch.values():
            for row, weight in zip(bucket["ids"], bucket["weight"], strict=True):
                if weight:
                    end = int(np.argmax(row == 1))
                    assert row[end] == 1 and not row[end + 1 :].any()
                    out.append(row[:end].tolist())
    return out


def _assert_spec(source, batch):
    spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    assert spec == source.batch_spec


def test_no_texts_and_only_long_texts_are_errors():
    options = dict(batch_size=4, max_length=4, num_buckets=2, seed=0)
    with pytest.raises(ConfigError, match="there are no texts"):
        TextSource([], **options, train=True)
    with pytest.raises(ConfigError, match="there are no texts"):
        TextSource([], **options, train=False, edges=(2, 4))
    for train in (True, False):
        with pytest.raises(ConfigError, match="0 of 3 texts are left .*3 are longer.*truncate"):
            TextSource([[5] * 9] * 3, **options, train=train, edges=None if train else (2, 4))


def test_buckets_are_equal_parts_and_shapes_are_constant():
    source = _source()
    assert isinstance(source, Source) and source.num_batches is None
    assert [name for name in source.batch_spec] == [f"{e:03d}" for e in source.edges]
    assert all(edge % 2 == 0 for edge in source.edges)
    for step in (0, 1, 12, 13, 1000):
        batch = source.batch(step)
        _assert_spec(source, batch)
        assert all(len(b["ids"]) == 4 and b["weight"].all() for b in batch.values())


def test_train_batches_are_a_pure_function_of_the_step():
    one, two = _source(), _source()
    steps = [7, 0, 400, 3]
    for a, b in zip([one.batch(s) for s in steps], [two.batch(s) for s in steps], strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert one.fingerprint == two.fingerprint
    other = _source(seed=1)
    assert other.fingerprint != one.fingerprint
    assert _texts([other.batch(0)]) != _texts([one.batch(0)])


def test_each_epoch_visits_every_example_in_another_order():
    tokens = _tokens(192)  # 48 per bucket: 12 batches of 4
    source = _source(tokens)
    assert source.batches_per_epoch == 12
    epochs = [_texts(source.batch(12 * e + i) for i in range(12)) for e in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2]) == sorted(tokens)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_of_an_epoch_never_changes():
    stream = IndexStream(8, 8, "0/arrays", train=True)
    assert stream[0].tolist() == [3, 6, 4, 2, 5, 0, 1, 7]
    assert stream[1].tolist() == [4, 7, 2, 5, 3, 6, 0, 1]
    assert IndexStream(8, 8, "1/arrays", train=True)[0].tolist() == [4, 1, 0, 6, 7, 3, 5, 2]


def test_the_fingerprint_of_training_has_the_algorithm_of_the_order(monkeypatch):
    def fingerprints():
        array = {"x": np.arange(8)}
        sources = [ArraySource(array, 4, train=train) for train in (True, False)]
        return [s.fingerprint for s in [*sources, _source(), _source(train=False)]]

    before = fingerprints()
    monkeypatch.setattr(loader, "ORDER", "another")
    changed = [a != b for a, b in zip(before, fingerprints(), strict=True)]
    assert changed == [True, False, True, False]


def test_a_run_of_another_order_is_evaluated_but_not_of_other_data(tmp_path):
    source = ArraySource({"x": np.arange(8)}, 4, train=True)
    stored = source.fingerprint.partition("@")[0]  # as before November 2026
    task = SimpleNamespace(data=lambda split: source)
    Loaded(None, Config(), task, 1, tmp_path, {"data": stored}).check_data()
    with pytest.raises(ConfigError, match="which examples were held out"):
        Loaded(None, Config(), task, 1, tmp_path, {"data": "0123456789abcdef"}).check_data()


def test_batches_cross_epochs():
    stream = IndexStream(10, 4, "key", True)
    flat = np.concatenate([stream[i] for i in range(5)])
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert len(IndexStream(3, 8, "key", True)[5]) == 8


@pytest.mark.parametrize("n", [5, 63, 203])
def test_evaluation_has_every_example_once_in_train_shapes(n):
    train, tokens = _source(), _tokens(n, longest=19, seed=1)
    source = _source(tokens, train=False, edges=train.edges)
    assert source.batch_spec == train.batch_spec
    assert source.num_batches == source.batches_per_epoch
    batches = [source.batch(i) for i in range(source.batches_per_epoch)]
    for batch in batches:
        _assert_spec(source, batch)
        assert all(
            (b["ids"] == 1).any(1).all() for b in batch.values()
        )  # rows of padding contain EOS
    assert sorted(_texts(batches)) == sorted(tokens)
    with pytest.raises(IndexError):
        source.batch(source.batches_per_epoch)


def test_lines_go_to_the_smallest_bucket_that_fits():
    source = _source([[5] * n for n in (3, 4, 7)], train=False, edges=(4, 8, 12, 24))
    batch = source.batch(0)
    assert [int(b["weight"].sum()) for b in batch.values()] == [1, 2, 0, 0]


@pytest.mark.parametrize("choice", list(LongLines))
def test_long_lines_are_counted(choice):
    tokens = [[5] * 3] * 30 + [[6] * 40] * 2 + [[7] * 23]
    source = _source(tokens, train=False, long_lines=choice)
    rows = _texts(source.batch(i) for i in range(source.batches_per_epoch))
    if choice is LongLines.SKIP:
        assert (source.skipped, source.truncated, len(rows)) == (2, 0, 31)
        assert source.kept.tolist() == [*range(30), 32]
    else:
        assert (source.skipped, source.truncated, len(rows)) == (0, 2, 33)
        assert sorted(len(r) for r in rows)[-3:] == [23, 23, 23]
    assert len(source) == len(rows)


def test_buckets_of_one_length_are_one_entry():
    source = _source([[5, 6, 7]] * 80 + [[5] * 20] * 20)
    assert {k: v["weight"].shape for k, v in source.batch_spec.items()} == {
        "004": (12,),
        "022": (4,),
    }
    assert source.edges == (4, 4, 4, 22)
    same = _source([[5, 6, 7]], train=False, edges=source.edges)
    assert same.batch_spec == source.batch_spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size=18), "data.batch_size=18 is not divisible by data.num_buckets=4"),
        (dict(tokens=[[5] * 99] * 9), "9 are longer than data.max_length=24"),
        (dict(tokens=[]), "there are no texts"),
        (dict(edges=(4, 8)), "4 lengths are needed"),
    ],
)
def test_sizes_that_do_not_fit_are_errors(changes, message):
    with pytest.raises(ConfigError, match=message):
        _source(**changes)


def test_array_source_batches_every_row():
    arrays = {"x": np.arange(10.0, dtype=np.float32).reshape(10, 1), "y": {"n": np.arange(10)}}
    train = ArraySource(arrays, 4, seed=0)
    assert isinstance(train, Source)
    _assert_spec(train, train.batch(0))
    np.testing.assert_array_equal(train.batch(3)["x"][:, 0], train.batch(3)["y"]["n"])
    seen = np.concatenate([train.batch(i)["y"]["n"] for i in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    test = ArraySource(arrays, 4, train=False)
    assert test.num_batches == 3
    assert sum(test.batch(i)["weight"].sum() for i in range(3)) == 10
    _assert_spec(test, test.batch(2))
    assert test.fingerprint != train.fingerprint
    with pytest.raises(ConfigError, match="same number of rows"):
        ArraySource({"x": np.zeros(3), "y": np.zeros(4)}, 2)


def test_the_fingerprint_of_arrays_changes_with_each_argument():
    x = np.arange(10.0, dtype=np.float32)
    sources = [
        ArraySource({"x": array, **more}, rows, seed, train)
        for array, more, rows, seed, train in (
            (x, {}, 4, 0, True),
            (x, {}, 4, 1, True),
            (x, {}, 5, 0, True),
            (x, {}, 4, 0, False),
            (x + (x == 9), {}, 4, 0, True),
            (x.view(np.int32), {}, 4, 0, True),
            (x[:, None], {}, 4, 0, True),
            (x, {"weight": x}, 4, 0, True),
        )
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert ArraySource({"x": x}, 4, 0).fingerprint == sources[0].fingerprint
    assert not np.array_equal(sources[0].batch(0)["x"], sources[1].batch(0)["x"])


def test_fixed_lengths_have_rows_by_their_numbers_of_texts():
    tokens = [[5] * 6] * 60 + [[6] * 14] * 30 + [[7] * 20] * 2
    source = _source(tokens, num_buckets=8, bucket_edges=(8, 16, 24))
    assert {k: len(v["weight"]) for k, v in source.batch(0).items()} == {
        "008": 10,
        "016": 4,
        "024": 2,
    }
    rows = _texts(source.batch(i) for i in range(source.batches_per_epoch))
    assert {len(r) for r in rows} == {6, 14, 20}
    dev = _source([[5] * 15], train=False, num_buckets=8, edges=source.edges)
    assert dev.batch_spec == source.batch_spec
    no_middle = _source(tokens[:60] + tokens[-2:], num_buckets=8, bucket_edges=(8, 16, 24))
    assert set(no_middle.batch_spec) == {"008", "024"}


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ((8, 32), "end with data.max_length=24"),
        ((16, 8, 24), "ascending"),
        ((8.0, 24), "is a float"),
        ((4, 8, 12, 16, 24), "more than data.num_buckets=4"),
    ],
)
def test_bad_bucket_edges_are_errors(edges, message):
    with pytest.raises(ConfigError, match=message):
        TextDataConfig(max_length=24, num_buckets=4, bucket_edges=edges).validate()
