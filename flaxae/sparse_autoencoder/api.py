"""The class that users open sparse autoencoders with."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.config.locate import user_path
from flaxae.sparse_autoencoder import files, saelens
from flaxae.sparse_autoencoder.modules import SparseAutoencoder
from flaxae.sparse_autoencoder.origin import Origin
from flaxae.task import Context


class SAE:
    """A sparse autoencoder or transcoder with the states that it was trained on.

    Args:
        module: the forward pass.
        origin: model, hook and layer.
    """

    def __init__(self, module: SparseAutoencoder, origin: Origin | None = None):
        self.module, self.origin = module, origin or Origin()
        self._graphdef, self._state = nnx.split(module)
        self._encode = jax.jit(self._run_encode)
        self._decode = jax.jit(self._run_decode)

    @classmethod
    def from_pretrained(cls, source: str | Path, **expected: Any) -> "SAE":
        """Open a dictionary of SAELens, Gemma Scope 1 or 2, or sparsify.

        Args:
            source: a directory, or its file of weights.
            **expected: what it must have been trained on: model, fingerprint, hook, layer, or
                another field of `Origin`; `transcoder=True` for those of Gemma Scope 1.

        Raises:
            ConfigError: see `files.load`.
        """
        return cls(*files.load(source, **expected))

    def save_saelens(self, directory: str | Path) -> None:
        """Write a directory that `sae_lens.SAE.load_from_disk` opens.

        Raises:
            ConfigError: if SAELens has no such architecture.
        """
        saelens.write(user_path(directory), self.module, self.origin)

    def encode(self, x: Float[Array, "... I"]) -> Float[Array, "... F"]:
        """Return the latents of states."""
        return self._encode(self._state, jnp.asarray(x, jnp.float32))

    def decode(
        self, latents: Float[Array, "... F"], x: Float[Array, "... I"] | None = None
    ) -> Float[Array, "... O"]:
        """Return the states of latents; see `SparseAutoencoder.decode` for `x`."""
        x = None if x is None else jnp.asarray(x, jnp.float32)
        return self._decode(self._state, jnp.asarray(latents, jnp.float32), x)

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        """Return the reconstruction of states, or a transcoder's output."""
        return self.decode(self.encode(x), x)

    def __repr__(self) -> str:
        config, origin = self.module.config, self.origin
        return (
            f"SAE(d_in={config.d_in}, d_sae={config.d_sae}, {config.activation.value}, "
            f"model={origin.model!r}, hook={origin.hook!r}, layer={origin.layer})"
        )

    def _run_encode(self, state: Any, x: Array) -> Array:
        return nnx.merge(self._graphdef, state).encode(x, _context())

    def _run_decode(self, state: Any, latents: Array, x: Array | None) -> Array:
        return nnx.merge(self._graphdef, state).decode(latents, _context(), x)


def _context() -> Context:
    return Context(jax.random.key(0), jnp.int32(0))
