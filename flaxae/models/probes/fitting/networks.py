"""Small networks as probes: an MLP of one layer's state, a convolution over layers."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from flaxae.models.probes.fitting.base import FromScores, Scaler, Tensors, both_classes

STEPS, RATE, DECAY = 300, 3e-3, 1e-1
Params = dict[str, Array]


def train(
    loss: Callable[..., Array],
    params: Params,
    *data: Array,
    steps: int = STEPS,
    rate: float = RATE,
    final: float = 0.0,
    decay: float = DECAY,
) -> Params:
    """Return parameters after full-batch AdamW, in one program for all data of the same shapes.

    Args:
        loss: parameters and data -> loss; a function that is made once, such as one of a module.
        params: where to start.
        *data: arrays of all training examples.
        steps: number of updates.
        rate: first learning rate.
        final: last one, to which it falls linearly.
        decay: weight decay; few examples of many features need it.
    """
    # optax's update does not pass strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return _trained(loss, (steps, rate, final, decay), params, *data)


@partial(jax.jit, static_argnums=(0, 1))
def _trained(
    loss: Callable[..., Array], settings: tuple[int, float, float, float], params: Any, *data: Any
) -> Params:
    steps, rate, final, decay = settings
    optimizer = optax.adamw(optax.linear_schedule(rate, final, steps), weight_decay=decay)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, *data), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]


def binary_loss(logits: Float[Array, "N"], signs: Float[Array, "N"]) -> Float[Array, ""]:
    """Return the mean binary cross entropy of labels given as 1 and -1."""
    return jnp.mean(jax.nn.softplus(-signs * logits))


def _drawn(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    return jax.random.normal(key, shape, jnp.float32) * np.float32(fan_in**-0.5)


class _Network(FromScores):
    """A network on standardised features; a subclass has `draw` and `logits`.

    Args:
        scaler: of the training examples.
        params: the network's parameters.
    """

    def __init__(self, scaler: Scaler, params: Tensors):
        self.scaler, self.params = scaler, params

    @staticmethod
    def draw(shape: tuple[int, ...], key: Array, width: int) -> Params:
        """Return initial parameters for examples of a shape."""
        raise NotImplementedError

    @staticmethod
    def logits(params: Params, x: Array) -> Float[Array, "N"]:
        """Return the log odds of label 1."""
        raise NotImplementedError

    @classmethod
    def loss(cls, params: Params, x: Array, signs: Array) -> Float[Array, ""]:
        """Return the loss of training examples with labels given as 1 and -1."""
        return binary_loss(cls.logits(params, x), signs)

    @classmethod
    def fit(
        cls, x: Float[np.ndarray, "N ..."], labels: ArrayLike, *, width: int = 32, seed: int = 0
    ) -> Any:
        """Train the network.

        Args:
            x: features of the training examples.
            labels: 0 or 1.
            width: number of hidden units.
            seed: seed of the initial parameters.
        """
        signs = jnp.asarray(np.where(both_classes(labels), 1.0, -1.0), jnp.float32)
        scaler = Scaler.fit(x)
        inputs = jnp.asarray(scaler(x))
        params = cls.draw(inputs.shape[1:], jax.random.key(seed), width)
        found = train(cls.loss, params, inputs, signs)
        return cls(scaler, {name: np.asarray(x) for name, x in found.items()})

    def scores(self, x: Float[np.ndarray, "N ..."]) -> Float[np.ndarray, "N"]:
        """Return the log odds of label 1."""
        with jax.numpy_rank_promotion("allow"):
            params = {name: jnp.asarray(x) for name, x in self.params.items()}
            return np.asarray(self.logits(params, jnp.asarray(self.scaler(x))))

    def tensors(self) -> Tensors:
        """Return the arrays that a file contains."""
        return self.params | self.scaler.tensors()

    @classmethod
    def from_tensors(cls, tensors: Tensors) -> Any:
        """Build a probe from the arrays of a file."""
        scaler = Scaler.from_tensors(tensors)
        return cls(scaler, {n: x for n, x in tensors.items() if n not in scaler.tensors()})


class MLP(_Network):
    """One hidden layer with a GELU."""

    kind: ClassVar[str] = "mlp"

    @staticmethod
    def draw(shape: tuple[int, ...], key: Array, width: int) -> Params:
        """Return initial parameters; the output's are 0."""
        (size,) = shape
        return {
            "hidden.weight": _drawn(key, (size, width), size),
            "hidden.bias": jnp.zeros(width, jnp.float32),
            "linear.weight": jnp.zeros(width, jnp.float32),
            "linear.bias": jnp.zeros((), jnp.float32),
        }

    @staticmethod
    def logits(params: Params, x: Float[Array, "N D"]) -> Float[Array, "N"]:
        """Return the log odds of label 1."""
        hidden = jax.nn.gelu(x @ params["hidden.weight"] + params["hidden.bias"][None])
        return hidden @ params["linear.weight"] + params["linear.bias"]


class LayerConv(_Network):
    """A projection of each layer's state, then a convolution of width 3 over the layers.

    Its features are (N, L, D). The mean over layers of the convolution's output is classified.
    """

    kind: ClassVar[str] = "layer_conv"

    @staticmethod
    def draw(shape: tuple[int, ...], key: Array, width: int) -> Params:
        """Return initial parameters; the output's are 0."""
        first, second = jax.random.split(key)
        return {
            "down.weight": _drawn(first, (shape[-1], width), shape[-1]),
            "conv.weight": _drawn(second, (3, width, width), 3 * width),
            "conv.bias": jnp.zeros(width, jnp.float32),
            "linear.weight": jnp.zeros(width, jnp.float32),
            "linear.bias": jnp.zeros((), jnp.float32),
        }

    @staticmethod
    def logits(params: Params, x: Float[Array, "N L D"]) -> Float[Array, "N"]:
        """Return the log odds of label 1."""
        down = x @ params["down.weight"]  # (N, L, C)
        over_layers = jax.lax.conv_general_dilated(
            down, params["conv.weight"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        hidden = jax.nn.gelu(over_layers + params["conv.bias"][None, None])
        return hidden.mean(1) @ params["linear.weight"] + params["linear.bias"]


RANKING_LOSSES = ("mse", "bce", "margin")


def ranking_loss(name: str, r: Float[Array, "N"], gap: Float[Array, "N"]) -> Float[Array, ""]:
    """Return the mean loss of ranking scores r = f(base) - f(adapter).

    Args:
        name: "mse": squared distance from the gap; "bce": binary cross entropy of its sign;
            "margin": hinge of its sign.
        r: the scores.
        gap: truthfulness of the base's answer minus that of the adapter's.
    """
    if name == "mse":
        return jnp.mean(jnp.square(r - gap))
    signs = jnp.where(gap > 0, 1.0, -1.0)
    if name == "bce":
        return binary_loss(r, signs)
    return jnp.mean(jnp.maximum(0.0, 1.0 - signs * r))
