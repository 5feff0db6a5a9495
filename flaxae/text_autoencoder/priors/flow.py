"""A prior that is a rectified flow: an ordinary differential equation from noise to codes."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxae.errors import ConfigError
from flaxae.task import Context
from flaxae.text_autoencoder.priors.base import Prior, read, rows_of, write
from flaxae.text_autoencoder.priors.flow_modeling import Velocity
from flaxae.text_autoencoder.priors.gaussian import GaussianPrior
from flaxae.text_autoencoder.priors.trained import filled, parameters, to_host, trained_prior

ROWS = (16, 256)  # each call is padded to one of these row counts: two compiled programs
STEPS = 32  # default steps of the solver


@partial(jax.jit, static_argnums=(0, 4))
def integrate(
    graphdef: Any, state: Any, x: Float[Array, "B D"], direction: Array, steps: int
) -> Float[Array, "B D"]:
    """Integrate dx/dt = v(x, t) by Heun's method.

    Args:
        graphdef: graph of a Velocity, as nnx.split returns it.
        state: its state.
        x: the initial points.
        direction: 1: from t = 0 to 1; -1: from 1 to 0.
        steps: steps of equal length, with two evaluations of v each.
    """
    model = nnx.merge(graphdef, state)
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))
    size, start = direction / steps, (1 - direction) / 2

    def velocity(x: Array, t: Array) -> Array:
        return model(x, jnp.broadcast_to(t, x.shape[:1]), ctx)

    def step(x: Array, index: Array) -> tuple[Array, None]:
        t = start + index.astype(jnp.float32) * size
        first = velocity(x, t)
        second = velocity(x + size * first, t + size)
        return x + size / 2 * (first + second), None

    return jax.lax.scan(step, x, jnp.arange(steps))[0]


class FlowPrior(Prior):
    """A flow whose points at t = 0 are noise and at t = 1 codes (Liu et al. 2022).

    Both directions use the same steps but evaluate v at different points, so the round trip is
    exact only in the limit of many steps.
    """

    kind = "flow"

    def __init__(self, model: Velocity, base: GaussianPrior, steps: int = STEPS):
        """Set the model.

        Args:
            model: the velocity, trained on whitened codes.
            base: the Gaussian that whitens codes.
            steps: steps of the solver.
        """
        self.graphdef, self.state = nnx.split(model)
        self.base, self.dim, self.steps = base, base.dim, steps
        self.made_for = base.made_for
        depth = jax.tree.leaves(nnx.split(model.blocks)[1])[0].shape[0]
        width = model.read.kernel.shape[1]
        self.sizes = {"width": int(width), "depth": int(depth), "unroll": model.unroll}
        self.sizes["self_condition"] = model.self_condition

    @classmethod
    def from_workdir(cls, workdir: str | Path, steps: int = 0) -> "FlowPrior":
        """Open the flow that a run has trained.

        Args:
            workdir: the workdir of the run.
            steps: steps of the solver; 0: those of the run's config.

        Raises:
            ConfigError: if the workdir is not a flow's.
        """
        prior = trained_prior(workdir)
        if not isinstance(prior, cls):
            raise ConfigError(f"{workdir} trained a prior of kind {prior.kind!r}, not a flow")
        prior.steps = steps or prior.steps
        return prior

    def to_noise(self, z: Any) -> Float[np.ndarray, "n D"]:
        """Integrate from t = 1 to 0."""
        return self._integrate(self.base.to_noise(z), -1.0)

    def from_noise(self, e: Any) -> Float[np.ndarray, "n D"]:
        """Integrate from t = 0 to 1."""
        return self.base.from_noise(self._integrate(rows_of(e, self.dim), 1.0))

    def _integrate(self, rows: np.ndarray, direction: float) -> np.ndarray:
        out = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(rows), ROWS[-1]):
            part = rows[start : start + ROWS[-1]]
            padded = np.zeros((next(n for n in ROWS if n >= len(part)), self.dim), np.float32)
            padded[: len(part)] = part
            points: Any = integrate(
                self.graphdef, self.state, padded, np.float32(direction), self.steps
            )
            out.append(to_host(points)[: len(part)])
        return np.concatenate(out)

    def save(self, folder: str | Path) -> None:
        """Write the prior into a folder."""
        arrays = parameters(self.state)
        arrays |= {"mean": self.base.mean, "factor": self.base.factor}
        about = {"kind": self.kind, "dim": self.dim, "steps": self.steps, **self.sizes}
        about["made_for"] = self.made_for
        write(folder, about, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> "FlowPrior":
        """Return the prior of a folder.

        Raises:
            ConfigError: if its arrays do not have the shapes that its sizes require.
        """
        about, arrays = read(folder)
        sizes = [about[name] for name in ("dim", "width", "depth", "unroll")]
        sizes.append(about.get("self_condition", False))  # priors of older versions lack it
        abstract = nnx.eval_shape(lambda: Velocity(*sizes, rngs=nnx.Rngs(0)))
        graphdef, state = nnx.split(abstract)
        state = filled(state, arrays, about["dim"], folder)
        base = GaussianPrior(arrays["mean"], arrays["factor"])
        base.made_for = about.get("made_for", "")  # priors of older versions lack it
        return cls(nnx.merge(graphdef, state), base, about["steps"])
