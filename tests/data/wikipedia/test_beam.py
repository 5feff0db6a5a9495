"""Apache Beam writes the bytes that `datasets` writes.

It needs a separate environment, which `make test-beam` makes: Beam requires older versions of
protobuf, pyarrow and pillow than constraints.txt pins.
"""

import bz2
from pathlib import Path

import datasets
import pytest

from flaxae.data.wikipedia import beam
from flaxae.data.wikipedia.build import build
from flaxae.data.wikipedia.shards import Plan
from flaxae.data.wikipedia.sources import Dump, Hub
from tests.data.wikipedia.dump import dump

pytestmark = pytest.mark.beam


def _bytes(folder):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


@pytest.mark.parametrize("kind", ["dump", "hub"])
def test_beam_writes_the_bytes_of_datasets(tmp_path, kind):
    pytest.importorskip("apache_beam", reason="needs apache-beam: make test-beam")
    if kind == "hub":
        rows = [{"title": f"T{i}", "text": f"This is a sentence {i}."} for i in range(9)]
        datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
        source = Hub(str(tmp_path / "saved"))
    else:
        path = tmp_path / "pages-articles.xml.bz2"
        path.write_bytes(bz2.compress(dump().encode()))
        source = Dump((str(path),))
    ours = Plan(str(tmp_path / "ours"), source, num_shards=20)  # some have no article
    theirs = Plan(str(tmp_path / "theirs"), source, num_shards=20)
    build(ours, 1)
    beam.build(theirs, ["--runner=DirectRunner"])
    assert _bytes(ours.out) == _bytes(theirs.out)
    (Path(theirs.out) / theirs.name(2)).unlink()
    assert beam.build(theirs, ["--runner=DirectRunner"])["complete"]
    assert _bytes(ours.out) == _bytes(theirs.out)
