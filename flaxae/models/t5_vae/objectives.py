"""Loss terms of a T5-VAE besides reconstruction, MMD and KL: cycle consistency and a critic.

The whole loss is

    total = CE summed over real tokens
          + tokens * mmd_weight(t) * MMD^2(z + noise, N(0, I))
          + kl_weight(t) * sum over texts of KL(q(z|x) || N(0, I))
          + tokens * (cycle_weight * cycle + critic_weight * (autoencoder's + critic's part))

divided by the number of real tokens. So the CE is a mean over tokens, terms that are multiplied by
`tokens` enter unscaled, and at kl_weight 1 CE + KL is the negative ELBO of the texts (in nats per
token; Kingma & Welling 2014, eq. 3).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flaxae.config import Config
from flaxae.errors import require


class Critic(nnx.Module):
    """A two-layer network that estimates which share of a code is another text's, in (0, 1/2)."""

    def __init__(self, size: int, rngs: nnx.Rngs):
        width = max(size, 32)
        self.hidden = nnx.Param(_normal(rngs, (size, width)))
        self.hidden_bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.out = nnx.Param(_normal(rngs, (width,)))

    def __call__(self, z: Float[Array, "B Z"]) -> Float[Array, "B"]:
        """Return the estimated share of each code."""
        hidden = jax.nn.leaky_relu(z @ self.hidden[...] + self.hidden_bias[...][None], 0.2)
        return 0.5 * jax.nn.sigmoid(hidden @ self.out[...])

    def fixed(self) -> "Critic":
        """Return the critic with parameters that receive no gradient."""
        graphdef, state = nnx.split(self)
        return nnx.merge(graphdef, jax.lax.stop_gradient(state))


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
    return shape[0] ** -0.5 * jax.random.normal(rngs.params(), shape, jnp.float32)


def cycle_loss(
    again: Float[Array, "B Z"], z: Float[Array, "B Z"], rows: Float[Array, "B"]
) -> Float[Array, ""]:
    """Return the mean squared difference of re-encoded outputs and the codes they came from.

    The codes are the target and receive no gradient: outputs must express the code, codes must not
    move towards outputs.

    Args:
        again: codes of the outputs.
        z: codes that were decoded.
        rows: 0 for rows that only pad a batch, otherwise 1.
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
    """Return the losses of ACAI (Berthelot et al. 2019, eqs. 1 and 2) with a critic of codes.

    Texts are discrete, so the critic reads the code of the decoder's soft output. Let d be the
    critic, c the re-encoded output of a mixed code (1 - alpha) z + alpha z', and c0 that of the
    code z:

        critic:       mean (d(c) - alpha)^2 + d(c0)^2     c, c0 without gradient
        autoencoder:  mean d(c)^2                         d without gradient

    Args:
        critic: d.
        mixed: c of each row.
        plain: c0 of each row.
        alpha: alpha of each row.
        rows: 0 for rows that only pad a batch, otherwise 1.

    Returns:
        The autoencoder's loss and the critic's loss.
    """
    fixed = jax.lax.stop_gradient
    own = jnp.square(critic(fixed(mixed)) - alpha) + jnp.square(critic(fixed(plain)))
    fooled = jnp.square(critic.fixed()(mixed))
    count = jnp.maximum(jnp.sum(rows), 1)
    return jnp.sum(fooled * rows) / count, jnp.sum(own * rows) / count


def rolled(x: Float[Array, "B ..."], counts: list[int]) -> Float[Array, "B ..."]:
    """Return for each row the previous row of its bucket, a text of similar length.

    Args:
        x: rows of all buckets.
        counts: rows per bucket.
    """
    starts = [sum(counts[:i]) for i in range(len(counts))]
    parts = [x[start : start + count] for start, count in zip(starts, counts, strict=True)]
    return jnp.concatenate([jnp.roll(part, 1, axis=0) for part in parts])


def check_rows(config: Config, counts: list[int]) -> None:
    """Check that a micro-batch of training has the two texts that MMD and critic need.

    Args:
        config: the run's config.
        counts: rows per bucket of a micro-batch.

    Raises:
        ConfigError: if there are too few.
    """
    task: Any = config.task
    data: Any = config.data
    sizes = f"data.batch_size={data.batch_size} / accumulate={config.accumulate}"
    require(
        not task.mmd_weight or sum(counts) + task.latent.queue > 1,
        f"task.mmd_weight={task.mmd_weight}: an MMD needs two texts per micro-batch, and {sizes} "
        "is 1: raise data.batch_size, lower accumulate, set task.latent.queue (codes of earlier "
        "steps), or train without the MMD (task.mmd_weight=0)",
    )
    require(
        not task.critic_weight or min(counts) > 1,
        f"task.critic_weight={task.critic_weight}: each code is mixed with another one of its "
        f"length, and with {sizes} and data.num_buckets={data.num_buckets} a length has only one "
        "text per micro-batch: raise data.batch_size, or lower accumulate or data.num_buckets",
    )
