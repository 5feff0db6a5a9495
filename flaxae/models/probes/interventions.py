"""Losses on the answer's first token that make an adapter flip, lie or tell the truth.

All work on log probabilities of the vocabulary after the prompt; padding of choices is masked
before any exponential, so that no gradient is nan.
"""

import enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Intervention(enum.Enum):
    """The behaviour that an adapter is trained to have."""

    FLIP = "flip"  # the base's probabilities of the two choices, exchanged
    ALWAYS_LIE = "always_lie"
    LIE_WHEN_TOLD = "lie_when_told"  # the answer that the prompt demonstrates
    TRUTH = "truth"
    T_FEW = "t_few"  # the demonstrated answer, by the three losses of Liu et al. 2022


DEMONSTRATED = (Intervention.LIE_WHEN_TOLD, Intervention.T_FEW)  # the prompt decides the target


def target_of(
    intervention: Intervention, label: Int[Array, "B"], lie: Int[Array, "B"]
) -> Int[Array, "B"]:
    """Return the index of the choice that an adapter is trained to give.

    Args:
        intervention: the behaviour; FLIP has no target.
        label: index of the right choice.
        lie: 1 for prompts that ask for a lie.
    """
    if intervention is Intervention.TRUTH:
        return label
    if intervention is Intervention.ALWAYS_LIE:
        return 1 - label
    return label ^ lie


def choice_log_probs(
    logits: Float[Array, "B V"], ids: Int[Array, "B C K"], mask: Float[Array, "B C K"]
) -> Float[Array, "B C"]:
    """Return the log of the probability of each choice: that of all its first tokens together.

    Args:
        logits: scores of the vocabulary after the prompt, float32.
        ids: token ids of each choice.
        mask: 1 for ids of a choice, 0 for padding.
    """
    rows, choices, spellings = ids.shape
    flat = ids.reshape(rows, choices * spellings)
    found = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), flat, axis=1)
    found = found.reshape(rows, choices, spellings)
    # Masked before the exponential, so that no gradient passes through the padding.
    safe = jnp.where(mask > 0, found, -1e9)
    return jax.nn.logsumexp(safe, axis=-1)


def renormalised(log_probs: Float[Array, "B C"]) -> Float[Array, "B C"]:
    """Return log probabilities of choices, given that the answer is one of them."""
    return jax.nn.log_softmax(log_probs, axis=-1)


def answer_log_odds(log_probs: Float[Array, "B 2"]) -> Float[Array, "B"]:
    """Return log(p1 / p0), which float32 still resolves where p1 / (p0 + p1) is rounded to 1."""
    return log_probs[:, 1] - log_probs[:, 0]


def coverage(log_probs: Float[Array, "B 2"]) -> Float[Array, "B"]:
    """Return p0 + p1, the share of the probability that is on the choices."""
    return jnp.exp(log_probs).sum(-1)


def choice_kl(target: Float[Array, "B C"], log_probs: Float[Array, "B C"]) -> Float[Array, "B"]:
    """Return KL(target || p) over the choices, both renormalised; it is never negative.

    Args:
        target: log probabilities of the choices, renormalised here.
        log_probs: those of the model.
    """
    p, q = renormalised(target), renormalised(log_probs)
    return jnp.maximum(jnp.sum(jnp.exp(p) * (p - q), axis=-1), 0.0)  # rounding may be below 0


def flip_loss(base: Float[Array, "B 2"], adapter: Float[Array, "B 2"]) -> Float[Array, "B"]:
    """Return KL(the base's probabilities, exchanged || the adapter's) over the choices.

    Args:
        base: log probabilities of the choices without the adapter, constant.
        adapter: with it.
    """
    return choice_kl(jax.lax.stop_gradient(base)[:, ::-1], adapter)


def target_loss(log_probs: Float[Array, "B 2"], target: Int[Array, "B"]) -> Float[Array, "B"]:
    """Return the negative log probability of the first tokens of the target choice."""
    return -jnp.take_along_axis(log_probs, target[:, None], axis=1)[:, 0]


def t_few_loss(
    token_log_probs: Float[Array, "B C T"],
    mask: Float[Array, "B C T"],
    target: Int[Array, "B"],
) -> Float[Array, "B"]:
    """Return L_LM + L_UL + L_LN of T-Few (Liu et al. 2022, eq. 2 to 4).

    L_LM is the mean cross entropy of the target's tokens. L_UL is the mean of
    -log(1 - p + 0.01) over the tokens of the other choices. L_LN is the cross entropy over choices
    of the log likelihoods, each divided by its number of tokens.

    Args:
        token_log_probs: log probability of each token of each choice.
        mask: 1 for tokens, 0 for padding.
        target: index of the wanted choice.
    """
    count = mask.sum(-1)  # (B, C)
    kept = jnp.where(mask > 0, token_log_probs, 0.0)
    mean = kept.sum(-1) / jnp.maximum(count, 1.0)
    own = jax.nn.one_hot(target, mask.shape[1], dtype=jnp.float32)  # (B, C)
    lm = -(own * mean).sum(-1)
    wrong = mask * (1 - own)[:, :, None]
    # Outside of the mask the logarithm is taken of 1 - exp(-1), whose gradient is finite.
    inside = jnp.where(wrong > 0, token_log_probs, -1.0)
    unlikely = jnp.where(wrong > 0, jnp.log(1 - jnp.exp(inside) + 1e-2), 0.0)
    ul = -unlikely.sum((1, 2)) / jnp.maximum(wrong.sum((1, 2)), 1.0)
    ln = -(own * jax.nn.log_softmax(mean, axis=-1)).sum(-1)
    return lm + ul + ln
