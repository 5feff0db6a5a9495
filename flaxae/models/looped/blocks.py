"""GPT-2's block: layer norms with bias, causal attention, tanh-GELU, and biases everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from flaxae.nn.bias import MASKED
from flaxae.nn.linear import Linear
from flaxae.nn.norm import LayerNorm
from flaxae.task import Context

STD = 0.02  # standard deviation of the initialisation (GPT-2)
ROOT, CUBIC = (2 / np.pi) ** 0.5, 0.044715  # constants of the tanh form of GELU


class Block(nnx.Module):
    """A pre-norm block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, num_heads: int, residual_std: float, *, rngs: nnx.Rngs):
        """Draw the parameters.

        Args:
            width: D.
            num_heads: H; a head has width D / H.
            residual_std: standard deviation of the two projections into the residual stream.
            rngs: source of the initial values, its stream `params`.
        """

        def linear(inside: int, out: int, std: float = STD) -> Linear:
            return Linear(inside, out, use_bias=True, std=std, rngs=rngs)

        self.norm_1, self.norm_2 = LayerNorm(width), LayerNorm(width)
        self.qkv, self.out = linear(width, 3 * width), linear(width, width, residual_std)
        self.up, self.down = linear(width, 4 * width), linear(4 * width, width, residual_std)
        self.num_heads = num_heads

    def __call__(self, x: Float[Array, "B S D"], ctx: Context) -> Float[Array, "B S D"]:
        """Apply the block."""
        heads = self._attend(self.qkv(self.norm_1(x, ctx.at("norm_1")), ctx.at("qkv")))
        x = x + self.out(heads, ctx.at("out"))
        hidden = gelu(self.up(self.norm_2(x, ctx.at("norm_2")), ctx.at("up")))
        return x + self.down(hidden, ctx.at("down"))

    def _attend(self, qkv: Float[Array, "B S 3D"]) -> Float[Array, "B S D"]:
        """Return the heads of causal attention, side by side."""
        length = qkv.shape[1]
        # Heads before positions: otherwise each small matmul copies its operands (CPU). The
        # gradient of a split is one concatenation; that of slices is three padded arrays, summed.
        q, k, v = (
            rearrange(x, "B S (H K) -> B H S K", H=self.num_heads)
            for x in jnp.split(qkv, 3, axis=-1)
        )
        scores = jnp.einsum("bhsk,bhtk->bhst", q * q.shape[-1] ** -0.5, k)
        allowed = np.tril(np.ones((length, length), bool))
        bias = jnp.asarray(np.where(allowed, 0.0, MASKED).astype(np.float32))
        weights = jax.nn.softmax(scores + bias[None, None], axis=-1)
        heads = jnp.einsum("bhst,bhtk->bhsk", weights, v)
        return rearrange(heads, "B H S K -> B S (H K)")


# Autodiff would keep the tanh too, an array of x's size.
@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return GELU's tanh form (Hendrycks & Gimpel 2016), keeping only x for the backward pass.

    It is x/2 (1 + tanh(sqrt(2/pi) (x + .044715 x^3))).
    """
    return jax.nn.gelu(x, approximate=True)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return gelu(x), x


def _gelu_backward(x: Array, grad: Array) -> tuple[Array]:
    square = jnp.square(x)
    tanh = jnp.tanh(ROOT * x * (1 + CUBIC * square))
    slope = ROOT * (1 + 3 * CUBIC * square)
    return (grad * 0.5 * (1 + tanh + x * (1 - jnp.square(tanh)) * slope),)


gelu.defvjp(_gelu_forward, _gelu_backward)
