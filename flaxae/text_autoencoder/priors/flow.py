"""A rectified flow as a prior: noise to codes and back along one ordinary differential equation."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Array, Float

from flaxae.errors import ConfigError
from flaxae.task import Context
from flaxae.text_autoencoder.priors.flow_modeling import Velocity
from flaxae.text_autoencoder.priors.priors import GaussianPrior, Prior, read, rows_of, write
from flaxae.tree import path_name

ROWS = (16, 256)  # of one call, which is padded to one of them: two programs serve all sizes
STEPS = 32


@partial(jax.jit, static_argnums=(0, 4))
def integrate(
    graphdef: Any, state: Any, x: Float[Array, "B D"], direction: Array, steps: int
) -> Float[Array, "B D"]:
    """Follows dx/dt = v(x, t) by Heun's method.

    Args:
        graphdef, state: of a Velocity.
        x: where the rows start.
        direction: 1: from t = 0 to 1; -1: back.
        steps: of equal length, two evaluations each.
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
    """The codes of noise at t = 1, the noise of codes at t = 0.

    Forth and back use the same steps, not the same points: the round trip is exact only in the
    limit of many steps.
    """

    kind = "flow"

    def __init__(self, model: Velocity, base: GaussianPrior, steps: int = STEPS):
        """Takes a trained velocity.

        Args:
            model: of whitened codes.
            base: its noise is what the model calls a code.
            steps: of the solver.
        """
        self.graphdef, self.state = nnx.split(model)
        self.base, self.dim, self.steps = base, base.dim, steps
        depth = jax.tree.leaves(nnx.split(model.blocks)[1])[0].shape[0]
        width = model.read.kernel.shape[1]
        self.sizes = {"width": int(width), "depth": int(depth), "unroll": model.unroll}

    @classmethod
    def from_workdir(cls, workdir: str | Path, steps: int = 0) -> "FlowPrior":
        """The prior that a flow's run has learned.

        Args:
            workdir: of a run of FlowConfig.
            steps: of the solver; 0: as the run's config says.

        Raises:
            ConfigError: it is a run of another kind, or none.
        """
        from flaxae.models.t5_vae.prior.task import FlowConfig
        from flaxae.storage.workdir import stored_config
        from flaxae.training.load import load

        kind = type(stored_config(workdir).task)
        if not issubclass(kind, FlowConfig):
            raise ConfigError(
                f"{workdir} is a run of {kind.__name__}, not of a flow: train one with "
                "configs/t5_vae/flow_prior.py"
            )
        loaded: Any = load(workdir)
        return loaded.task.prior(loaded.model, steps)

    def to_noise(self, z: Any) -> Float[np.ndarray, "n D"]:
        return self._integrate(self.base.to_noise(z), -1.0)

    def from_noise(self, e: Any) -> Float[np.ndarray, "n D"]:
        return self.base.from_noise(self._integrate(rows_of(e, self.dim), 1.0))

    def _integrate(self, rows: np.ndarray, direction: float) -> np.ndarray:
        out = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(rows), ROWS[-1]):
            part = rows[start : start + ROWS[-1]]
            padded = np.zeros((next(n for n in ROWS if n >= len(part)), self.dim), np.float32)
            padded[: len(part)] = part
            made: Any = integrate(
                self.graphdef, self.state, padded, np.float32(direction), self.steps
            )
            if not made.is_fully_addressable:
                made = multihost_utils.process_allgather(made, tiled=True)
            out.append(np.asarray(made)[: len(part)])
        return np.concatenate(out)

    def save(self, folder: str | Path) -> None:
        leaves = jax.tree_util.tree_leaves_with_path(self.state)
        arrays = {_name(path): np.asarray(x) for path, x in leaves}
        arrays |= {"mean": self.base.mean, "factor": self.base.factor}
        about = {"kind": self.kind, "dim": self.dim, "steps": self.steps, **self.sizes}
        write(folder, about, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> "FlowPrior":
        about, arrays = read(folder)
        sizes = (about["dim"], about["width"], about["depth"], about["unroll"])
        abstract = nnx.eval_shape(lambda: Velocity(*sizes, rngs=nnx.Rngs(0)))
        graphdef, state = nnx.split(abstract)
        leaves, structure = jax.tree_util.tree_flatten_with_path(state)
        names = [_name(path) for path, _ in leaves]
        dim = about["dim"]
        shapes = {"mean": (dim,), "factor": (dim, dim)}
        shapes |= {name: x.shape for name, (_, x) in zip(names, leaves, strict=True)}
        if shapes != {name: x.shape for name, x in arrays.items()}:
            raise ConfigError(f"the flow in {folder} has not the arrays that its sizes ask for")
        state = jax.tree.unflatten(structure, [jnp.asarray(arrays[name]) for name in names])
        base = GaussianPrior(arrays["mean"], arrays["factor"])
        return cls(nnx.merge(graphdef, state), base, about["steps"])


def _name(path: tuple) -> str:
    return path_name(path).removesuffix("/value").replace("/", ".")
