"""The answers of `Explorer`: plain data that a view shows and a notebook cell prints."""

from typing import NamedTuple

from flaxae.explore.texts import DiffPart


class Neighbour(NamedTuple):
    """A text of the corpus and the distance of its code."""

    index: int
    text: str
    distance: float


class Interpolation(NamedTuple):
    """The texts decoded along a path between the codes of two texts.

    Attributes:
        texts: decoded texts, both ends included.
        parses: whether each text is valid Python; None if the corpus is not Python.
        repeats: whether each text equals the one before it.
        path_ratio: d(first, last) / sum of steps, where d is the edit distance; 1 means that there
            are no detours.
        largest_step: largest step as a share of that sum; 1 means a single jump.
        distinct: share of the texts that differ.
        path: the name of the path, such as "slerp".
    """

    texts: list[str]
    parses: list[bool] | None
    repeats: list[bool]
    path_ratio: float
    largest_step: float
    distinct: float
    path: str


class Point(NamedTuple):
    """A point of the map.

    Attributes:
        text: text of the corpus at this point; None if the point was chosen by its coordinates.
        decoded: text decoded from the point's code.
        near: nearest texts of the corpus.
    """

    text: str | None
    decoded: str
    near: list[Neighbour]


class Copy(NamedTuple):
    """A given text, compared with the answer of an arithmetic.

    Attributes:
        name: "a", "b" or "c".
        text: the given text.
        edits: edit distance to the answer, in characters.
        cosine: cosine similarity between its code and the answer's.
    """

    name: str
    text: str
    edits: int
    cosine: float


class Arithmetic(NamedTuple):
    """The text of the code a - b + c, and what to compare it with.

    Attributes:
        text: decoded text.
        near: nearest texts of the corpus.
        copies: the three given texts; an answer that equals one of them is only a copy.
        parses: whether the text is valid Python.
    """

    text: str
    near: list[Neighbour]
    copies: list[Copy]
    parses: bool


class Samples(NamedTuple):
    """Texts decoded from codes that were drawn from a prior.

    Attributes:
        texts: decoded texts.
        parses: whether each text is valid Python; None if the corpus is not Python.
        distinct: share of the texts that differ.
        known: share of the texts that are in the corpus.
    """

    texts: list[str]
    parses: list[bool] | None
    distinct: float
    known: float

    @property
    def valid(self) -> float | None:
        """The share of the texts that are valid Python; None if the corpus is not Python."""
        return sum(self.parses) / len(self.parses) if self.parses is not None else None


class Reconstruction(NamedTuple):
    """A text, the text decoded from its code, and the likelihood of the code.

    Attributes:
        text: given text.
        decoded: text decoded from its code.
        diff: equal and different parts of the two.
        edits: edit distance between the two, in characters.
        percentile: share of the corpus's codes that are less likely than this one.
        log_likelihood: log density of this code, in nats.
        median: median log density of the corpus's codes, in nats.
        far: whether nearly all codes of the corpus are more likely than this one.
        lost: sentence about characters that the tokenizer cannot represent; "" if there are none.
    """

    text: str
    decoded: str
    diff: list[DiffPart]
    edits: int
    percentile: float
    log_likelihood: float
    median: float
    far: bool
    lost: str

    @property
    def exact(self) -> bool:
        """True if the decoded text equals the given one."""
        return self.text == self.decoded
