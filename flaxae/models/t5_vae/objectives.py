"""What a T5-VAE minimises beside its reconstruction, and the weights of these terms over time.

    total = CE summed over real tokens
          + tokens * mmd_weight(t) * MMD^2(z + noise, N(0, I))
          + kl_weight(t) * sum over texts of KL(q(z|x) || N(0, I))
          + tokens * (cycle_weight * cycle + critic_weight * (autoencoder's + critic's part))

and the step divides it by the number of real tokens. So the CE is a mean over tokens, a term times
`tokens` enters as it is, and CE + KL is the negative ELBO of the texts at kl_weight 1 (in nats, per
token: Kingma & Welling 2014, eq. 3).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Critic(nnx.Module):
    """Guesses from a code how much of another text was mixed in: two layers, sigmoid times 1/2."""

    def __init__(self, size: int, rngs: nnx.Rngs):
        width = max(size, 32)
        self.hidden = nnx.Param(_normal(rngs, (size, width)))
        self.hidden_bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.out = nnx.Param(_normal(rngs, (width,)))

    def __call__(self, z: Float[Array, "B Z"]) -> Float[Array, "B"]:
        hidden = jax.nn.leaky_relu(z @ self.hidden[...] + self.hidden_bias[...][None], 0.2)
        return 0.5 * jax.nn.sigmoid(hidden @ self.out[...])

    def fixed(self) -> "Critic":
        """The same critic, which no gradient changes."""
        graphdef, state = nnx.split(self)
        return nnx.merge(graphdef, jax.lax.stop_gradient(state))


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
    return shape[0] ** -0.5 * jax.random.normal(rngs.params(), shape, jnp.float32)


def cycle_loss(
    again: Float[Array, "B Z"], z: Float[Array, "B Z"], rows: Float[Array, "B"]
) -> Float[Array, ""]:
    """Mean squared distance, an entry, of re-encoded outputs to the codes they were made from.

    The codes are the target and get no gradient: the outputs must say what the code holds, codes
    must not move to where outputs are.
    """
    squared = jnp.mean(jnp.square(again - jax.lax.stop_gradient(z)), axis=-1)
    return jnp.sum(squared * rows) / jnp.maximum(jnp.sum(rows), 1)


def critic_losses(
    critic: Critic,
    mixed: Float[Array, "B Z"],
    plain: Float[Array, "B Z"],
    alpha: Float[Array, "B"],
    rows: Float[Array, "B"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """ACAI (Berthelot et al. 2019, eqs. 1 and 2), with a critic that reads codes, not texts.

    A text is discrete, so the critic gets the code of the decoder's soft output instead. With d the
    critic, c the re-encoded output of a code that is (1 - alpha) its own and alpha another's, and
    c0 that of the unmixed code:

        critic:       mean (d(c) - alpha)^2 + d(c0)^2     c, c0 without gradient
        autoencoder:  mean d(c)^2                         d without gradient

    Returns:
        (autoencoder's part, critic's part).
    """
    fixed = jax.lax.stop_gradient
    own = jnp.square(critic(fixed(mixed)) - alpha) + jnp.square(critic(fixed(plain)))
    fooled = jnp.square(critic.fixed()(mixed))
    count = jnp.maximum(jnp.sum(rows), 1)
    return jnp.sum(fooled * rows) / count, jnp.sum(own * rows) / count


def rolled(x: Float[Array, "B ..."], counts: list[int]) -> Any:
    """Each row's neighbour in its own bucket, a text of like length."""
    starts = [sum(counts[:i]) for i in range(len(counts))]
    parts = [x[start : start + count] for start, count in zip(starts, counts, strict=True)]
    return jnp.concatenate([jnp.roll(part, 1, axis=0) for part in parts])
