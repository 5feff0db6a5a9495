"""`Explorer`: answers, as plain data, to every question that the app asks about a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae.config.ranges import SEEDS
from flaxae.errors import ConfigError, require
from flaxae.explore import answers, texts
from flaxae.explore.space import MAX_SAMPLES, LatentSpace
from flaxae.measures.text import edit_distance, is_valid, path_lengths
from flaxae.text_autoencoder.interpolation import MIXED, path_codes

FAR = 0.01  # a code is far from the corpus if at most this share of its codes is less likely
STEPS = 100  # positions of the slider between two texts
DIRECTIONS = 8  # principal directions that a page offers


class Explorer(LatentSpace):
    """A model, the texts it is explored with, and their codes.

    >>> from flaxae.explore import Explorer
    >>> explorer = Explorer.open("runs/t5_vae")  # doctest: +SKIP
    >>> explorer.between("import os", "return self.x").texts  # doctest: +SKIP
    """

    def between(self, a: str, b: str, how: str = "", steps: int = 11) -> answers.Interpolation:
        """Decode the codes along the path from a to b.

        Args:
            a: first text.
            b: last text.
            how: one of `paths`; "": the best by the run's evaluation (see `best_path`).
            steps: number of texts, both ends included.
        """
        require(2 <= steps <= MAX_SAMPLES, f"steps={steps} must be 2 to {MAX_SAMPLES}")
        how = how or self.best_path[0]
        decoded = self._path(a, b, how, np.linspace(0, 1, steps))
        lengths = path_lengths(decoded)
        return answers.Interpolation(
            texts=decoded,
            parses=self._parse(decoded),
            repeats=[i > 0 and text == decoded[i - 1] for i, text in enumerate(decoded)],
            path_ratio=lengths.ratio,
            largest_step=lengths.largest_share,
            distinct=lengths.distinct / lengths.texts,
            path=how,
        )

    def between_at(self, a: str, b: str, step: int, how: str = "") -> str:
        """Decode the code at step / 100 of the path from a to b (see `between`)."""
        require(0 <= step <= STEPS, f"step={step} must be 0 to {STEPS}")
        return self._path(a, b, how, np.asarray([step / STEPS]))[0]

    def point(self, index: int, k: int = 5) -> answers.Point:
        """Decode the code of a text of the corpus, and find its neighbours.

        Args:
            index: number of the text.
            k: number of neighbours.
        """
        last = len(self.texts) - 1
        require(0 <= index <= last, f"point {index}: points are numbered 0 to {last}")
        return self._point(self.codes[index], k, self.texts[index])

    def place(self, x: float, y: float, k: int = 5) -> answers.Point:
        """Decode a place of the PCA map, and find the nearest texts.

        Args:
            x: coordinate along the first principal direction.
            y: coordinate along the second principal direction.
            k: number of neighbours.
        """
        code = self.gaussian.place(np.asarray([x, y]))
        return self._point(self._on_space(code[None])[0], k, None)

    def around(
        self,
        text: str,
        directions: Mapping[int, float] | None = None,
        dims: Mapping[int, float] | None = None,
        noise: float = 0.0,
        seed: int = 0,
    ) -> str:
        """Move the code of a text, and decode it.

        Args:
            text: the text whose code is moved.
            directions: number of a principal direction -> standard deviations to move along it.
            dims: index into the flat code -> standard deviations of that number to add to it.
            noise: sigma of the model's channel, through which the moved code is sent.
            seed: seed of the noise.
        """
        SEEDS.check("seed", seed, int)
        self._check_noise(noise)
        offset = self._offset(directions or {}, dims or {})
        code = self.encode(text)[None]
        if offset.any():
            code = self._on_space(code + offset)
        return self._decode(code, noise=noise, seed=seed)[0]

    def grid(
        self, text: str, across: int, down: int, span: float = 2.0, size: int = 5
    ) -> list[list[str]]:
        """Decode a grid of codes around a text, along two principal directions.

        Args:
            text: the text in the middle.
            across: number of the direction of the columns.
            down: number of the direction of the rows.
            span: standard deviations from the middle to an edge.
            size: number of rows and of columns.

        Returns:
            Rows of texts, from -span to span.
        """
        require(across != down, "across and down are the same direction: choose two")
        require(2 <= size <= 8, f"size={size} must be 2 to 8")
        code, amounts = self.encode(text), np.linspace(-span, span, size)
        codes = [
            code + self._offset({down: y}, {}) + self._offset({across: x}, {})
            for y in amounts
            for x in amounts
        ]
        decoded = self._decode(self._on_space(np.stack(codes)))
        return [decoded[i : i + size] for i in range(0, len(decoded), size)]

    def arithmetic(self, a: str, b: str, c: str, k: int = 5) -> answers.Arithmetic:
        """Decode the code a - b + c, and compare the text with its neighbours and with a, b and c.

        Args:
            a: text whose code is added.
            b: text whose code is subtracted.
            c: text whose code is added.
            k: number of neighbours.
        """
        given = [self.check(text) for text in (a, b, c)]
        za, zb, zc = self._encode(given)
        code = self._on_space(((za - zb) + zc)[None])[0]
        decoded = self._decode(code[None])[0]
        copies = [
            answers.Copy(name, text, edit_distance(decoded, text), _cosine(code, z))
            for name, text, z in zip("abc", given, (za, zb, zc), strict=True)
        ]
        return answers.Arithmetic(decoded, self._near(code, k), copies, is_valid(decoded))

    def samples(
        self,
        prior: str = "normal",
        n: int = 16,
        temperature: float = 1.0,
        seed: int = 0,
        decode_temperature: float = 0.0,
        noise: float = 0.0,
    ) -> answers.Samples:
        """Decode codes drawn from a prior.

        Args:
            prior: "normal" (N(0, I)), "gaussian", "gmm", "flow" or "autoregressive".
            n: number of codes.
            temperature: standard deviation of the noise that codes are made from.
            seed: seed of the random draw.
            decode_temperature: temperature of the choice of ids; 0: the most likely ones.
            noise: sigma of the model's channel, through which codes are sent.
        """
        SEEDS.check("seed", seed, int)
        self._check_noise(noise)
        for name, x in (("temperature", temperature), ("decode_temperature", decode_temperature)):
            require(0 <= x <= 10, f"{name}={x} must be 0 to 10")
        require(1 <= n <= MAX_SAMPLES, f"n={n} must be 1 to {MAX_SAMPLES}")
        source = self.model.prior(prior)
        drawn = np.asarray(source.sample(n, seed, temperature), np.float32)
        options = {"temperature": decode_temperature, "noise": noise, "seed": seed}
        assumed: Any = getattr(self.model, "assumed_noise", None)
        if assumed is not None:
            options["assumed_noise"] = assumed(source) or 0.0
        decoded = self._decode(drawn.reshape(n, self.size), **options)
        corpus = set(self.texts)
        return answers.Samples(
            texts=decoded,
            parses=self._parse(decoded),
            distinct=len(set(decoded)) / n,
            known=sum(text in corpus for text in decoded) / n,
        )

    def neighbours(self, text: str, k: int = 10, metric: str = "cosine") -> list[answers.Neighbour]:
        """Find the texts of the corpus whose codes are nearest to the code of a text.

        Args:
            text: any text.
            k: number of neighbours.
            metric: "cosine" (1 - cosine similarity) or "euclid".
        """
        require(1 <= k <= 100, f"k={k} must be 1 to 100")
        require(metric in ("cosine", "euclid"), f"{metric!r} is neither 'cosine' nor 'euclid'")
        return self._near(self.encode(text), k, metric)

    def reconstruct(self, text: str) -> answers.Reconstruction:
        """Encode and decode a text, and rate the likelihood of its code among the corpus's."""
        code = self.encode(text)
        decoded = self._decode(code[None])[0]
        percentile = self.gaussian.percentile(code)
        return answers.Reconstruction(
            text=text,
            decoded=decoded,
            diff=texts.diff(text, decoded),
            edits=edit_distance(text, decoded),
            percentile=percentile,
            log_likelihood=float(self.gaussian.log_likelihood(code[None])[0]),
            median=float(np.median(self.gaussian.log_likelihoods)),
            far=percentile < FAR,
            lost=self.lost(text),
        )

    def _path(self, a: str, b: str, how: str, fractions: Float[np.ndarray, " n"]) -> list[str]:
        """Return the decoded texts at fractions of the path between two texts."""
        how = how or self.best_path[0]
        require(how in self.paths, f"{how!r}: give one of {', '.join(self.paths)}")
        za, zb = self._encode([self.check(a), self.check(b)])
        prior: Any = self.model.prior("flow") if how == "prior" else None
        again = {"again": self._again, "first": lambda codes: self._again(codes, (za, zb))}
        codes = self._on_space(path_codes(how, za, zb, fractions, prior=prior, **again))
        assumed = self._path_noise(codes, za, zb) if how in MIXED else 0.0
        return self._decode(codes, assumed_noise=assumed)

    def _check_noise(self, noise: float) -> None:
        most = self.max_noise
        require(0 <= noise <= most, f"noise={noise} must be 0 to {most:g}")

    def _offset(
        self, directions: Mapping[int, float], dims: Mapping[int, float]
    ) -> Float[np.ndarray, " D"]:
        """Return the sum of moves along principal directions and of changes of single numbers."""
        out = np.zeros(self.size, np.float32)
        std = np.asarray(self.model.statistics.std, np.float32).ravel()
        last = self.size - 1
        for number, amount in directions.items():
            require(0 <= number <= last, f"direction {number}: directions are 0 to {last}")
            length = np.float32(amount * self.gaussian.variances[number] ** 0.5)
            out += length * self.gaussian.directions[number]
        for number, amount in dims.items():
            require(0 <= number <= last, f"number {number} of the code: numbers are 0 to {last}")
            out[number] += np.float32(amount) * std[number]
        return out

    def _point(self, code: Float[np.ndarray, " D"], k: int, text: str | None) -> answers.Point:
        return answers.Point(text, self._decode(code[None])[0], self._near(code, k))

    def _parse(self, decoded: list[str]) -> list[bool] | None:
        """Return True for each text that is valid Python; None if the corpus is not Python."""
        return [is_valid(text) for text in decoded] if self.python else None


def check_explorer(given: object) -> None:
    """Raise ConfigError, with the call that makes an explorer, if an object is not one."""
    if isinstance(given, LatentSpace):
        return
    path = isinstance(given, (str, Path))
    call = f"Explorer.open({str(given)!r})" if path else "Explorer(model, texts)"
    raise ConfigError(
        f"give an explorer, not a {type(given).__name__}: flaxae.explore.{call} makes one"
    )


def _cosine(a: Float[np.ndarray, " D"], b: Float[np.ndarray, " D"]) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
