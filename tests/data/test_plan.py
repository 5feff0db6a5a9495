"""Tests of batch shapes that are known before texts are read."""

from flaxae.data.config import TextDataConfig
from flaxae.data.loader import TextSource
from flaxae.data.plan import planned_spec


def test_one_bucket_has_the_loaders_shapes():
    config = TextDataConfig(batch_size=6, max_length=8, num_buckets=1)
    source = TextSource(
        [[5] * 7] * 9, batch_size=6, max_length=8, num_buckets=1, seed=0, train=True
    )
    assert planned_spec(config) == source.batch_spec


def test_fixed_lengths_have_one_part_and_the_longest_the_rest():
    config = TextDataConfig(batch_size=8, max_length=16, num_buckets=4, bucket_edges=(8, 16))
    spec = planned_spec(config)
    assert {k: v["ids"].shape for k, v in spec.items()} == {"008": (2, 8), "016": (6, 16)}
    assert spec["016"]["weight"].shape == (6,)


def test_lengths_that_depend_on_texts_are_not_planned():
    assert planned_spec(TextDataConfig(num_buckets=4)) == {}
