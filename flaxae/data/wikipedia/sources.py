"""Sources of articles: XML dumps, the Hub and tfds. Each is small and can be pickled."""

import bz2
import dataclasses
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from typing import Any

from flaxae.data.local import read_local
from flaxae.data.tables import load_hub
from flaxae.data.text import digest
from flaxae.errors import ConfigError, causes
from flaxae.pointers import require_content

Article = tuple[str, str]  # title, text
Piece = Any  # argument of `read`: a path, or (first row, end)
_DUMPS = (".xml", ".xml.bz2")


@dataclasses.dataclass(frozen=True)
class Dump:
    """Files of a MediaWiki XML dump (pages-articles), plain or .bz2."""

    paths: tuple[str, ...]
    max_articles: int = 0  # of each file
    markup = True

    @property
    def fingerprint(self) -> str:
        """Hash that names the articles."""
        named = (f"{os.path.basename(p)} {os.path.getsize(p)}" for p in self.paths)
        return digest(["dump", str(self.max_articles), *named])

    def pieces(self, number: int) -> list[Piece]:
        """Return one piece per file, since a file is read by one process."""
        return list(self.paths)

    def read(self, piece: Piece) -> Iterator[Article]:
        """Yield the articles of a file without redirects and talk pages, as a stream."""
        count = 0
        try:
            require_content(piece)
            with (bz2.open if piece.endswith(".bz2") else open)(piece, "rb") as file:
                for article in _pages(file):
                    yield article
                    count += 1
                    if count == self.max_articles:
                        return
        except (OSError, EOFError, ElementTree.ParseError) as error:
            raise ConfigError(
                f"{piece!r} is not a whole XML dump (after {count} articles: {causes(error)}):"
                " download it again"
            ) from None

    def table(self, folder: str, num_proc: int) -> Any:
        """Return all articles as a `datasets` table on disk, which is made once."""
        return _generated(self, list(self.paths), folder, min(num_proc, len(self.paths)))


@dataclasses.dataclass(frozen=True)
class Hub:
    """A data set of plain text with a column "text" and optionally "title"."""

    target: str
    config: str = ""
    max_articles: int = 0
    markup = False

    @property
    def fingerprint(self) -> str:
        """Hash that names the articles."""
        size = str(len(self.table("", 1))) if os.path.exists(self.target) else ""
        return digest(["hub", self.target, self.config, str(self.max_articles), size])

    def pieces(self, number: int) -> list[Piece]:
        """Return up to `number` ranges of rows."""
        return _ranges(len(self.table("", 1)), number)

    def read(self, piece: Piece) -> Iterator[Article]:
        """Yield the articles of a range of rows."""
        table = self.table("", 1)
        for i in range(*piece):
            yield _article(table[i])

    def table(self, folder: str, num_proc: int) -> Any:
        """Return the `datasets` table; the arguments are not needed."""
        if os.path.exists(self.target):
            table = _pooled(self.target)
        else:
            hint = "give a local directory (hf:/path) or a dump"
            table = load_hub(self.target, self.config, f"--source hf:{self.target}", hint)
        if isinstance(table, dict):
            table = table["train"] if "train" in table else next(iter(table.values()))
        if "text" not in table.features:
            found = ", ".join(table.features)
            raise ConfigError(f"--source hf:{self.target} has no column 'text', but {found}")
        count = min(self.max_articles or len(table), len(table))
        return table.select(range(count)) if count < len(table) else table


def _pooled(path: str) -> Any:
    """Return the splits of a saved data set, or all files of a folder as one table."""
    import datasets

    splits = read_local(path, ("title",)).splits
    if os.path.isfile(os.path.join(path, "dataset_dict.json")):
        return splits
    try:
        return datasets.concatenate_datasets(list(splits.values()))
    except Exception as error:  # columns of other types
        raise ConfigError(f"--source hf:{path} cannot be loaded: {causes(error)}") from None


