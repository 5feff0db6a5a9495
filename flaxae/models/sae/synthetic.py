"""States that are sums of known features, and the training of a dictionary on them.

Features that are present are drawn independently, the first ones most often. Their directions are
random, and more of them than the states have dimensions. Batches are pure functions of the seed and
the step.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float

from flaxae.config import Config
from flaxae.measures.known_features import detection_f1, mean_correlation
from flaxae.models.sae.modeling import TrainedSAE
from flaxae.models.sae.task import SAETask
from flaxae.sparse_autoencoder.modules import SparseAutoencoder
from flaxae.sparse_autoencoder.parameters import build, values
from flaxae.task import Context
from flaxae.training.hparams import make_hparams
from flaxae.training.layout import make_layout
from flaxae.training.state import make_state
from flaxae.training.step import make_update


class States(NamedTuple):
    """States and the features that they are made of.

    Attributes:
        x: the states, (N, D).
        present: whether each feature is in the state, (N, G).
    """

    x: Float[np.ndarray, "N D"]
    present: Bool[np.ndarray, "N G"]


@dataclasses.dataclass(frozen=True)
class KnownFeatures:
    """A generator of states.

    Attributes:
        count: number of features, G.
        width: features of a state, D.
        active: mean number of features in a state.
        seed: seed of directions and batches.
        decay: exponent of the frequencies: feature i is drawn in proportion to (i + 1)^-decay.
        spread: standard deviation of the magnitudes, whose mean is 1.
    """

    count: int = 128
    width: int = 64
    active: float = 6.0
    seed: int = 0
    decay: float = 0.5
    spread: float = 0.3

    @property
    def directions(self) -> Float[np.ndarray, "G D"]:
        """The directions of the features, of norm 1."""
        rng = np.random.default_rng([self.seed, 0])
        rows = rng.normal(size=(self.count, self.width))
        rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
        return rows.astype(np.float32)

    @property
    def frequencies(self) -> Float[np.ndarray, " G"]:
        """The probabilities that features are present."""
        weights = np.arange(1.0, self.count + 1) ** -self.decay
        return np.minimum(self.active * weights / weights.sum(), 1)

    def batch(self, step: int, rows: int) -> States:
        """Return the states of a step.

        Args:
            step: number of the batch.
            rows: number of states.
        """
        rng = np.random.default_rng([self.seed, 1, step])
        present = rng.random((rows, self.count)) < self.frequencies
        magnitudes = np.maximum(rng.normal(1, self.spread, present.shape), 0) * present
        return States(magnitudes.astype(np.float32) @ self.directions, magnitudes > 0)


class SyntheticTask(SAETask):
    """The task of a dictionary whose states are given.

    Args:
        config: the config; `pretrained` and `data` are not used.
        width: features of a state.
    """

    def __init__(self, config: Config, width: int):
        super().__init__(config)
        self.width = width

    def init(self, rngs: nnx.Rngs) -> Any:
        """Draw a dictionary."""
        return TrainedSAE(self.options, self.width, self.width, pool=0, rngs=rngs)


class Trainer:
    """The training of a dictionary on given states, by the step that `train.py` runs.

    Args:
        config: a config of the family.
        width: features of a state.

    Attributes:
        task: the task.
        state: the state of the run.
    """

    def __init__(self, config: Config, width: int):
        self.task = SyntheticTask(config, width)
        self._layout = make_layout(self.task, config)
        self._hparams = make_hparams(self.task, [config], False)
        self._update = jax.jit(make_update(self.task, config, self._layout), donate_argnums=0)
        self.state: Any = jax.jit(lambda: make_state(self.task, config, self._hparams))()

    def step(self, x: Float[np.ndarray, "N D"]) -> dict[str, Any]:
        """Train on a batch; return its metrics."""
        batch = {"x": jnp.asarray(x, jnp.float32), "weight": jnp.ones(len(x), jnp.float32)}
        self.state, metrics = self._update(self.state, {}, batch, self._hparams)
        return metrics

    def dictionary(self) -> SparseAutoencoder:
        """Return the dictionary with its present weights."""
        model: Any = self._layout.merge(self.state["params"], self.state["carry"], {})
        return build(model.sae.config, values(model.sae))


def measures(
    sae: SparseAutoencoder, states: States, directions: Float[np.ndarray, "G D"]
) -> dict[str, float]:
    """Return how well a dictionary has found the features of states.

    Args:
        sae: the dictionary.
        states: states that it has not seen.
        directions: directions of the features.

    Returns:
        "mcc" and "f1" (see `measures.known_features`), "l0", "fvu", and "dead", the share of
        latents that are never active.
    """
    ctx = Context(jax.random.key(0), jnp.int32(0))
    graphdef, arrays = nnx.split(sae)

    @jax.jit
    def run(arrays: Any, x: Any) -> Any:
        model = nnx.merge(graphdef, arrays)
        latents = model.encode(x, ctx)
        return latents, model.decode(latents, ctx, x)

    latents, output = (np.asarray(x) for x in run(arrays, jnp.asarray(states.x)))
    fired, w_dec = latents > 0, values(sae)["w_dec"]
    spread = np.square(states.x - states.x.mean(0)).sum()
    return {
        "mcc": mean_correlation(w_dec, directions),
        "f1": detection_f1(fired, states.present, w_dec, directions),
        "l0": float(fired.sum(-1).mean()),
        "fvu": float(np.square(states.x - output).sum() / spread),
        "dead": float((~fired.any(0)).mean()),
    }
