"""Shards of sentences: finding missing ones, and writing each atomically.

A shard contains the sentences of the articles whose titles hash to it, in the order of the titles,
so its bytes depend neither on the runner nor on interruptions.
"""

import collections
import dataclasses
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from flaxae.data.files import MANIFEST
from flaxae.data.text import digest
from flaxae.data.wikipedia.sources import Source
from flaxae.errors import ConfigError

RECIPE = "wikipedia-sentences-1"  # part of the fingerprint: change it when the selection changes
FORMATS = ("txt", "parquet")
_ARTICLES = ".articles"

Sentences = tuple[str, list[str], dict[str, int]]  # title, sentences, counts


@dataclasses.dataclass(frozen=True)
class Plan:
    """Source, folder and options of a build.

    Attributes:
        out: the folder; on a cluster, one that all workers share.
        source: the articles.
        num_shards: number of files.
        file_format: "txt" (one sentence per line) or "parquet" (columns "title" and "text").
        min_words: fewest words of a sentence.
        max_words: most words of a sentence.
    """

    out: str
    source: Source
    num_shards: int = 64
    file_format: str = "txt"
    min_words: int = 4
    max_words: int = 64

    @property
    def fingerprint(self) -> str:
        """Hash of the source and the options."""
        options = (self.num_shards, self.file_format, self.min_words, self.max_words)
        return digest([RECIPE, self.source.fingerprint, repr(options)])

    def name(self, number: int) -> str:
        """Return the file name of a shard."""
        return f"sentences-{number:05d}-of-{self.num_shards:05d}.{self.file_format}"

    def path(self, *names: str) -> str:
        """Return a path inside the folder."""
        return os.path.join(self.out, *names)

    @property
    def articles(self) -> str:
        """Folder of the source's articles while shards are missing."""
        return self.path(_ARTICLES)


def shard_of(title: str, num_shards: int) -> int:
    """Return the number of the shard that contains an article."""
    return zlib.crc32(title.encode("utf-8", "surrogatepass")) % num_shards


def begin(plan: Plan) -> list[int]:
    """Create the folder, or check that it contains shards of the same plan.

    Args:
        plan: source, folder and options.

    Returns:
        The numbers of the missing shards.

    Raises:
        ConfigError: if an option is wrong, or the folder contains something else.
    """
    if plan.file_format not in FORMATS:
        raise ConfigError(f"--format {plan.file_format!r} is not one of {', '.join(FORMATS)}")
    if plan.num_shards < 1 or not 0 < plan.min_words <= plan.max_words:
        raise ConfigError(
            f"--num-shards {plan.num_shards} must be positive, and --min-words {plan.min_words} at"
            f" most --max-words {plan.max_words}"
        )
    stored = _read_json(plan.path(MANIFEST))
    if stored is not None and stored.get("fingerprint") != plan.fingerprint:
        raise ConfigError(
            f"{plan.out!r} contains shards of another source or of other options (fingerprint"
            f" {stored.get('fingerprint')}, not {plan.fingerprint}): name another folder, or delete"
            " that one"
        )
    if stored is None and os.path.isdir(plan.out) and os.listdir(plan.out):
        raise ConfigError(f"{plan.out!r} contains files and no {MANIFEST}: name a new folder")
    try:
        os.makedirs(plan.out, exist_ok=True)
        if stored is None:
            _write_json(plan.path(MANIFEST), _manifest(plan, {}))
    except OSError as error:
        raise ConfigError(f"cannot write into {plan.out!r}: {error.strerror or error}") from None
    return [i for i in range(plan.num_shards) if _counts(plan, i) is None]


def write_shard(plan: Plan, number: int, articles: Iterable[Sentences]) -> dict[str, Any]:
    """Write one shard and its counts atomically.

    Args:
        plan: source, folder and options.
        number: number of the shard.
        articles: sentences of the articles in the order of their titles.

    Returns:
        The counts of the shard.
    """
    counts: collections.Counter[str] = collections.Counter()

    def counted() -> Iterable[Sentences]:
        for article in articles:
            counts["articles"] += 1
            counts["words"] += sum(len(s.split()) for s in article[1])
            counts.update(article[2])
            yield article

    path = plan.path(plan.name(number))
    write = _write_text if plan.file_format == "txt" else _write_parquet
    _whole(path, lambda file: write(file, counted()))
    with open(path, "rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    result = {**counts, "sentences": counts["kept"], "sha256": sha}
    _write_json(_counts_path(plan, number), result)
    return result


def finish(plan: Plan) -> dict[str, Any]:
    """Write and return the manifest of all shards, and delete the files with single counts."""
    counts = {plan.name(i): _counts(plan, i) for i in range(plan.num_shards)}
    manifest = _manifest(plan, {name: found for name, found in counts.items() if found})
    _write_json(plan.path(MANIFEST), manifest)
    for i in range(plan.num_shards if manifest["complete"] else 0):
        if os.path.exists(_counts_path(plan, i)):
            os.unlink(_counts_path(plan, i))
    return json.loads(json.dumps(manifest))  # in the types that JSON gives back


def _manifest(plan: Plan, counts: dict[str, Any]) -> dict[str, Any]:
    totals: collections.Counter[str] = collections.Counter()
    for found in counts.values():
        totals.update({k: v for k, v in found.items() if isinstance(v, int)})
    return {
        "recipe": RECIPE,
        "source": dataclasses.asdict(plan.source) | {"kind": type(plan.source).__name__},
        "fingerprint": plan.fingerprint,
        "words": [plan.min_words, plan.max_words],
        "complete": len(counts) == plan.num_shards,
        "totals": dict(totals),
        "shards": {plan.name(i): counts.get(plan.name(i)) for i in range(plan.num_shards)},
    }


def _counts_path(plan: Plan, number: int) -> str:
    return plan.path(f".{plan.name(number)}.json")


def _counts(plan: Plan, number: int) -> dict[str, Any] | None:
    """Return the counts of a shard; None if the shard is missing."""
    if not os.path.isfile(plan.path(plan.name(number))):
        return None
    stored = _read_json(plan.path(MANIFEST)) or {}
    listed = stored.get("shards", {}).get(plan.name(number))
    return listed or _read_json(_counts_path(plan, number))


def _write_text(file: BinaryIO, articles: Iterable[Sentences]) -> None:
    for _, sentences, _ in articles:
        file.writelines(f"{sentence}\n".encode("utf-8", "replace") for sentence in sentences)


def _write_parquet(file: BinaryIO, articles: Iterable[Sentences]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("title", pyarrow.string()), ("text", pyarrow.string())])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        rows: dict[str, list[str]] = {"title": [], "text": []}
        for title, sentences, _ in articles:
            rows["title"] += [title] * len(sentences)
            rows["text"] += sentences
            if len(rows["text"]) >= 100_000:
                writer.write_table(pyarrow.table(rows, schema))
                rows = {"title": [], "text": []}
        writer.write_table(pyarrow.table(rows, schema))


def _whole(path: str, write: Callable[[BinaryIO], Any]) -> None:
    folder, name = os.path.split(path)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _write_json(path: str, data: dict[str, Any]) -> None:
    _whole(path, lambda file: file.write((json.dumps(data, indent=1) + "\n").encode()))


def _read_json(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError):
        return None
