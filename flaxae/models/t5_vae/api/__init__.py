"""`flaxae.T5VAE`: a trained T5-VAE to encode, decode and explore with."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from flaxae.data.text import digest
from flaxae.decoding import Sampling
from flaxae.errors import ConfigError, require
from flaxae.models.t5_vae.api.pretrained import Pretrained
from flaxae.storage.fingerprint import fingerprint
from flaxae.text_autoencoder import checks
from flaxae.text_autoencoder.latents import lerp, slerp
from flaxae.text_autoencoder.priors import Prior

Code = Float[np.ndarray, "L Z"]


class T5VAE(Pretrained):
    """Texts as codes, and what can be done with them.

    >>> import flaxae
    >>> vae = flaxae.T5VAE.from_pretrained("runs/t5_vae")  # doctest: +SKIP
    >>> z = vae.encode(["import os", "return self.x"])
    >>> z.shape == (2, vae.num_latents, vae.dim)
    True
    >>> likely, drawn = vae.decode(z, beams=4), vae.decode(z, temperature=0.7, seed=1)
    >>> len(vae.interpolate("import os", "return self.x", steps=5))
    5

    Calls of any number of texts are padded to a few sizes inside, so that new sizes compile
    nothing, and a text's code does not depend on the other texts.

    Attributes:
        config: of the run.
        step: the train step of the parameters.
        tokenizer: of the model.
        max_length: of texts in tokens, EOS included.
        num_latents, dim: a code is (num_latents, dim).
    """

    def encode(self, texts: Sequence[str], *, truncate: bool = False) -> Float[np.ndarray, "B L Z"]:
        """Codes of texts.

        >>> vae.encode([]).shape[0]
        0

        Args:
            texts: any number of them.
            truncate: cut a text of more than max_length tokens; else it is an error.

        Returns:
            Clean codes, float32.

        Raises:
            ConfigError: a text is empty or too long, or it is no list of texts.
        """
        return self._codec.encode_ids(
            checks.texts(texts, self.tokenizer, self.max_length, truncate)
        )

    def encode_ids(self, ids: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B L Z"]:
        """Codes of the tokenizer's ids, EOS (1) included, then 0.

        Raises:
            ConfigError: an id is out of range, or a row too long or empty.
        """
        return self._codec.encode_ids(checks.ids(ids, self.tokenizer.vocab_size, self.max_length))

    def decode(self, z: Float[np.ndarray, "B L Z"], *, seed: int = 0, **sampling: Any) -> list[str]:
        """Texts of codes: greedy, if nothing else is asked for.

        >>> z = vae.encode(["import os"])
        >>> vae.decode(z) == vae.decode(z, temperature=1.0, top_k=1)
        True

        Args:
            z: clean codes, also (B, L * Z).
            seed: of what is drawn, from 0 to 2 ** 32 - 1.
            sampling: fields of `decoding.Sampling`: temperature, top_k, top_p, or beams and
                length_penalty.

        Raises:
            ConfigError: codes of another shape or not finite, no such field, or one out of range.
        """
        seed = checks.whole("seed", seed, 0)
        codes = checks.codes(z, self.num_latents, self.dim)
        return self._codec.decode(codes, _sampling(sampling), seed)

    def reconstruct(
        self, texts: Sequence[str], *, truncate: bool = False, **sampling: Any
    ) -> list[str]:
        """decode(encode(texts)).

        >>> len(vae.reconstruct(["import os", "return self.x"]))
        2
        """
        return self.decode(self.encode(texts, truncate=truncate), **sampling)

    def interpolate(
        self,
        a: str | Code,
        b: str | Code,
        steps: int = 9,
        how: str = "slerp",
        *,
        prior: str | Prior | None = None,
        **sampling: Any,
    ) -> list[str]:
        """Texts on the way from a to b, both included as they are decoded.

        >>> way = vae.interpolate("import os", "return self.x", steps=3, how="lerp")
        >>> [way[0], way[-1]] == vae.reconstruct(["import os", "return self.x"])
        True

        Args:
            a, b: texts or codes.
            steps: how many texts, at least 2.
            how: "slerp" (Shoemake 1985) or "lerp".
            prior: see `prior`; then the way is a slerp between the two codes' noise.
            sampling: see `decode`.
        """
        return self.decode(self.path(a, b, steps, how, prior=prior), **sampling)

    def path(
        self,
        a: str | Code,
        b: str | Code,
        steps: int = 9,
        how: str = "slerp",
        *,
        prior: str | Prior | None = None,
    ) -> Float[np.ndarray, "steps L Z"]:
        """The codes that `interpolate` decodes.

        >>> vae.path("import os", "return self.x", steps=4).shape[0]
        4
        """
        require(steps >= 2, f"steps={steps}: the way from a to b has at least 2")
        first, last = self._codes([a, b])
        if prior is not None:
            require(how == "slerp", f"how={how!r}: a prior's way is a slerp in its noise")
            codes = self.prior(prior).interpolate(first.ravel(), last.ravel(), steps)
        elif how == "slerp":
            codes = slerp(first.ravel(), last.ravel(), steps)
        elif how == "lerp":
            codes = lerp(first.ravel(), last.ravel(), steps)
        else:
            raise ConfigError(f"how={how!r} is neither 'slerp' nor 'lerp'")
        return np.asarray(codes, np.float32).reshape(steps, self.num_latents, self.dim)

    def analogy(self, a: str | Code, b: str | Code, c: str | Code, **sampling: Any) -> str:
        """What is to c as a is to b: the text of a - b + c.

        >>> vae.analogy("x = 1", "x = 1", "y = 2") == vae.reconstruct(["y = 2"])[0]
        True

        Args:
            a, b, c: texts or codes.
            sampling: see `decode`.
        """
        za, zb, zc = self._codes([a, b, c])
        return self.decode(((za - zb) + zc)[None], **sampling)[0]

    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        prior: str | Prior | None = None,
        seed: int = 0,
        **sampling: Any,
    ) -> list[str]:
        """Texts of codes drawn from a prior.

        >>> len(vae.sample(3, temperature=0.8, prior="gaussian", top_k=1, decode_temperature=1.0))
        3

        Args:
            n: how many.
            temperature: of the codes: the standard deviation of the noise they are made of. That of
                the ids is `decode_temperature`; by default decoding is greedy.
            prior: see `prior`.
            seed: of codes and ids.
            sampling: see `decode`.
        """
        require(n >= 0, f"n={n} is negative")
        require(0 <= temperature < float("inf"), f"temperature={temperature} must be at least 0")
        seed = checks.whole("seed", seed, 0)
        if "decode_temperature" in sampling:
            sampling["temperature"] = sampling.pop("decode_temperature")
        drawn = self.prior(prior).sample(n, seed, temperature)
        return self.decode(drawn, seed=seed, **sampling)

    def nearest(
        self,
        text: str | Code,
        corpus: Sequence[str],
        k: int = 5,
        *,
        metric: str = "cosine",
        codes: Float[np.ndarray, "n L Z"] | None = None,
    ) -> list[tuple[str, float]]:
        """The texts of a corpus whose codes are nearest.

        Examples:
            >>> vae.nearest("import os", ["return self.x", "import os"], k=1)[0][0]
            'import os'

        Args:
            text: a text or a code.
            corpus: texts.
            k: how many; of a smaller corpus all.
            metric: "cosine" (1 - cosine) or "euclid".
            codes: of the corpus, where they are known.

        Returns:
            (text, distance), nearest first; none of an empty corpus.
        """
        require(k >= 1, f"k={k} must be at least 1")
        here = self._codes([text])[0].ravel()
        if codes is None:
            codes = self.encode(corpus)
        there = checks.codes(codes, self.num_latents, self.dim)
        there = there.reshape(len(there), self.num_latents * self.dim)
        require(len(there) == len(corpus), f"{len(there)} codes of {len(corpus)} texts")
        if metric == "cosine":
            norms = np.linalg.norm(there, axis=1) * np.linalg.norm(here)
            distance = 1 - there @ here / np.maximum(norms, 1e-12)
        elif metric == "euclid":
            distance = np.linalg.norm(there - here[None], axis=1)
        else:
            raise ConfigError(f"metric={metric!r} is neither 'cosine' nor 'euclid'")
        best = np.argsort(distance, kind="stable")[:k]
        return [(corpus[int(i)], float(distance[i])) for i in best]

    def traverse(
        self, text: str | Code, dim: int, values: Sequence[float], **sampling: Any
    ) -> list[str]:
        """Texts of a code with one of its numbers set to each value.

        >>> mean, std = (float(x.ravel()[0]) for x in vae.statistics[:2])
        >>> len(vae.traverse("import os", 0, [mean - 2 * std, mean, mean + 2 * std]))
        3

        Args:
            text: a text or a code.
            dim: which number, of all latents in one row.
            values: what it is set to; `statistics` tells what is usual.
            sampling: see `decode`.
        """
        size = self.num_latents * self.dim
        require(0 <= dim < size, f"dim={dim}: a code has the numbers 0 to {size - 1}")
        codes = np.repeat(self._codes([text]).reshape(1, size), len(values), axis=0)
        codes[:, dim] = values
        return self.decode(codes, **sampling)

    def training_texts(self) -> list[str]:
        """Texts that it was trained on.

        >>> "import os = 0" in vae.training_texts()
        True

        Raises:
            ConfigError: it was saved without them.
        """
        if self._lines is None:
            raise ConfigError(f"{self._source or 'this model'} came without its training texts")
        return list(self._lines())

    def training_labels(self) -> list[str] | None:
        """The labels of `training_texts`; None where the run's data have none.

        >>> vae.training_labels() is None
        True
        """
        return self._labels() if self._labels is not None else None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of parameters and tokenizer.

        >>> len(vae.fingerprint)
        16
        """
        return digest([fingerprint(self._codec.state), str(self.tokenizer.fingerprint)])

    def _codes(self, given: Sequence[str | Code]) -> Float[np.ndarray, "n L Z"]:
        """A code each; texts are encoded in one call."""
        texts = [x for x in given if isinstance(x, str)]
        encoded = iter(self.encode(texts))
        rows = [
            next(encoded)
            if isinstance(x, str)
            else checks.codes(np.asarray(x).reshape(1, -1), self.num_latents, self.dim)[0]
            for x in given
        ]
        return np.stack(rows)


def _sampling(options: dict[str, Any]) -> Sampling:
    known = {f.name for f in dataclasses.fields(Sampling)}
    wrong = sorted(options.keys() - known)
    require(not wrong, f"{', '.join(wrong)}: decoding has {', '.join(sorted(known))}, seed")
    least = {"top_k": 0, "beams": 1}
    return Sampling(
        **{k: checks.whole(k, x, least[k]) if k in least else x for k, x in options.items()}
    )
