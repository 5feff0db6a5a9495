"""A prior that draws the latents of a code one after the other."""

import zlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from flaxae.config.ranges import WHOLE
from flaxae.task import Context
from flaxae.text_autoencoder.priors.autoregressive_modeling import LatentTransformer
from flaxae.text_autoencoder.priors.base import Prior, paths_of_components, read, rows_of, write
from flaxae.text_autoencoder.priors.gaussian import GaussianPrior
from flaxae.text_autoencoder.priors.trained import filled, parameters, to_host

DRAWN, MOST_LIKELY = -1, -2  # components that are not given
ROWS = 64  # rows per call, which are padded: each function is compiled once


@partial(jax.jit, static_argnums=0)
def _inspect(graphdef: Any, state: Any, z: Float[Array, "B L Z"]) -> tuple[Array, Array, Array]:
    """Return log p, the component that is most responsible for each latent, and its noise."""
    mixtures = nnx.merge(graphdef, state)(z, _context())
    joint = mixtures.log_joint(z)
    component = joint.argmax(-1)  # (B, L)
    noise = (z - _of(mixtures.means, component)) / jnp.exp(_of(mixtures.log_stds, component))
    return jax.nn.logsumexp(joint, axis=-1).sum(-1), component, noise


@partial(jax.jit, static_argnums=0)
def _draw(
    graphdef: Any,
    state: Any,
    noise: Float[Array, "B L Z"],
    share: Float[Array, "B L"],
    component: Int[Array, "B L"],
) -> Float[Array, "B L Z"]:
    """Return the code of noise.

    A component DRAWN is chosen by `share`, uniform in [0, 1); MOST_LIKELY is the one with the
    largest weight.
    """
    model = nnx.merge(graphdef, state)

    def step(z: Array, index: Array) -> tuple[Array, None]:
        mixtures = model(z, _context())
        below = jnp.cumsum(jnp.exp(mixtures.log_weights), axis=-1) <= share[:, :, None]
        drawn = jnp.minimum(below.sum(-1), model.components - 1)
        chosen = jnp.where(component == DRAWN, drawn, component)
        chosen = jnp.where(component == MOST_LIKELY, mixtures.log_weights.argmax(-1), chosen)
        made = _of(mixtures.means, chosen) + jnp.exp(_of(mixtures.log_stds, chosen)) * noise
        return jnp.where((jnp.arange(z.shape[1]) == index)[None, :, None], made, z), None

    return jax.lax.scan(step, jnp.zeros_like(noise), jnp.arange(noise.shape[1]))[0]


def _of(values: Float[Array, "B L K Z"], component: Int[Array, "B L"]) -> Float[Array, "B L Z"]:
    return jnp.take_along_axis(values, component[:, :, None, None], axis=2)[:, :, 0]


def _context() -> Context:
    return Context(key=jax.random.key(0), step=jnp.int32(0))


