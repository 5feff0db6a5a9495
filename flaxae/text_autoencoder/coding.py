"""`TextCoder`: texts to codes, and codes to texts."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from flaxae.errors import require
from flaxae.text_autoencoder import checks
from flaxae.text_autoencoder.channel import Channel
from flaxae.text_autoencoder.pretrained import Pretrained
from flaxae.text_autoencoder.priors import StandardNormal


class TextCoder(Pretrained):
    """Texts as codes, and codes as texts: the part of `TextAutoencoder` without its operations.

    Calls of any number of texts are padded to a few sizes inside, so that new sizes compile
    nothing, and the code of a text does not depend on the other texts of the call.

    Attributes:
        autoregressive: False for a family that decodes all tokens at once, without beams.
    """

    autoregressive: ClassVar[bool] = True

    @property
    def max_noise(self) -> float:
        """The largest noise that a slider offers: hardly anything of a code is left.

        Examples:
            >>> 0 < vae.max_noise <= 2
            True
        """
        return 0.99 if self._codec.channel is Channel.PRESERVING else 2.0

    def encode(self, texts: Sequence[str], *, truncate: bool = False) -> Float[np.ndarray, "B L Z"]:
        """Encode texts.

        Examples:
            >>> vae.encode([]).shape[0]
            0

        Args:
            texts: any number of texts.
            truncate: cut texts of more than max_length tokens; otherwise they are an error.

        Returns:
            Clean codes, float32.

        Raises:
            ConfigError: if it is not a list of texts, or a text is empty or too long.
        """
        return self._codec.encode_ids(
            checks.texts(texts, self.tokenizer, self.max_length, truncate)
        )

    def encode_ids(self, ids: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B L Z"]:
        """Encode rows of the tokenizer's ids.

        Args:
            ids: rows with EOS (1), padded with 0.

        Returns:
            Clean codes, float32.

        Raises:
            ConfigError: if an id is out of range, or a row is too long or empty.
        """
        return self._codec.encode_ids(checks.ids(ids, self.tokenizer.vocab_size, self.max_length))

    def decode(
        self,
        z: Float[np.ndarray, "B L Z"],
        *,
        noise: float = 0.0,
        assumed_noise: float | Float[np.ndarray, " B"] | None = None,
        seed: int = 0,
        **sampling: Any,
    ) -> list[str]:
        """Decode codes, greedily by default.

        Examples:
            >>> z = vae.encode(["import os"])
            >>> vae.decode(z) == vae.decode(z, temperature=1.0, top_k=1)
            True

        Args:
            z: clean codes; flattened codes (B, L * Z) are accepted as well. Codes that you have
                changed: see `on_space`.
            noise: sigma of the model's channel, through which codes are sent first (see
                `flaxae.text_autoencoder.channel`); 0: no noise.
            assumed_noise: sigma that a decoder that reads it (task.latent.reads_noise) assumes in
                the codes, one for all or one per code; None: `noise`, or if that is 0 the smallest
                of training.
            seed: seed of random choices and of the noise, from 0 to 2 ** 32 - 1.
            **sampling: fields of `decoding.Sampling`: temperature, top_k, top_p, or beams and
                length_penalty.

        Returns:
            One text per code.

        Raises:
            ConfigError: if codes have another shape or are not finite, or an option is unknown or
                out of range.
        """
        seed, sigma = checks.whole("seed", seed, 0), checks.noise(noise, self._codec.channel)
        codes = checks.codes(z, self.num_latents, self.dim)
        options = checks.sampling(sampling)
        require(
            self.autoregressive or options.beams == 1,
            f"beams={options.beams}: a {self.family} decodes all tokens of a text at once, so "
            "there are no beams; leave them out, or give temperature, top_k or top_p",
        )
        if assumed_noise is not None:
            require(
                self._codec.reads_noise,
                f"assumed_noise={assumed_noise}: the decoder of this model does not read the noise "
                "(it was trained without task.latent.reads_noise); leave it out",
            )
            given: Any = assumed_noise
            assumed_noise = checks.noises(given, len(codes), self._codec.channel, "assumed_noise")
        return self._codec.decode(codes, options, seed, sigma, assumed_noise)

    def on_space(self, z: Float[np.ndarray, "... Z"]) -> Float[np.ndarray, "n L Z"]:
        """Return changed codes as the model makes codes, before they are decoded.

        With the preserving channel, latents are scaled to norm sqrt(Z), from which sums and
        straight paths move them away. `interpolate`, `analogy` and `traverse` do it themselves.

        Examples:
            >>> z = vae.encode(["import os", "return self.x"])
            >>> vae.on_space(z.mean(0)).shape == (1, vae.num_latents, vae.dim)
            True

        Args:
            z: codes (n, L, Z) or (n, L * Z), or one code (L, Z).

        Raises:
            ConfigError: if codes have another shape or are not finite.
        """
        z = np.asarray(z)
        rows = z[None] if z.shape == (self.num_latents, self.dim) else z
        return self._codec.on_space(checks.codes(rows, self.num_latents, self.dim))

    def assumed_noise(self, prior: Any) -> float | None:
        """Return the sigma that a decoder that reads it assumes in draws of a prior.

        Draws of N(0, I) are like codes with the largest noise of training. Other priors are fitted
        to clean codes, for which the smallest is assumed: None.
        """
        normal = isinstance(prior, StandardNormal)
        return self._codec.sigma if normal and self._codec.reads_noise else None

    def path_noise(
        self,
        codes: Float[np.ndarray, "n L Z"],
        a: Float[np.ndarray, "L Z"],
        b: Float[np.ndarray, "L Z"],
        noise: float = 0.0,
    ) -> Float[np.ndarray, " n"] | None:
        """Return the sigma that a decoder that reads it assumes in codes between two ends.

        A code in the middle of a slerp is as far from both ends as the code of a text is from what
        the channel makes of it with a strong noise. `interpolate` assumes that noise.

        Args:
            codes: codes of a path, on the model's space.
            a: the first end.
            b: the last end.
            noise: sigma of the channel's noise, through which the codes are sent.

        Returns:
            One sigma per code, for `decode`; None if the decoder does not read the noise.
        """
        return self._codec.path_noise(codes, a, b, noise)

    def reconstruct(
        self, texts: Sequence[str], *, truncate: bool = False, **sampling: Any
    ) -> list[str]:
        """Encode texts and decode their codes.

        Examples:
            >>> len(vae.reconstruct(["import os", "return self.x"]))
            2

        Args:
            texts: any number of texts.
            truncate: see `encode`.
            **sampling: see `decode`.
        """
        return self.decode(self.encode(texts, truncate=truncate), **sampling)
