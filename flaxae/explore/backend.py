"""`Explorer`: every question that the app can ask of an autoencoder, answered as plain data."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from flaxae.errors import require
from flaxae.explore import answers, texts
from flaxae.explore.space import MOST_SAMPLES, Space
from flaxae.measures.text import edit_distance, is_valid, path_lengths
from flaxae.text_autoencoder.interpolation import lerp_at, slerp_at

FAR = 0.01  # less likely than this share of the corpus: far from it
STEPS = 100  # of a slider between two texts
WAYS = {"slerp": slerp_at, "lerp": lerp_at}
DIRECTIONS = 8  # principal directions that have sliders


class Explorer(Space):
    """A model, the texts it is explored with, and their codes.

    >>> from flaxae.explore import Explorer
    >>> explorer = Explorer.open("runs/t5_vae")  # doctest: +SKIP
    >>> explorer.between("import os", "return self.x").texts  # doctest: +SKIP
    """

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
        way = path_lengths(made)
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

    def _parse(self, made: list[str]) -> list[bool] | None:
        """Whether each parses; None where the corpus is not Python."""
        return [is_valid(text) for text in made] if self.python else None


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