class AutoregressivePrior(Prior):
    """A product of mixtures of Gaussians, each given the latents before (`LatentTransformer`).

    Like a mixture it is not a bijection: `to_noise` uses the component that is most responsible for
    each latent, and only `from_noise` with these components inverts it. Without them, `from_noise`
    chooses them by a hash of the noise, so that fresh noise becomes exact samples.
    """

    kind = "autoregressive"

    def __init__(self, model: LatentTransformer, base: GaussianPrior):
        """Set the model.

        Args:
            model: trained on whitened codes.
            base: the Gaussian that whitens codes, each number by itself.
        """
        self.graphdef, self.state = nnx.split(model)
        self.base, self.dim, self.made_for = base, base.dim, base.made_for
        self.latents, self.components = model.latents, model.components
        self.sizes = {
            "latents": model.latents,
            "width": int(model.read.kernel.shape[1]),
            "depth": int(jax.tree.leaves(nnx.split(model.blocks)[1])[0].shape[0]),
            "heads": model.heads,
            "components": model.components,
            "unroll": model.unroll,
        }

    def sample(self, n: int, seed: int = 0, temperature: float = 1.0) -> Float[np.ndarray, "n D"]:
        """Draw codes, float32; at temperature 0 all are the means of the likeliest components.

        Args:
            n: number of codes.
            seed: equal seeds draw equal codes.
            temperature: standard deviation of the noise; components are drawn with their
                probabilities unless it is 0.

        Raises:
            ConfigError: if a number is out of range.
        """
        if temperature:
            return super().sample(n, seed, temperature)
        WHOLE.check("n", n, int)
        likely = np.full((n, self.latents), MOST_LIKELY)
        return self.from_noise(np.zeros((n, self.dim), np.float32), likely)

    def log_density(self, z: Any) -> Float[np.ndarray, " n"]:
        """Return log p of codes, in nats."""
        stretch = np.linalg.slogdet(self.base.factor.astype(np.float64))[1]
        return self._inspect(z)[0] - np.float32(stretch)

    def component(self, z: Any) -> Int[np.ndarray, "n L"]:
        """Return the component that is most responsible for each latent of codes."""
        return self._inspect(z)[1]

    def to_noise(self, z: Any) -> Float[np.ndarray, "n D"]:
        """Whiten each latent by its most responsible component."""
        return rearrange(self._inspect(z)[2], "n l z -> n (l z)")

    def from_noise(self, e: Any, component: Any = None) -> Float[np.ndarray, "n D"]:
        """Return the codes of noise.

        Args:
            e: the noise.
            component: the component of each latent, (n, L); None: chosen by a hash of the noise.
        """
        e = rows_of(e, self.dim)
        noise = self._by_latents(e)
        if component is None:
            component = np.full(noise.shape[:2], DRAWN)
        hashes = [[zlib.crc32(x.tobytes()) for x in row] for row in noise]
        share = np.asarray(hashes, np.float64).reshape(noise.shape[:2]) / 2**32
        given = (noise, share.astype(np.float32), np.asarray(component, np.int32))
        drawn = self._call(_draw, *given)
        return self.base.from_noise(rearrange(drawn, "n l z -> n (l z)"))

    def _paths(
        self,
        a: Float[np.ndarray, "n D"],
        b: Float[np.ndarray, "n D"],
        fractions: Float[np.ndarray, " k"],
    ) -> Float[np.ndarray, "m D"]:
        """Return paths through the components of both ends (see `paths_of_components`)."""
        return paths_of_components(self, a, b, fractions)

    def _inspect(self, z: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._call(_inspect, self._by_latents(self.base.to_noise(z)))

    def _by_latents(self, rows: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n L Z"]:
        return np.ascontiguousarray(rearrange(rows, "n (l z) -> n l z", l=self.latents))

    def _call(self, function: Any, *arrays: np.ndarray) -> Any:
        """Call a compiled function of rows, ROWS at a time."""
        out = []
        for start in range(0, max(len(arrays[0]), 1), ROWS):
            parts = [x[start : start + ROWS] for x in arrays]
            padded = [np.pad(x, [(0, ROWS - len(x)), *[(0, 0)] * (x.ndim - 1)]) for x in parts]
            found = jax.tree.map(to_host, function(self.graphdef, self.state, *padded))
            rows = slice(len(parts[0]))
            out.append(jax.tree.map(lambda x, rows=rows: x[rows], found))
        return jax.tree.map(lambda *x: np.concatenate(x), *out)

    def save(self, folder: str | Path) -> None:
        """Write the prior into a folder."""
        arrays = parameters(self.state)
        arrays |= {"mean": self.base.mean, "factor": self.base.factor}
        about = {"kind": self.kind, "dim": self.dim, "made_for": self.made_for, **self.sizes}
        write(folder, about, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> "AutoregressivePrior":
        """Return the prior of a folder.

        Raises:
            ConfigError: if its arrays do not have the shapes that its sizes require.
        """
        about, arrays = read(folder)
        dim, latents = about["dim"], about["latents"]
        rest = [about[name] for name in ("width", "depth", "heads", "components", "unroll")]
        abstract = nnx.eval_shape(
            lambda: LatentTransformer(latents, dim // latents, *rest, rngs=nnx.Rngs(0))
        )
        graphdef, state = nnx.split(abstract)
        state = filled(state, arrays, dim, folder)
        base = GaussianPrior(arrays["mean"], arrays["factor"])
        base.made_for = about.get("made_for", "")  # priors of older versions lack it
        return cls(nnx.merge(graphdef, state), base)
