"""Tests of the table of baselines."""

import dataclasses
import json
import platform

import numpy as np
import pytest

from flaxae.data import byte_corpus
from flaxae.errors import ConfigError
from flaxae.measures import compressors
from flaxae.measures.ngram import NGram
from flaxae.models.byte_lm import baselines
from flaxae.models.byte_lm.baselines import main, measure, table


@pytest.fixture
def path(tmp_path):
    words = np.random.default_rng(0).choice(["one", "three", "seven", "twelve"], 2000)
    (tmp_path / "text").write_text(" ".join(words))
    return tmp_path / "text"


@pytest.fixture(autouse=True)
def only_python(monkeypatch):
    """Leave out the compressors of other packages, also where these are installed."""
    own = (compressors.GZIP, compressors.BZIP2, compressors.XZ)
    absent = dataclasses.replace(compressors.PPMD, package="nothing_such")
    monkeypatch.setattr(baselines, "COMPRESSORS", (*own, absent))
    monkeypatch.setattr(baselines, "PRIMED", (compressors.XZ, absent))


def test_rows_are_bits_per_byte_of_the_split(path):
    corpus = byte_corpus.read(str(path))
    rows = {(row.name, row.reads_train): row for row in measure(corpus, "dev", orders=3)}
    assert len(rows) == 3 + 1 + 3
    text, train = (corpus.splits[x].tobytes() for x in ("dev", "train"))
    assert rows["gzip -9", False].bits_per_byte == pytest.approx(
        compressors.GZIP.bits_per_byte(text), abs=1e-6
    )
    primed = rows["xz -9e", True].bits_per_byte
    assert primed == pytest.approx(compressors.XZ.bits_per_byte(text, train), abs=1e-6)
    assert primed < rows["xz -9e", False].bits_per_byte
    model = NGram([list(train)], 256, 2, modified=True, ends=False)
    nats, count = model.score([list(text)])[0]
    found = rows["Kneser-Ney, 1 context byte", True].bits_per_byte
    assert found == pytest.approx(nats / count / np.log(2), abs=1e-6)


def test_command_prints_totals_and_table_and_continues_its_record(path, tmp_path, capsys):
    record = tmp_path / "out" / "rows.json"
    argv = ["baselines", f"--path={path}", "--orders=2", f"--json={record}"]
    assert main(argv) == 0
    first = capsys.readouterr().out
    corpus = byte_corpus.read(str(path))
    assert corpus.manifest.summary() in first and f"{len(corpus.splits['test']):,} bytes" in first
    assert "PPMd variant H, order 32 is left out, not installed: pip install nothing_such" in first
    data = json.loads(record.read_text())
    assert data["fingerprint"] == corpus.manifest.fingerprint and len(data["rows"]) == 6
    assert table([baselines.Row(**row) for row in data["rows"]]) in first
    data["rows"][0]["bits_per_byte"] = 7.5
    record.write_text(json.dumps(data))
    main(argv)
    assert "| gzip -9 | no | 7.500 |" in capsys.readouterr().out
    main([*argv[:2], "--orders=3", argv[3]])
    assert "| Kneser-Ney, 2 context bytes | yes |" in capsys.readouterr().out


def test_record_of_other_data_or_another_split_is_an_error(path, tmp_path):
    record = tmp_path / "rows.json"
    corpus = byte_corpus.read(str(path))
    list(measure(corpus, "test", 1, record))
    with pytest.raises(ConfigError, match="of the test split of data .* not of dev"):
        list(measure(corpus, "dev", 1, record))
    path.write_text("other " * 100)
    with pytest.raises(ConfigError, match="name another file, or delete it"):
        list(measure(byte_corpus.read(str(path)), "test", 1, record))
    record.write_text("{}")
    with pytest.raises(ConfigError, match="not a file of baselines"):
        list(measure(corpus, "test", 1, record))


@pytest.mark.slow
@pytest.mark.skipif(platform.python_version() != "3.11.7", reason="numbers of Python 3.11.7")
def test_numbers_of_the_library():
    """Compare with numbers that were measured by other code."""
    corpus = byte_corpus.read()
    found = {(r.name, r.reads_train): r.bits_per_byte for r in measure(corpus)}
    orders = [found[f"Kneser-Ney, {n} context byte{'s' * (n != 1)}", True] for n in range(7)]
    np.testing.assert_allclose(orders, [4.52, 3.53, 2.69, 2.15, 1.94, 1.86, 1.80], atol=0.0051)
    alone = [found[name, False] for name in ("gzip -9", "bzip2 -9", "xz -9e")]
    np.testing.assert_allclose(alone, [1.968, 1.674, 1.684], atol=0.002)
    assert found["xz -9e", True] == pytest.approx(1.460, abs=0.002)
