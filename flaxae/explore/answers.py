"""What the explorer answers with: plain data that a view shows and a cell prints."""

from typing import NamedTuple

from flaxae.explore.texts import Piece


class Near(NamedTuple):
    """A text of the corpus and how far its code is."""

    index: int
    text: str
    distance: float


class Way(NamedTuple):
    """Texts between two texts.

    Attributes:
        texts: both ends included, as they are decoded.
        parses: whether each is Python; None: the corpus is not.
        repeats: whether each is the one before it.
        path_ratio: d(first, last) / sum of steps, d the edit distance: 1 has no detours.
        largest_step: the largest step over that sum: 1 is one jump.
        distinct: different texts over texts.
    """

    texts: list[str]
    parses: list[bool] | None
    repeats: list[bool]
    path_ratio: float
    largest_step: float
    distinct: float


class Point(NamedTuple):
    """A place of the map.

    Attributes:
        text: of the corpus that stands there; None: the place is empty.
        decoded: from its code.
        near: the nearest texts of the corpus.
    """

    text: str | None
    decoded: str
    near: list[Near]


class Copy(NamedTuple):
    """What one of the given texts would be as an answer.

    Attributes:
        name: "a", "b" or "c".
        text: of it.
        edits: from the answer, in characters.
        cosine: of its code with the answer's.
    """

    name: str
    text: str
    edits: int
    cosine: float


class Arithmetic(NamedTuple):
    """The text of a - b + c, the corpus's nearest, and the three copies."""

    text: str
    near: list[Near]
    copies: list[Copy]
    parses: bool


class Samples(NamedTuple):
    """Texts drawn from a prior.

    Attributes:
        texts: of them.
        parses: whether each is Python; None: the corpus is not.
        distinct: different texts over texts.
        known: share that stands in the corpus.
    """

    texts: list[str]
    parses: list[bool] | None
    distinct: float
    known: float

    @property
    def valid(self) -> float | None:
        """The share that parses."""
        return sum(self.parses) / len(self.parses) if self.parses is not None else None


class Reconstruction(NamedTuple):
    """A text, what came back, and how usual its code is.

    Attributes:
        text, made: given and decoded.
        pieces: where they agree and differ.
        edits: between them, in characters.
        percentile: share of the corpus's codes that are less likely than this one.
        log_likelihood, median: of this code and of the corpus's middle one, in nats.
        far: whether it is far from the corpus.
        lost: what the tokenizer cannot read of it; "" where it reads all.
    """

    text: str
    made: str
    pieces: list[Piece]
    edits: int
    percentile: float
    log_likelihood: float
    median: float
    far: bool
    lost: str

    @property
    def exact(self) -> bool:
        return self.text == self.made
