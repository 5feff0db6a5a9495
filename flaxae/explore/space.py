"""`LatentSpace`: a model, the texts it is explored with, and their codes."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from flaxae.config.files import load_config
from flaxae.config.locate import user_path
from flaxae.data.text import digest
from flaxae.errors import ConfigError, require
from flaxae.explore import answers, corpus, honesty, texts
from flaxae.explore.cache import FOLDER, Cache
from flaxae.explore.geometry import FittedGaussian, clusters, nearest
from flaxae.explore.reduce import umap
from flaxae.measures.text import is_python
from flaxae.text_autoencoder.interpolation import PATHS, reencoded
from flaxae.text_autoencoder.protocol import Autoencoder, check_autoencoder, open_model

MAX_CHARACTERS = 2000  # per text that is given to the model
CLUSTERS = 8
AT_A_TIME = 3  # texts that are encoded in one call
MAX_SAMPLES = 64


class LatentSpace:
    """Codes of a corpus, their distribution and the groups of its texts; base class of `Explorer`.

    Attributes:
        model: the autoencoder.
        source: path or Hub id of the model; "" if it was given as an object.
        size: numbers per code, D = L * Z.
        corpus: the texts, with labels and notes.
        texts: the texts.
        python: whether the texts are Python.
        codes: one flat code per text, (n, D).
        gaussian: a Gaussian fitted to the codes.
    """

    def __init__(
        self,
        model: Autoencoder,
        given: corpus.Corpus | Sequence[str] | None = None,
        *,
        source: str | Path = "",
        folder: Path | None = None,
        most: int = corpus.MAX_TEXTS,
    ):
        """Encode the corpus, or read its codes from the cache.

        Args:
            model: any autoencoder (see `flaxae.text_autoencoder.protocol.Autoencoder`).
            given: texts to explore; None: the model's training texts.
            source: path or Hub id of the model, for the copied code and the run's report and log.
            folder: folder of cached codes and maps; None: nothing is cached.
            most: maximum number of texts.

        Raises:
            ConfigError: if the model lacks a member of `Autoencoder`, or there are not at least
                two texts that it can read.
        """
        if isinstance(model, (str, Path)):
            raise ConfigError(f"give a model, or open this path: Explorer.open({str(model)!r})")
        check_autoencoder(model, "the explorer needs a text autoencoder, but was given")
        require(
            not isinstance(given, (str, bytes)),
            f"texts={given!r} must be a list of str: give [text, text, ...], or open a file of "
            "texts by Explorer.open(WORKDIR, FILE)",
        )
        self.model, self.source = model, str(source)
        self.size = model.num_latents * model.dim
        if given is None:
            given = corpus.training_corpus(model)
        elif not isinstance(given, corpus.Corpus):
            given = corpus.Corpus("given texts", list(given))
        self.corpus_path, self.config_path, self.most = "", "", most
        self.corpus = corpus.select_readable(given, model, most)
        self.texts = self.corpus.texts
        self.python = is_python(self.texts)
        self.cache = Cache(folder, digest([model.fingerprint, self.corpus.fingerprint]))
        self.codes = self.cache.get("codes", len(self.texts), self._encode_all)
        self.gaussian = FittedGaussian.fit(self.codes)

    @classmethod
    def open(
        cls,
        source: str | Path,
        corpus_file: str | Path | None = None,
        *,
        config: str | Path | None = None,
        labels: bool = False,
        most: int = corpus.MAX_TEXTS,
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
        source = user_path(source)
        given = corpus.read_corpus(user_path(corpus_file), labels) if corpus_file else None
        require(
            not labels or given is not None,
            "--labels describes the lines of --corpus: give both",
        )
        config_class = type(load_config(str(config)).task) if config else None
        model = open_model(source, config_class)
        local = source.is_dir()
        folder = source / FOLDER if local else Path(".cache") / FOLDER
        made = cls(model, given, source=source, folder=folder, most=most)
        made.corpus_path, made.config_path = str(corpus_file or ""), str(config or "")
        return made

    @property
    def max_noise(self) -> float:
        """The largest sigma of the noise on codes; 0: the model decodes only without noise."""
        return float(getattr(self.model, "max_noise", 0.0))

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The names of the paths between two texts; "prior" only if the model has a flow."""
        try:
            self.model.prior("flow")
        except ConfigError:
            return tuple(name for name in PATHS if name != "prior")
        return PATHS

    @cached_property
    def best_path(self) -> tuple[str, bool]:
        """The path that is best by the run's evaluation, and True; ("slerp", False) without one."""
        found = honesty.best_path(self._files)
        return (found, True) if found in self.paths else ("slerp", False)

    @cached_property
    def _files(self) -> dict[str, Any]:
        directory = Path(self.source) if self.source and Path(self.source).is_dir() else None
        return honesty.read(directory)

    @cached_property
    def about(self) -> list[honesty.Fact]:
        """The facts about the model for the strip at the top of the page."""
        return honesty.facts(self._files, self.model.step)

    @property
    def opening(self) -> str:
        """Lines of Python that open the same explorer."""
        if not self.source:
            return "# explorer = Explorer(model, texts), as this page was opened\n"
        args = [repr(self.source)]
        if self.corpus_path:
            args.append(repr(self.corpus_path))
        if self.config_path:
            args.append(f"config={self.config_path!r}")
        if self.corpus_path and self.corpus.labels:
            args.append("labels=True")
        if self.most != corpus.MAX_TEXTS:
            args.append(f"most={self.most}")
        call = f"Explorer.open({', '.join(args)})"
        return f"from flaxae.explore import Explorer\n\nexplorer = {call}\n"

    def warm_up(self) -> None:
        """Run the model once with every shape, so that no later request waits for a compilation."""
        std = np.asarray(self.model.statistics.std)
        require(
            std.size == self.size,
            f"the model's statistics have {std.size} numbers, its codes {self.size}",
        )
        for text in self._one_of_each_length():
            for count in range(1, AT_A_TIME + 1):
                self._encode([text] * count)
        for rows in (1, 2, 4, 8, 16, 32, MAX_SAMPLES):
            self._decode(np.resize(self.codes, (rows, self.size)))
            if self.max_noise:
                self._decode(np.resize(self.codes, (rows, self.size)), noise=self.max_noise / 2)
        self.prepare("normal")
        _ = self.clusters

    def prepare(self, prior: str, temperature: float = 0.0) -> None:
        """Fit a prior, draw from it once and decode; this takes seconds to minutes.

        Args:
            prior: name of the prior.
            temperature: temperature of the choice of ids; above 0, other programs are compiled.
        """
        for n in (1, MAX_SAMPLES):
            drawn = self.model.prior(prior).sample(n)
            for rows in (1, 32, MAX_SAMPLES) if temperature else ():
                self._decode(np.resize(drawn, (rows, self.size)), temperature=temperature)

    def check(self, text: str) -> str:
        """Return the text if it can be encoded.

        Raises:
            ConfigError: if the text is empty, too long, or not valid Unicode.
        """
        require(bool(text.strip()), "The text is empty: type a text")
        require(
            len(text) <= MAX_CHARACTERS,
            f"The text has {len(text)} characters, the limit is {MAX_CHARACTERS}",
        )
        lone = any("\ud800" <= c <= "\udfff" for c in text)
        require(not lone, "The text is not valid Unicode: it has a lone surrogate")
        count = len(self.model.tokenizer.encode([text])[0]) + 1
        limit = self.model.max_length
        require(
            count <= limit,
            f"The text has {count} tokens (with its end token), the model's limit is {limit}: "
            "shorten it",
        )
        return text

    def lost(self, text: str) -> str:
        """Return a sentence about the characters that the tokenizer loses; "" if there are none."""
        tokenizer = self.model.tokenizer
        back = tokenizer.decode(tokenizer.encode([text]))[0]
        if back == text:
            return ""
        gone = "".join(dict.fromkeys(c for c in text if c not in back))
        what = f"the characters {gone!r}" if gone else "some of this text"
        return f"The tokenizer cannot represent {what}: the model reads {back!r}"

    def encode(self, text: str) -> Float[np.ndarray, " D"]:
        """Return the code of a text. Raises ConfigError if it cannot be encoded."""
        return self._encode([self.check(text)])[0]

    def pca(self) -> Float[np.ndarray, "n 2"]:
        """Return the corpus's coordinates along the two directions of largest variance."""
        return self.gaussian.project(self.codes, 2)

    def umap(self) -> Float[np.ndarray, "n 2"]:
        """Return the corpus's UMAP layout; it takes minutes the first time, then it is cached."""
        return self.cache.get("map", len(self.texts), lambda: umap(self.codes))

    @cached_property
    def clusters(self) -> np.ndarray:
        """The cluster of each text: k-means along the directions of largest variance, (n,)."""
        return clusters(self.gaussian.project(self.codes, 50), CLUSTERS)

    def groups(self, by: str) -> list[str] | Float[np.ndarray, " n"]:
        """Return the groups that the map is coloured by.

        Args:
            by: "length", "kind", "cluster" or "label".

        Returns:
            One group name per text; for "length" one number per text.
        """
        if by == "length":
            return np.asarray([len(text) for text in self.texts], float)
        if by == "kind":
            return [texts.kind(text, self.python) for text in self.texts]
        if by == "label" and self.corpus.labels:
            return [label or "no label" for label in self.corpus.labels]
        require(by == "cluster", f"{by!r}: give length, kind or cluster; these texts have no label")
        return [f"cluster {number + 1}" for number in self.clusters]

    def _near(self, code: np.ndarray, k: int, metric: str = "cosine") -> list[answers.Neighbour]:
        rows, distances = nearest(code, self.codes, k, metric)
        pairs = zip(rows, distances, strict=True)
        return [answers.Neighbour(int(i), self.texts[int(i)], float(d)) for i, d in pairs]

    def _encode(self, given: list[str]) -> Float[np.ndarray, "n D"]:
        return np.asarray(self.model.encode(given), np.float32).reshape(len(given), self.size)

    def _encode_all(self) -> Float[np.ndarray, "n D"]:
        codes = self._encode(self.texts)
        if not np.isfinite(codes).all():
            raise ConfigError("the model is broken: its codes of these texts are not finite")
        return codes

    def _decode(self, codes: Float[np.ndarray, "n D"], **options: Any) -> list[str]:
        """Decode codes; options other than 0 need a model with `max_noise` (see `protocol`)."""
        shape = (len(codes), self.model.num_latents, self.model.dim)
        given = {name: x for name, x in options.items() if np.any(x)}
        require(
            not given.keys() - {"seed"} or self.max_noise > 0,
            f"this model decodes without {' and '.join(given.keys() - {'seed'})}: leave it at 0",
        )
        if not self.max_noise:
            given = {}
        return self.model.decode(np.ascontiguousarray(codes, np.float32).reshape(shape), **given)

    def _on_space(self, codes: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
        """Return changed codes as the model makes codes, if it has a method for it."""
        place: Any = getattr(self.model, "on_space", None)
        if place is None:
            return codes
        shape = (len(codes), self.model.num_latents, self.model.dim)
        return np.asarray(place(codes.reshape(shape)), np.float32).reshape(len(codes), self.size)

    def _path_noise(
        self,
        codes: Float[np.ndarray, "n D"],
        a: Float[np.ndarray, " D"],
        b: Float[np.ndarray, " D"],
    ) -> Any:
        """Return the noise that the decoder assumes in codes between two ends; 0: it reads none."""
        found: Any = getattr(self.model, "path_noise", None)
        if found is None:
            return 0.0
        shape = (-1, self.model.num_latents, self.model.dim)
        sigma = found(codes.reshape(shape), a.reshape(shape)[0], b.reshape(shape)[0])
        return 0.0 if sigma is None else sigma

    def _again(
        self, codes: Float[np.ndarray, "n D"], ends: tuple[Any, Any] | None = None
    ) -> Float[np.ndarray, "n D"]:
        """Decode codes and encode the texts (see `interpolation.reencoded`).

        Args:
            codes: the codes.
            ends: those of the path on which they are mixed; None: they are codes of texts.
        """

        def decode(mixed: np.ndarray) -> list[str]:
            mixed = self._on_space(mixed)
            return self._decode(
                mixed, assumed_noise=self._path_noise(mixed, *ends) if ends else 0.0
            )

        def encode(given: list[str]) -> np.ndarray:
            parts = [given[i : i + AT_A_TIME] for i in range(0, len(given), AT_A_TIME)]
            # More at a time would be compiled anew.
            return np.concatenate([self.model.encode(part, truncate=True) for part in parts])

        return reencoded(codes, decode, encode)

    def _one_of_each_length(self) -> list[str]:
        """Return one text per number of tokens, if one is found: made of a's, or of the corpus."""
        tokenizer, limit = self.model.tokenizer, self.model.max_length
        made = ["a" * count for count in range(1, MAX_CHARACTERS, max(1, limit // 8))]
        made += [" ".join(["a"] * count) for count in range(1, limit + 1)]
        found: dict[int, str] = {}
        given = [*made, *self.texts]
        for text, ids in zip(given, tokenizer.encode(given), strict=True):
            if len(ids) < limit:
                found.setdefault(len(ids), text)
        return list(found.values())
