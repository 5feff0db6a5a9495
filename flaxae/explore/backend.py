"""`Explorer`: every question that the app can ask of an autoencoder, answered as plain data."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flaxae.config import ConfigError, require
from flaxae.data.text import digest
from flaxae.explore import answers, corpus, honesty, texts
from flaxae.explore.cache import FOLDER, Cache
from flaxae.explore.geometry import Shape, clusters, nearest
from flaxae.explore.protocol import Autoencoder, open_model
from flaxae.explore.reduce import umap
from flaxae.latents import lerp_at, slerp_at
from flaxae.text_measures import edit_distance, is_valid, way_of

LONGEST = 2000  # characters of a text that is looked at at all
FAR = 0.01  # less likely than this share of the corpus: far from it
STEPS = 100  # of a slider between two texts
CLUSTERS = 8
MOST_SAMPLES = 64
WAYS = {"slerp": slerp_at, "lerp": lerp_at}
DIRECTIONS = 8  # principal directions that have sliders


class Explorer:
    """A model, the texts it is explored with, and their codes.

    >>> from flaxae.explore import Explorer
    >>> explorer = Explorer.open("runs/t5_vae")  # doctest: +SKIP
    >>> explorer.between("import os", "return self.x").texts  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Autoencoder,
        given: corpus.Corpus | Sequence[str] | None = None,
        *,
        source: str | Path = "",
        folder: Path | None = None,
        most: int = corpus.MOST,
    ):
        """Encodes the corpus, or finds its codes where they were kept.

        Args:
            model: any autoencoder (see `protocol.Autoencoder`).
            given: texts to explore; None: those it was trained on.
            source: where it came from: for the copied code, its report and its log.
            folder: where codes and maps are kept; None: nowhere.
            most: texts that are used.
        Raises:
            ConfigError: there are no texts, or none that the model can read.
        """
        self.model, self.source = model, str(source)
        self.size = model.num_latents * model.dim
        if given is None:
            given = corpus.of_model(model)
        elif not isinstance(given, corpus.Corpus):
            given = corpus.Corpus("given texts", list(given))
        self.corpus_path, self.most = "", most
        self.corpus = corpus.readable(given, model, most)
        self.texts = self.corpus.texts
        self.python = texts.is_python(self.texts)
        self.cache = Cache(folder, digest([model.fingerprint, self.corpus.fingerprint]))
        self.codes = self.cache.get("codes", len(self.texts), self._encode_all)
        self.shape = Shape.of(self.codes)

    @classmethod
    def open(
        cls,
        source: str | Path,
        corpus_file: str | Path | None = None,
        *,
        labels: bool = False,
        most: int = corpus.MOST,
    ) -> "Explorer":
        """Opens a trained model and the texts to explore it with.

        Args:
            source: a workdir, a saved directory or a Hub id.
            corpus_file: one text a line; None: the texts that the model was trained on.
            labels: the file's lines are label<tab>text.
            most: texts that are used.
        Raises:
            ConfigError: one of them is not there or not of that kind.
        """
        given = corpus.of_file(corpus_file, labels) if corpus_file else None
        require(not labels or given is not None, "--labels says how --corpus is read: give both")
        model = open_model(source)
        local = Path(source).is_dir()
        folder = Path(source) / FOLDER if local else Path(".cache") / FOLDER
        made = cls(model, given, source=source, folder=folder, most=most)
        made.corpus_path = str(corpus_file or "")
        return made

    @cached_property
    def about(self) -> list[honesty.Fact]:
        """The honesty strip's facts."""
        directory = Path(self.source) if self.source and Path(self.source).is_dir() else None
        return honesty.facts(honesty.read(directory), self.model.step)

    @property
    def opening(self) -> str:
        """The lines of Python that open the same explorer."""
        if not self.source:
            return "# explorer = Explorer(model, texts), the one of this page\n"
        args = [repr(self.source)]
        if self.corpus_path:
            args.append(repr(self.corpus_path))
        if self.corpus.labels:
            args.append("labels=True")
        if self.most != corpus.MOST:
            args.append(f"most={self.most}")
        call = f"Explorer.open({', '.join(args)})"
        return f"from flaxae.explore import Explorer\n\nexplorer = {call}\n"

    def warm_up(self, tell: Callable[[str], None] = lambda text: None) -> None:
        """Runs each shape once, so that nothing is compiled while someone waits."""
        tell("statistics of the codes")
        std = np.asarray(self.model.statistics.std)
        require(std.size == self.size, f"statistics of {std.size} numbers, codes have {self.size}")
        tell("encoding texts of all lengths")
        for text in self._one_of_each_length():
            for count in (1, 2, 3):  # what the views encode together
                self._encode([text] * count)
        tell("decoding")
        for rows in (1, 2, 4, 8, 16, 32, MOST_SAMPLES):
            self._decode(np.resize(self.codes, (rows, self.size)))
        self.prepare("normal")
        tell("clusters")
        _ = self.clusters

    def prepare(self, prior: str) -> None:
        """Fits a prior and draws from it once: seconds to minutes, for another thread."""
        for n in (1, MOST_SAMPLES):
            self.model.prior(prior).sample(n)

    def check(self, text: str) -> str:
        """The text, if it can be encoded.

        Raises:
            ConfigError: it is empty, too long, or no valid Unicode.
        """
        require(bool(text.strip()), "The text is empty: type one")
        require(
            len(text) <= LONGEST, f"The text has {len(text)} characters, the limit is {LONGEST}"
        )
        lone = any("\ud800" <= c <= "\udfff" for c in text)
        require(not lone, "The text has a lone surrogate: it is no valid Unicode")
        count = len(self.model.tokenizer.encode([text])[0]) + 1
        limit = self.model.max_length
        require(
            count <= limit,
            f"The text has {count} tokens with its end, the model's limit is {limit}: shorten it",
        )
        return text

    def lost(self, text: str) -> str:
        """What the tokenizer cannot give back of a text, as a sentence; "" where it gives all."""
        tokenizer = self.model.tokenizer
        back = tokenizer.decode(tokenizer.encode([text]))[0]
        if back == text:
            return ""
        gone = "".join(dict.fromkeys(c for c in text if c not in back))
        what = f"the characters {gone!r}" if gone else "all of this text"
        return f"The tokenizer lacks {what}: the model reads {back!r}"

    def encode(self, text: str) -> Float[np.ndarray, " D"]:
        """The code of one text. Raises ConfigError where it cannot be encoded."""
        return self._encode([self.check(text)])[0]

    def between(self, a: str, b: str, how: str = "slerp", steps: int = 11) -> answers.Way:
        """The texts on the way from a to b.

        Args:
            a, b: texts.
            how: "slerp" or "lerp".
            steps: how many, both ends included.
        """
        require(2 <= steps <= MOST_SAMPLES, f"steps={steps} must be 2 to {MOST_SAMPLES}")
        za, zb = self._ends(a, b, how)
        made = self._decode(WAYS[how](za, zb, np.linspace(0, 1, steps)))
        way = way_of(made)
        repeats = [i > 0 and text == made[i - 1] for i, text in enumerate(made)]
        return answers.Way(
            made, self._parse(made), repeats, way.ratio, way.largest_share,
            way.distinct / way.texts,
        )  # fmt: skip

    def between_at(self, a: str, b: str, step: int, how: str = "slerp") -> str:
        """The text at step / 100 of the way from a to b."""
        require(0 <= step <= STEPS, f"step={step} must be 0 to {STEPS}")
        za, zb = self._ends(a, b, how)
        return self._decode(WAYS[how](za, zb, np.asarray([step / STEPS])))[0]

    def pca(self) -> Float[np.ndarray, "n 2"]:
        """The corpus along its two widest directions."""
        return self.shape.project(self.codes, 2)

    def umap(self) -> Float[np.ndarray, "n 2"]:
        """The corpus laid out by UMAP: minutes the first time, then kept."""
        return self.cache.get("map", len(self.texts), lambda: umap(self.codes))

    @property
    def umap_is_kept(self) -> bool:
        return self.cache.find("map", len(self.texts)) is not None

    @cached_property
    def clusters(self) -> np.ndarray:
        """The number of each text's cluster (k-means along the widest directions)."""
        return clusters(self.shape.project(self.codes, 50), CLUSTERS)

    def groups(self, by: str) -> list[str] | Float[np.ndarray, " n"]:
        """What the map is coloured by: a name of each text, or for "length" a number."""
        if by == "length":
            return np.asarray([len(text) for text in self.texts], float)
        if by == "kind":
            return [texts.kind(text, self.python) for text in self.texts]
        if by == "label" and self.corpus.labels:
            return self.corpus.labels
        require(by == "cluster", f"{by!r}: the texts have length, kind or cluster, and no label")
        return [f"cluster {number + 1}" for number in self.clusters]

    def point(self, index: int, k: int = 5) -> answers.Point:
        """A text of the corpus: decoded from its code, with its neighbours."""
        require(
            0 <= index < len(self.texts), f"point {index}: there are 0 to {len(self.texts) - 1}"
        )
        return self._point(self.codes[index], k, self.texts[index])

    def place(self, x: float, y: float, k: int = 5) -> answers.Point:
        """A place of the PCA map: what is decoded there, and the nearest texts."""
        return self._point(self.shape.place(np.asarray([x, y])), k, None)

    def around(
        self,
        text: str,
        directions: Mapping[int, float] | None = None,
        dims: Mapping[int, float] | None = None,
    ) -> str:
        """A text's neighbourhood: its code, moved and decoded.

        Args:
            text: where it begins.
            directions: number of a principal direction -> standard deviations to move along it.
            dims: number of a code's number -> its standard deviations to add.
        """
        code = self.encode(text) + self._moved(directions or {}, dims or {})
        return self._decode(code[None])[0]

    def grid(
        self, text: str, across: int, down: int, span: float = 2.0, size: int = 5
    ) -> list[list[str]]:
        """Texts around a text, along two principal directions.

        Args:
            text: the one in the middle.
            across, down: numbers of the directions.
            span: standard deviations to each side.
            size: of a row and a column.
        Returns:
            Rows from -span to span.
        """
        require(across != down, "across and down are one direction: choose two")
        require(2 <= size <= 8, f"size={size} must be 2 to 8")
        code, shares = self.encode(text), np.linspace(-span, span, size)
        points = [code + self._moved({down: y}, {}) + self._moved({across: x}, {})
                  for y in shares for x in shares]  # fmt: skip
        made = self._decode(np.stack(points))
        return [made[i : i + size] for i in range(0, len(made), size)]

    def arithmetic(self, a: str, b: str, c: str, k: int = 5) -> answers.Arithmetic:
        """The text of a - b + c, beside what copying would give."""
        given = [self.check(text) for text in (a, b, c)]
        za, zb, zc = self._encode(given)
        code = (za - zb) + zc
        made = self._decode(code[None])[0]
        copies = [
            answers.Copy(name, text, edit_distance(made, text), _cosine(code, z))
            for name, text, z in zip("abc", given, (za, zb, zc), strict=True)
        ]
        return answers.Arithmetic(made, self._near(code, k), copies, is_valid(made))

    def samples(
        self, prior: str = "normal", n: int = 16, temperature: float = 1.0, seed: int = 0
    ) -> answers.Samples:
        """Texts of codes drawn from a prior.

        Args:
            prior: "normal" (N(0, I)), "gaussian", "gmm" or "flow".
            n: how many.
            temperature: standard deviation of the noise that codes are made of.
            seed: the same seed, the same texts.
        """
        require(1 <= n <= MOST_SAMPLES, f"n={n} must be 1 to {MOST_SAMPLES}")
        require(0 <= temperature <= 10, f"temperature={temperature} must be 0 to 10")
        drawn = np.asarray(self.model.prior(prior).sample(n, seed, temperature), np.float32)
        made = self._decode(drawn.reshape(n, self.size))
        known = set(self.texts)
        return answers.Samples(
            made, self._parse(made), len(set(made)) / n, sum(text in known for text in made) / n
        )

    def neighbours(self, text: str, k: int = 10, metric: str = "cosine") -> list[answers.Near]:
        """The corpus's texts whose codes are nearest to a text's."""
        require(1 <= k <= 100, f"k={k} must be 1 to 100")
        require(metric in ("cosine", "euclid"), f"{metric!r} is neither 'cosine' nor 'euclid'")
        return self._near(self.encode(text), k, metric)

    def reconstruct(self, text: str) -> answers.Reconstruction:
        """A text encoded and decoded freely, and how usual its code is among the corpus's."""
        code = self.encode(text)
        made = self._decode(code[None])[0]
        share = self.shape.percentile(code)
        return answers.Reconstruction(
            text,
            made,
            texts.differences(text, made),
            edit_distance(text, made),
            share,
            float(self.shape.log_likelihood(code[None])[0]),
            float(np.median(self.shape.log_likelihoods)),
            share < FAR,
            self.lost(text),
        )

    def _ends(self, a: str, b: str, how: str) -> Float[np.ndarray, "2 D"]:
        require(how in WAYS, f"{how!r} is neither 'slerp' nor 'lerp'")
        return self._encode([self.check(a), self.check(b)])

    def _moved(
        self, directions: Mapping[int, float], dims: Mapping[int, float]
    ) -> Float[np.ndarray, " D"]:
        out = np.zeros(self.size, np.float32)
        std = np.asarray(self.model.statistics.std, np.float32).ravel()
        for number, amount in directions.items():
            require(0 <= number < self.size, f"direction {number}: there are 0 to {self.size - 1}")
            length = np.float32(amount * self.shape.variances[number] ** 0.5)
            out += length * self.shape.directions[number]
        for number, amount in dims.items():
            require(0 <= number < self.size, f"number {number}: there are 0 to {self.size - 1}")
            out[number] += np.float32(amount) * std[number]
        return out

    def _point(self, code: np.ndarray, k: int, text: str | None) -> answers.Point:
        return answers.Point(text, self._decode(code[None])[0], self._near(code, k))

    def _near(self, code: np.ndarray, k: int, metric: str = "cosine") -> list[answers.Near]:
        rows, distances = nearest(code, self.codes, k, metric)
        pairs = zip(rows, distances, strict=True)
        return [answers.Near(int(i), self.texts[int(i)], float(d)) for i, d in pairs]

    def _parse(self, made: list[str]) -> list[bool] | None:
        """Whether each parses; None where the corpus is not Python."""
        return [is_valid(text) for text in made] if self.python else None

    def _encode(self, given: list[str]) -> Float[np.ndarray, "n D"]:
        return np.asarray(self.model.encode(given), np.float32).reshape(len(given), self.size)

    def _encode_all(self) -> Float[np.ndarray, "n D"]:
        codes = self._encode(self.texts)
        if not np.isfinite(codes).all():
            raise ConfigError("the model's codes of these texts are not finite: it is broken")
        return codes

    def _decode(self, codes: Float[np.ndarray, "n D"]) -> list[str]:
        shape = (len(codes), self.model.num_latents, self.model.dim)
        return self.model.decode(np.ascontiguousarray(codes, np.float32).reshape(shape))

    def _one_of_each_length(self) -> list[str]:
        """A text of each number of tokens, where one is found: of the corpus, or made of a's."""
        tokenizer, limit = self.model.tokenizer, self.model.max_length
        made = ["a" * count for count in range(1, LONGEST, max(1, limit // 8))]
        made += [" ".join(["a"] * count) for count in range(1, limit + 1)]
        found: dict[int, str] = {}
        given = [*made, *self.texts]
        for text, ids in zip(given, tokenizer.encode(given), strict=True):
            if len(ids) < limit:
                found.setdefault(len(ids), text)
        return list(found.values())


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