@dataclasses.dataclass(frozen=True)
class Tfds:
    """A `tfds` data set with "title" and "text", read without TensorFlow."""

    target: str
    max_articles: int = 0
    markup = False

    @property
    def fingerprint(self) -> str:
        """Hash that names the articles."""
        return digest(["tfds", self.target, str(self.max_articles)])

    def _source(self) -> Any:
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            raise ConfigError(
                f"--source tfds:{self.target} needs tensorflow-datasets: pip install 'flaxae[tfds]'"
            ) from None
        try:
            return tfds.data_source(self.target, split="train")
        except Exception as error:  # unknown names, no network
            raise ConfigError(
                f"--source tfds:{self.target} cannot be loaded: {causes(error)}; without a network,"
                " set TFDS_DATA_DIR to the folder of the prepared data, or give a dump"
            ) from None

    def pieces(self, number: int) -> list[Piece]:
        """Return up to `number` ranges of rows."""
        size = len(self._source())
        return _ranges(min(self.max_articles or size, size), number)

    def read(self, piece: Piece) -> Iterator[Article]:
        """Yield the articles of a range of rows."""
        source = self._source()
        for i in range(*piece):
            yield _article(source[i])

    def table(self, folder: str, num_proc: int) -> Any:
        """Return all articles as a `datasets` table on disk, which is made once."""
        return _generated(self, self.pieces(num_proc), folder, num_proc)


Source = Dump | Hub | Tfds


def open_source(name: str, max_articles: int = 0) -> Source:
    """Return the source of articles that a name describes.

    Args:
        name: "hf:<Hub name or local path>[:config]", "tfds:<name>", or a dump: a file, or a
            directory of its parts.
        max_articles: number of articles that are read (from each file of a dump); 0: all.

    Raises:
        ConfigError: if the name is none of these.
    """
    if name.startswith("hf:"):
        target, _, config = name.removeprefix("hf:").partition(":")
        return Hub(os.path.expanduser(target), config, max_articles)
    if name.startswith("tfds:"):
        return Tfds(name.removeprefix("tfds:"), max_articles)
    name = os.path.expanduser(name)
    paths = [name]
    if name.endswith(_DUMPS) and not os.path.exists(name):
        raise ConfigError(f"--source {name!r}: there is no such file; give a dump's path")
    if os.path.isdir(name):
        paths = [os.path.join(name, x) for x in sorted(os.listdir(name)) if x.endswith(_DUMPS)]
    if not paths or not all(os.path.isfile(p) and p.endswith(_DUMPS) for p in paths):
        raise ConfigError(
            f"--source {name!r} is neither hf:<name or path>[:config], nor tfds:<name>, nor a dump"
            f" ({' or '.join(_DUMPS)}), nor a directory of a dump's parts"
        )
    return Dump(tuple(paths), max_articles)


def _pages(file: Any) -> Iterator[Article]:
    """Yield (title, wiki markup) of pages in the article namespace that are not redirects."""
    events = ElementTree.iterparse(file, events=("start", "end"))
    _, root = next(events)
    for event, element in events:
        if event != "end" or _tag(element) != "page":
            continue
        fields = {_tag(child): child for child in element}
        revision = {_tag(child): child for child in fields.get("revision", ())}
        text = getattr(revision.get("text"), "text", None)
        space = getattr(fields.get("ns"), "text", "0")
        if space == "0" and "redirect" not in fields and text:
            yield fields["title"].text or "", text
        root.clear()  # otherwise all pages stay in memory


def _tag(element: Any) -> str:
    return element.tag.rpartition("}")[2]


def _article(row: dict[str, Any]) -> Article:
    """Return the title and text of a row; without a title, the beginning of the text."""
    text = _string(row["text"])
    return (_string(row["title"]) if "title" in row else text[:100]), text


def _string(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _ranges(size: int, number: int) -> list[Piece]:
    bounds = [size * i // number for i in range(number + 1)]
    return [(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True) if a < b]


def _rows(source: Source, pieces: Sequence[Piece]) -> Iterator[dict[str, str]]:
    for piece in pieces:
        for title, text in source.read(piece):
            yield {"title": title, "text": text}


def _generated(source: Source, pieces: list[Piece], folder: str, num_proc: int) -> Any:
    import datasets

    # Given here, since datasets would hash the source code, which differs between Pythons.
    fingerprint = digest([source.fingerprint, str(num_proc)])
    try:
        return datasets.Dataset.from_generator(
            _rows,
            gen_kwargs={"source": source, "pieces": pieces},
            cache_dir=folder,
            num_proc=num_proc if num_proc > 1 else None,
            fingerprint=fingerprint,
        )
    except datasets.exceptions.DatasetGenerationError as error:  # pyright: ignore
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise
