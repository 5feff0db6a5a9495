"""A trained looped transformer for use: loading, saving, prediction."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from flaxae.config import Config, from_json, to_json
from flaxae.config.locate import user_path
from flaxae.errors import ConfigError, require
from flaxae.models.looped.modeling import LoopedTransformer
from flaxae.models.looped.task import LoopedConfig
from flaxae.storage import checkpoint
from flaxae.storage import workdir as workdir_lib
from flaxae.task import Context
from flaxae.weights import module

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class LoopedModel:
    """A regression model that predicts the y of a query from examples in its context.

    Attributes:
        model: the network.
        config: config of its training.
    """

    def __init__(self, model: LoopedTransformer, config: Config):
        self.model, self.config = model, config

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "LoopedModel":
        """Open a run's workdir, or a directory written by `save_pretrained`.

        Args:
            directory: the directory.

        Returns:
            The model.

        Raises:
            ConfigError: if the directory contains no looped model, or an incomplete one.
            CheckpointError: if the run's checkpoint cannot be read.
        """
        folder = user_path(directory)
        if (folder / WEIGHTS).is_file():
            return cls(*_read(folder))
        found = [kind for kind in ("latest", "best") if checkpoint.steps_on_disk(folder / kind)]
        require(
            bool(found),
            f"{directory} is not a looped model: it contains neither {WEIGHTS} nor a run",
        )
        config = workdir_lib.stored_config(folder)
        _check_family(config, folder)
        from flaxae.training.load import load

        loaded = load(folder)
        return cls(loaded.model, loaded.config)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and model.safetensors.

        Args:
            directory: the directory, created if needed.

        Raises:
            ConfigError: if the directory is a run's workdir, or cannot be written to.
        """
        folder = user_path(directory)
        module.write(folder, to_json(self.config), self.model)

    def predict(
        self,
        xs: Float[np.ndarray, "B k d"] | Float[np.ndarray, "k d"] | Any,
        ys: Float[np.ndarray, "B k"] | Float[np.ndarray, " k"] | Any,
        x_query: Float[np.ndarray, "B d"] | Float[np.ndarray, " d"] | Any,
        loops: int = 0,
    ) -> Float[np.ndarray, " B"] | Float[np.ndarray, ""]:
        """Predict the y of a query from k examples.

        Args:
            xs: inputs of the examples, of one problem or of a batch of problems.
            ys: values of the examples.
            x_query: input of the query.
            loops: number of loops; 0: the b of training.

        Returns:
            One number per problem, without a batch axis if xs has none.

        Raises:
            ConfigError: if shapes do not fit each other or the model, or loops is negative.
        """
        task: Any = self.config.task
        try:
            xs, ys, query = (np.asarray(x, np.float32) for x in (xs, ys, x_query))
        except (TypeError, ValueError) as e:
            raise ConfigError(f"predict: xs, ys and x_query must be arrays of numbers: {e}") from e
        single = xs.ndim == 2
        if single:
            xs, ys, query = xs[None], ys[None], query[None]
        _check_shapes(xs, ys, query, task.model)
        loops = loops or task.loops
        require(loops > 0, f"predict: loops={loops} must be positive")
        xs = np.concatenate([xs, query[:, None]], axis=1)
        ys = np.concatenate([ys, np.zeros((len(ys), 1), np.float32)], axis=1)
        graphdef, params = nnx.split(self.model)
        out = np.asarray(_answer(graphdef, params, xs, ys, jnp.int32(loops)))
        return out[0] if single else out


@partial(jax.jit, static_argnums=0)
def _answer(graphdef: Any, params: Any, xs: Any, ys: Any, loops: Any) -> Any:
    model, ctx = nnx.merge(graphdef, params), Context(jax.random.key(0), jnp.int32(0))
    prompt = model.prompt(xs, ys, ctx)
    out = model.last_loops(prompt, ctx, loops=loops, grad_loops=1, window=1)
    return out.predictions[0, :, -1]


def _check_shapes(xs: np.ndarray, ys: np.ndarray, query: np.ndarray, model: Any) -> None:
    require(
        xs.ndim == 3 and ys.shape == xs.shape[:2] and query.shape == (len(xs), xs.shape[2]),
        "predict: xs must be (k, d) or (B, k, d), ys (k,) or (B, k), x_query (d,) or (B, d); with "
        f"the batch axis they are {xs.shape}, {ys.shape}, {query.shape}",
    )
    require(
        xs.shape[2] == model.dims,
        f"predict: x has {xs.shape[2]} dimensions, the model was trained with {model.dims}",
    )
    require(
        1 <= xs.shape[1] < model.points,
        f"predict: {xs.shape[1]} examples; the model has positions for 1 to {model.points - 1} "
        "in addition to the query",
    )


def _check_family(config: Config, folder: Path) -> None:
    require(
        isinstance(config.task, LoopedConfig),
        f"{folder} contains a run of {type(config.task).__name__}, not a looped model",
    )


def _read(folder: Path) -> tuple[LoopedTransformer, Config]:
    """Read a directory written by `save_pretrained`; missing or unknown weights are errors."""
    config = from_json(workdir_lib.read_config(folder))
    _check_family(config, folder)
    config.freeze(check=False)
    task = config.task.make(config)
    model: Any = module.read(folder, nnx.eval_shape(lambda: task.init(nnx.Rngs(0))))
    return model, config
