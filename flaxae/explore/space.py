"""`Space`: a model, the texts it is explored with, and their codes."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float

from flaxae.config.flags import load_config
from flaxae.data.text import digest
from flaxae.errors import ConfigError, require
from flaxae.explore import answers, corpus, honesty, texts
from flaxae.explore.cache import FOLDER, Cache
from flaxae.explore.geometry import Shape, clusters, nearest
from flaxae.explore.reduce import umap
from flaxae.text_autoencoder.protocol import Autoencoder, open_model

LONGEST = 2000  # characters of a text that is looked at at all
CLUSTERS = 8
MOST_SAMPLES = 64


class Space:
    """The part of `Explorer` that its questions stand on: codes, the corpus's shape, its groups."""

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
        self.corpus_path, self.config_path, self.most = "", "", most
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
        config: str | Path | None = None,
        labels: bool = False,
        most: int = corpus.MOST,
    ) -> Self:
        """Open a trained model and the texts to explore it with.

        Args:
            source: a run's workdir, a saved model's directory or a Hub id.
            corpus_file: file of texts, one per line; None: the model's training texts.
            config: config file that the run was trained with. It is required, and its code is
                run, if the run's task is not part of flaxae.
            labels: whether the file's lines are label<tab>text.
            most: maximum number of texts.

        Raises:
            ConfigError: if a file is missing or cannot be read, or the run is not one of a text
                autoencoder.
        """
        given = corpus.of_file(corpus_file, labels) if corpus_file else None
        require(
            not labels or given is not None,
            "--labels describes the lines of --corpus: give both",
        )
        config_class = type(load_config(str(config)).task) if config else None
        model = open_model(source, config_class)
        local = Path(source).is_dir()
        folder = Path(source) / FOLDER if local else Path(".cache") / FOLDER
        made = cls(model, given, source=source, folder=folder, most=most)
        made.corpus_path, made.config_path = str(corpus_file or ""), str(config or "")
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
        if self.config_path:
            args.append(f"config={self.config_path!r}")
        if self.corpus_path and self.corpus.labels:
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

    def _near(self, code: np.ndarray, k: int, metric: str = "cosine") -> list[answers.Near]:
        rows, distances = nearest(code, self.codes, k, metric)
        pairs = zip(rows, distances, strict=True)
        return [answers.Near(int(i), self.texts[int(i)], float(d)) for i, d in pairs]

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
