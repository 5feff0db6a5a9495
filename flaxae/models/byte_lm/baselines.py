"""Baselines that need no training: `python -m flaxae.models.byte_lm.baselines`.

It prints bits per byte of one split by compressors and by n-gram models in one table. A neural
number is meant to be read beside these, on the same split of the same manifest.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flaxae.command import run_main
from flaxae.config.locate import user_path
from flaxae.config.ranges import Range, ranged
from flaxae.data import byte_corpus
from flaxae.data.byte_corpus import ByteCorpus
from flaxae.errors import ConfigError
from flaxae.measures.compressors import COMPRESSORS, PRIMED, Compressor
from flaxae.measures.ngram import NGram
from flaxae.storage.paths import write_text

ORDERS = 7  # of the longest n-grams over bytes: their keys have 63 bits
HELD_OUT = byte_corpus.SPLITS[1:]


_HEADER = "| baseline | reads train | bits per byte | CPU seconds |\n|---|---|---|---|"
_Key = tuple[str, bool]  # name, reads_train


@dataclasses.dataclass(frozen=True)
class Row:
    """A baseline's number.

    Attributes:
        name: the baseline.
        reads_train: True if it has read the training split.
        bits_per_byte: of the held-out split.
        seconds: CPU time of counting and coding; 0 if it was measured together with a later row.
    """

    name: str
    reads_train: bool
    bits_per_byte: float
    seconds: float

    def line(self) -> str:
        """Return the row of a Markdown table."""
        reads, seconds = "yes" if self.reads_train else "no", f"{self.seconds:.1f}"
        return (
            f"| {self.name} | {reads} | {self.bits_per_byte:.3f} |"
            f" {seconds if self.seconds else ''} |"
        )


def measure(
    corpus: ByteCorpus, split: str = "test", orders: int = ORDERS, record: Path | None = None
) -> Iterator[Row]:
    """Measure the baselines whose packages are installed.

    Args:
        corpus: the data.
        split: "dev" or "test".
        orders: n of the largest n-gram model, at most ORDERS.
        record: JSON file of the rows; those that it already has are not measured again. None: no
            file.

    Yields:
        One row per baseline.

    Raises:
        ConfigError: if the record is damaged, or is of another corpus or split.
    """
    done = _read(record, corpus, split) if record else {}
    for keys, compute in _baselines(corpus, split, orders):
        if not all(key in done for key in keys):
            start = time.process_time()
            found = compute()
            seconds = [0.0] * (len(keys) - 1) + [round(time.process_time() - start, 2)]
            for key, bits, each in zip(keys, found, seconds, strict=True):
                done[key] = Row(*key, round(bits, 6), each)
            if record:
                _write(record, corpus, split, list(done.values()))
        yield from (done[key] for key in keys)


def missing() -> list[str]:
    """Return a note on each compressor whose package is not installed."""
    return [f"{each.name} is left out, {each.missing}" for each in COMPRESSORS if each.missing]


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table with one row per baseline."""
    return "\n".join([_HEADER, *(row.line() for row in rows)])


def _baselines(
    corpus: ByteCorpus, split: str, orders: int
) -> Iterator[tuple[list[_Key], Callable[[], Sequence[float]]]]:
    """Yield the keys of rows that are measured together, and the function that measures them."""
    train, held_out = corpus.splits["train"], corpus.splits[split]
    text = held_out.tobytes()

    def compress(each: Compressor, before: bytes) -> Callable[[], Sequence[float]]:
        return lambda: [each.bits_per_byte(text, before)]

    def count() -> Sequence[float]:
        model = NGram([train], 256, orders, modified=True, ends=False)
        return model.bits(held_out).tolist()

    for each in COMPRESSORS:
        if not each.missing:
            yield [(each.name, False)], compress(each, b"")
    names = [f"Kneser-Ney, {n} context byte{'s' * (n != 1)}" for n in range(orders)]
    yield [(name, True) for name in names], count
    for each in PRIMED:
        if not each.missing and len(train) + len(text) <= each.reach:
            yield [(each.name, True)], compress(each, train.tobytes())


def _read(record: Path, corpus: ByteCorpus, split: str) -> dict[_Key, Row]:
    if not record.exists():
        return {}
    try:
        data = json.loads(record.read_text())
        found = data["fingerprint"], data["split"]
        rows = [Row(**row) for row in data["rows"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{record} is not a file of baselines ({error}): name another one, or delete it"
        ) from None
    if found != (corpus.manifest.fingerprint, split):
        raise ConfigError(
            f"{record} contains baselines of the {found[1]} split of data {found[0]}, not of"
            f" {split} of {corpus.manifest.fingerprint}: name another file, or delete it"
        )
    return {(row.name, row.reads_train): row for row in rows}


def _write(record: Path, corpus: ByteCorpus, split: str, rows: list[Row]) -> None:
    manifest = corpus.manifest
    data = {
        "data": manifest.name,
        "fingerprint": manifest.fingerprint,
        "totals": manifest.totals,
        "split": split,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    record.parent.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps(data, indent=1) + "\n")


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.byte_lm.baselines",
        description="Bits per byte of compressors and n-gram models.",
    )
    parser.add_argument(
        "--path", default="", help="a file or a folder; default: the running Python's library"
    )
    parser.add_argument("--split", choices=HELD_OUT, default="test")
    parser.add_argument(
        "--orders",
        type=ranged("--orders", int, Range(1, ORDERS, "[]")),
        default=ORDERS,
        help=f"n of the largest n-gram model, at most {ORDERS}",
    )
    parser.add_argument("--json", help="file of the rows, which continues an interrupted table")
    args = parser.parse_args(argv[1:])
    corpus = byte_corpus.read(args.path)
    print(f"{corpus.manifest.summary()}\n\n{args.split} split\n\n{_HEADER}", flush=True)
    record = user_path(args.json) if args.json else None
    for row in measure(corpus, args.split, args.orders, record):
        print(row.line(), flush=True)
    print("".join(f"\n{note}" for note in missing()), end="\n" * bool(missing()))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
