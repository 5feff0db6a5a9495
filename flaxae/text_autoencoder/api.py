"""`TextAutoencoder`: the methods of the classes that users load, such as `flaxae.T5VAE`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae.errors import ConfigError, require
from flaxae.text_autoencoder import checks
from flaxae.text_autoencoder.coding import TextCoder
from flaxae.text_autoencoder.interpolation import MIXED, ROUNDS, path_codes, reencoded
from flaxae.text_autoencoder.priors import Prior

Code = Float[np.ndarray, "L Z"]


class TextAutoencoder(TextCoder):
    """Texts as codes, and operations on codes. A family's class names its parts (see `Pretrained`).

    Encoding and decoding are methods of `TextCoder`.

    Attributes:
        config: the config of the run.
        step: train step of the parameters.
        tokenizer: the model's tokenizer.
        max_length: tokens per text, EOS included.
        num_latents, dim: the shape of a code is (num_latents, dim).
    """

    def interpolate(
        self,
        a: str | Code,
        b: str | Code,
        steps: int = 9,
        path: str = "slerp",
        *,
        prior: str | Prior | None = None,
        rounds: int | None = None,
        noise: float = 0.0,
        **sampling: Any,
    ) -> list[str]:
        """Return the texts on a path from a to b, decoded ends included.

        Examples:
            >>> texts = vae.interpolate("import os", "return self.x", steps=3, path="lerp")
            >>> [texts[0], texts[-1]] == vae.reconstruct(["import os", "return self.x"])
            True
            >>> len(vae.interpolate("import os", "return self.x", path="denoised", noise=0.1))
            9

        Args:
            a: first end, a text or a code.
            b: last end, a text or a code.
            steps: number of texts, at least 2.
            path: "slerp" (Shoemake 1985); "lerp"; "prior": a slerp between the noises of both
                codes; "denoised": a slerp whose inner codes are decoded and encoded again.
            prior: the prior of the path "prior", see `prior`; None: "flow". If it is given, the
                path is "prior".
            rounds: rounds of decoding and encoding, for the path "denoised"; None: 2.
            noise: see `decode`.
            **sampling: see `decode`. By default the decoder assumes the noise of `path_noise` on
                "slerp" and "lerp".

        Raises:
            ConfigError: if an argument is wrong.
        """
        require("how" not in sampling, "how=: the argument is called path, see interpolate")
        codes = self.path(a, b, steps, path, prior=prior, rounds=rounds)
        if path in MIXED and prior is None and sampling.get("assumed_noise") is None:
            sigma = checks.noise(noise, self._codec.channel)
            sampling["assumed_noise"] = self.path_noise(codes, codes[0], codes[-1], sigma)
        return self.decode(codes, noise=noise, **sampling)

    def path(
        self,
        a: str | Code,
        b: str | Code,
        steps: int = 9,
        path: str = "slerp",
        *,
        prior: str | Prior | None = None,
        rounds: int | None = None,
    ) -> Float[np.ndarray, "steps L Z"]:
        """Return the codes that `interpolate` decodes.

        Examples:
            >>> vae.path("import os", "return self.x", steps=4).shape[0]
            4

        Args:
            a: first end, a text or a code.
            b: last end, a text or a code.
            steps: number of codes, at least 2.
            path: see `interpolate`.
            prior: see `interpolate`.
            rounds: see `interpolate`.

        Raises:
            ConfigError: if an argument is wrong.
        """
        require(steps >= 2, f"steps={steps}: a path has at least 2, its ends")
        require(
            rounds is None or path == "denoised",
            f"rounds={rounds}: path={path!r} has no rounds; leave it out, or give path='denoised'",
        )
        rounds = ROUNDS if rounds is None else checks.whole("rounds", rounds, 0)
        first, last = self._codes([a, b])
        if prior is not None:
            require(
                path in ("slerp", "prior"),
                f"path={path!r}: a prior is used by the path 'prior' only; leave one of them out",
            )
            path = "prior"

        def again(given: Code, mixed: bool = False) -> Code:
            def decode(z: Code) -> list[str]:
                z = self.on_space(z)
                return self.decode(
                    z, assumed_noise=self.path_noise(z, first, last) if mixed else None
                )

            return reencoded(given, decode, lambda texts: self.encode(texts, truncate=True))

        codes = path_codes(
            path,
            first,
            last,
            np.linspace(0, 1, steps),
            prior=self.prior(prior or "flow") if path == "prior" else None,
            again=again,
            first=lambda given: again(given, mixed=True),
            rounds=rounds,
        )
        return self.on_space(codes)

    def analogy(self, a: str | Code, b: str | Code, c: str | Code, **sampling: Any) -> str:
        """Return the text of the code a - b + c, which is to c as a is to b.

        Examples:
            >>> vae.analogy("x = 1", "x = 1", "y = 2") == vae.reconstruct(["y = 2"])[0]
            True

        Args:
            a: a text or a code.
            b: a text or a code.
            c: a text or a code.
            **sampling: see `decode`.
        """
        za, zb, zc = self._codes([a, b, c])
        return self.decode(self.on_space((za - zb) + zc), **sampling)[0]

    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        prior: str | Prior | None = None,
        seed: int = 0,
        noise: float = 0.0,
        assumed_noise: float | None = None,
        **sampling: Any,
    ) -> list[str]:
        """Decode codes drawn from a prior, as drawn (not by `on_space`).

        Examples:
            >>> len(vae.sample(3, temperature=0.8, prior="gaussian", decode_temperature=1.0))
            3

        Args:
            n: number of texts.
            temperature: standard deviation of the noise that codes are made of. The temperature of
                the ids is `decode_temperature`; by default decoding is greedy.
            prior: see `prior`.
            seed: seed of codes, ids and the channel's noise.
            noise: see `decode`.
            assumed_noise: see `decode`; None: for N(0, I) the largest noise of training, whose
                codes its draws are like; for other priors as in `decode`.
            **sampling: see `decode`.

        Raises:
            ConfigError: if an argument is wrong, or there is no such prior.
        """
        require(n >= 0, f"n={n} must not be negative")
        require(0 <= temperature < float("inf"), f"temperature={temperature} must be at least 0")
        seed = checks.whole("seed", seed, 0)
        if "decode_temperature" in sampling:
            sampling["temperature"] = sampling.pop("decode_temperature")
        found = self.prior(prior)
        if assumed_noise is None:
            assumed_noise = self.assumed_noise(found)
        options = {"noise": noise, "assumed_noise": assumed_noise, "seed": seed}
        return self.decode(found.sample(n, seed, temperature), **options, **sampling)

    def nearest(
        self,
        text: str | Code,
        corpus: Sequence[str],
        k: int = 5,
        *,
        metric: str = "cosine",
        codes: Float[np.ndarray, "n L Z"] | None = None,
    ) -> list[tuple[str, float]]:
        """Return the texts of a corpus whose codes are nearest to a given one.

        Examples:
            >>> vae.nearest("import os", ["return self.x", "import os"], k=1)[0][0]
            'import os'

        Args:
            text: a text or a code.
            corpus: the texts to search.
            k: number of texts; of a smaller corpus all are returned.
            metric: "cosine" (1 - cosine) or "euclid".
            codes: codes of the corpus; None: they are computed.

        Returns:
            Up to k pairs (text, distance), nearest first.

        Raises:
            ConfigError: if an argument is wrong.
        """
        require(k >= 1, f"k={k} must be at least 1")
        query = self._codes([text])[0].ravel()
        if codes is None:
            codes = self.encode(corpus)
        keys = checks.codes(codes, self.num_latents, self.dim)
        keys = keys.reshape(len(keys), self.num_latents * self.dim)  # (n, L * Z)
        require(len(keys) == len(corpus), f"{len(keys)} codes of {len(corpus)} texts")
        if metric == "cosine":
            norms = np.linalg.norm(keys, axis=1) * np.linalg.norm(query)
            distance = 1 - keys @ query / np.maximum(norms, 1e-12)
        elif metric == "euclid":
            distance = np.linalg.norm(keys - query[None], axis=1)
        else:
            raise ConfigError(f"metric={metric!r} is neither 'cosine' nor 'euclid'")
        best = np.argsort(distance, kind="stable")[:k]
        return [(corpus[int(i)], float(distance[i])) for i in best]

    def traverse(
        self, text: str | Code, dim: int, values: Sequence[float], **sampling: Any
    ) -> list[str]:
        """Decode a code with one of its numbers set to each of several values.

        Examples:
            >>> mean, std = (float(x.ravel()[0]) for x in vae.statistics[:2])
            >>> len(vae.traverse("import os", 0, [mean - 2 * std, mean, mean + 2 * std]))
            3

        Args:
            text: a text or a code.
            dim: index of the number in the flattened code.
            values: values of that number, before the code is put back on the model's space (see
                `on_space`); see `statistics` for its mean and standard deviation.
            **sampling: see `decode`.

        Raises:
            ConfigError: if `dim` is out of range.
        """
        size = self.num_latents * self.dim
        require(0 <= dim < size, f"dim={dim} must be from 0 to {size - 1}")
        codes = np.repeat(self._codes([text]).reshape(1, size), len(values), axis=0)
        codes[:, dim] = values
        return self.decode(self.on_space(codes), **sampling)

    def _codes(self, given: Sequence[str | Code]) -> Float[np.ndarray, "n L Z"]:
        """Return one code per text or code; texts are encoded in one call."""
        texts = [x for x in given if isinstance(x, str)]
        encoded = iter(self.encode(texts))
        rows = [
            next(encoded)
            if isinstance(x, str)
            else checks.codes(np.asarray(x).reshape(1, -1), self.num_latents, self.dim)[0]
            for x in given
        ]
        return np.stack(rows)
