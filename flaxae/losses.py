"""Losses that model families share."""

import enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from flaxae.nn import gpu
from flaxae.task import Context

IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
RBF_FACTORS = (0.5, 1.0, 2.0)


def cross_entropy(
    logits: Float[Array, "N V"],
    targets: Int[Array, "N"],
    weights: Float[Array, "N"],
    ctx: Context | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Compute cross entropy in float32, as sums over rows.

    Args:
        logits: scores.
        targets: ids in [0, V).
        weights: weight of each row; 0 for padding.
        ctx: the model's context; None: GPU kernels are not used.

    Returns:
        The weighted sum of -log p(target) in nats, and the weighted count of rows whose target
        has the highest score.
    """
    fast = gpu.takes_logits(logits, ctx)
    if not fast:  # cast here: if the original logits were saved, T5-large would need more HBM
        logits = logits.astype(jnp.float32)
    found: Any = _cross_entropy(logits, targets, fast)
    losses, correct = found
    return jnp.sum(losses * weights), jnp.sum(correct * weights)


# The gradient, softmax - onehot, is written explicitly: autodiff would scatter into an array of the
# logits' size. Its comparison with an iota is fused and never stored.
@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cross_entropy(logits: Array, targets: Array, fast: bool) -> tuple[Array, Array]:
    return _cross_entropy_forward(logits, targets, fast)[0]


def _cross_entropy_forward(
    logits: Array, targets: Array, fast: bool = False
) -> tuple[tuple[Array, Array], tuple]:
    if fast:
        top, lse = gpu.max_and_logsumexp(logits)
    else:
        top = jnp.max(logits, axis=-1)
        lse = top + jnp.log(jnp.sum(jnp.exp(logits - top[:, None]), axis=-1))
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0].astype(jnp.float32)
    correct = (chosen >= top).astype(jnp.float32)
    return (lse - chosen, correct), (logits, lse, targets)


def _cross_entropy_backward(
    fast: bool, saved: tuple, grads: tuple[Array, Array]
) -> tuple[Array, None]:
    logits, lse, targets = saved
    wide = _softmax_minus_onehot(logits.astype(jnp.float32), lse, targets) * grads[0][:, None]
    return wide.astype(logits.dtype), None


def _softmax_minus_onehot(logits: Array, lse: Array, targets: Array) -> Array:
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    return jnp.exp(logits - lse[:, None]) - (ids == targets[:, None]).astype(jnp.float32)


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def linear_cross_entropy(
    x: Float[Array, "N D"],
    table: Float[Array, "V D"],
    targets: Int[Array, "N"],
    weights: Float[Array, "N"],
    chunks: int,
    skip_empty: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Compute `cross_entropy(x @ table.T, targets, weights)` without storing all logits.

    The rows are split into chunks whose logits fit the CPU's cache. The backward pass recomputes
    nothing: a chunk's gradients are computed in the forward pass, from its logits, and multiplied
    by the gradient of the loss later.

    Args:
        x: inputs of the output head; their type is that of the matmuls.
        table: weights of the head, one row per id.
        targets: ids in [0, V).
        weights: weight of each row; 0 for padding.
        chunks: number of chunks.
        skip_empty: whether rows of weight 0 are moved to the last chunks, and chunks that consist
            of them are not computed.

    Returns:
        The two sums of `cross_entropy`; only the first has a gradient.
    """
    sums: Any = _linear_cross_entropy(x, table, targets, weights, chunks, skip_empty)
    return sums


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _linear_cross_entropy(
    x: Array, table: Array, targets: Array, weights: Array, chunks: int, skip_empty: bool
) -> tuple[Array, Array]:
    order = jnp.argsort(weights == 0) if skip_empty else None
    table, zero = table.astype(x.dtype), jnp.float32(0)
    sums = []
    for part, target, weight in _chunks(x, targets, weights, chunks, order):

        def add(part: Array = part, target: Array = target, weight: Array = weight) -> Any:
            return cross_entropy(_scores(part, table), target, weight)

        if skip_empty:
            sums.append(jax.lax.cond(jnp.any(weight != 0), add, lambda: (zero, zero)))
        else:
            sums.append(add())
    return sum(s[0] for s in sums[1:]) + sums[0][0], sum(s[1] for s in sums[1:]) + sums[0][1]


def _chunks(x: Array, targets: Array, weights: Array, chunks: int, order: Array | None) -> Any:
    """Yield the rows of each chunk, in an order if one is given."""
    size = -(-x.shape[0] // chunks)
    arrays = [x, targets, weights]
    if order is not None:
        arrays = [a.at[order].get(mode="promise_in_bounds", unique_indices=True) for a in arrays]
    for start in range(0, x.shape[0], size):
        yield [a[start : start + size] for a in arrays]


def _scores(x: Array, table: Array) -> Array:
    dims = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(x, table, dims, preferred_element_type=jnp.float32)


def _linear_forward(
    x: Array, table: Array, targets: Array, weights: Array, chunks: int, skip_empty: bool
) -> Any:
    order = jnp.argsort(weights == 0) if skip_empty else None
    like, table = jnp.zeros(0, table.dtype), table.astype(x.dtype)
    sums: Any = (jnp.float32(0), jnp.float32(0), jnp.zeros(table.shape[::-1], jnp.float32))
    grads = []
    for part, target, weight in _chunks(x, targets, weights, chunks, order):

        def add(
            sums: Any, part: Array = part, target: Array = target, weight: Array = weight
        ) -> Any:
            return _add_chunk(sums, part, target, weight, table)

        if skip_empty:
            empty = jnp.zeros_like(part)
            sums, grad = jax.lax.cond(
                jnp.any(weight != 0), add, lambda sums, empty=empty: (sums, empty), sums
            )
        else:
            sums, grad = add(sums)
        grads.append(grad)
    loss, correct, by_width = sums
    grad_x = jnp.concatenate(grads)
    if order is not None:
        grad_x = jnp.zeros_like(grad_x).at[order].set(grad_x, unique_indices=True)
    return (loss, correct), (grad_x, by_width, like)


def _add_chunk(sums: Any, part: Array, target: Array, weight: Array, table: Array) -> Any:
    """Return the sums with those of a chunk, and the gradient of its rows.

    Args:
        sums: loss, correct rows, and gradient of the head, (D, V).
        part: inputs of the head.
        target: ids.
        weight: weights of the rows.
        table: the head.
    """
    loss, correct, by_width = sums
    logits = _scores(part, table)
    (losses, hits), (_, lse, _) = _cross_entropy_forward(logits, target)
    loss, correct = loss + jnp.sum(losses * weight), correct + jnp.sum(hits * weight)
    grad = _softmax_minus_onehot(logits, lse, target) * weight[:, None]
    # The barriers keep XLA from recomputing the exponentials in both matmuls, and from folding
    # the small transpose into the second one, whose CPU kernel is half as fast on transposed
    # operands.
    grad = jax.lax.optimization_barrier(grad.astype(part.dtype))
    transposed = jax.lax.optimization_barrier(part.T)  # (D, rows of the chunk)
    by_width = by_width + jnp.matmul(transposed, grad, preferred_element_type=jnp.float32)
    return (loss, correct, by_width), grad @ table


def _linear_backward(
    chunks: int, skip_empty: bool, saved: tuple, grads: tuple[Array, Array]
) -> tuple:
    grad_x, by_width, like = saved
    scale = grads[0]
    table = (by_width.T * scale).astype(like.dtype)
    return (grad_x * scale.astype(grad_x.dtype)), table, None, None


_linear_cross_entropy.defvjp(_linear_forward, _linear_backward)


class Kernel(enum.Enum):
    """A kernel of the maximum mean discrepancy (MMD)."""

    IMQ = "imq"  # inverse multiquadrics of seven scales (Tolstikhin et al. 2018)
    RBF = "rbf"  # a mixture of Gaussians around 1 / (2 d)
    RBF_MEDIAN = "rbf_median"  # the same around 1 / the median squared distance to the prior
    LEGACY = "legacy"  # exp(-|x - y|^2 / d^2), biased, degenerate above d = 32; for comparison


def squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Return |x_i - y_j|^2 by one matmul at full precision, clamped at 0."""
    dots = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.square(x).sum(-1)[:, None] + jnp.square(y).sum(-1)[None, :]
    return jnp.maximum(norms - 2 * dots, 0)


def kernel_matrix(
    squared: Float[Array, "n m"], dim: int, kernel: Kernel, gammas: tuple[Any, ...] = ()
) -> Float[Array, "n m"]:
    """Return the kernel's values of squared distances.

    Args:
        squared: squared distances r.
        dim: dimension of the points, which sets the bandwidths.
        kernel: IMQ sums C / (C + r) over C = 2 dim s; RBF averages exp(-gamma r).
        gammas: RBF's gammas; default 1/2, 1 and 2 times 1 / (2 dim). Required for RBF_MEDIAN.

    Returns:
        Values of the kernel, one per distance.
    """
    if kernel is Kernel.IMQ:
        scales = [2.0 * dim * s for s in IMQ_SCALES]
        return sum((c / (c + squared) for c in scales[1:]), scales[0] / (scales[0] + squared))
    if kernel in (Kernel.RBF, Kernel.RBF_MEDIAN):
        gammas = gammas or tuple(f / (2 * dim) for f in RBF_FACTORS)
        first, *rest = (jnp.exp(-gamma * squared) for gamma in gammas)
        return sum(rest, first) / len(gammas)
    return jnp.exp(-squared / dim**2)


def mmd(
    z: Float[Array, "n d"],
    prior: Float[Array, "m d"],
    kernel: Kernel = Kernel.IMQ,
    *,
    weights: Float[Array, " n"] | None = None,
    reference: Float[Array, "q d"] | None = None,
    gammas: tuple[Any, ...] = (),
) -> Float[Array, ""]:
    """Estimate MMD^2 between codes and draws of the prior.

    This is the U-statistic of Gretton et al. 2012, eq. 3.

    Args:
        z: codes, float32.
        prior: draws of the prior, one per code (and per reference row).
        kernel: the kernel; LEGACY uses the biased V-statistic of eq. 5.
        weights: 0 for rows of z that only pad a batch, else 1.
        reference: more codes, without gradient (a queue of earlier ones). They reduce the variance
            of the estimate; the gradient is scaled up to that of a mean over z alone, so that a
            queue does not weaken the loss.
        gammas: gammas of RBF.

    Returns:
        The estimate. It is unbiased: its mean is 0 if both samples come from one distribution, so
        it can be negative. It needs two codes: if `weights` leave fewer, it is 0 without a
        gradient, and must count with weight 0.

    Raises:
        ValueError: if there are fewer than two codes (with those of `reference`) or draws.
    """
    z, prior = z.astype(jnp.float32), prior.astype(jnp.float32)
    count = z.shape[0] + (0 if reference is None else reference.shape[0])
    if min(count, prior.shape[0]) < 2:
        raise ValueError(f"MMD^2 needs two codes and two draws, not {count} and {prior.shape[0]}")
    weighted = weights is not None
    weights = jnp.ones(z.shape[0], jnp.float32) if weights is None else weights
    codes, wx = z, weights
    if reference is not None:
        codes = jnp.concatenate([z, jax.lax.stop_gradient(reference.astype(jnp.float32))])
        wx = jnp.concatenate([weights, jnp.ones(reference.shape[0], jnp.float32)])
    wy = jnp.ones(prior.shape[0], jnp.float32)
    if kernel is Kernel.RBF_MEDIAN:
        middle = _median_distance(z, prior, weights)
        gammas = tuple(f / middle for f in RBF_FACTORS)
    of = partial(kernel_matrix, dim=z.shape[1], kernel=kernel, gammas=gammas)
    xx, yy, xy = (
        of(squared_distances(a, b)) for a, b in ((codes, codes), (prior, prior), (codes, prior))
    )
    biased = kernel is Kernel.LEGACY
    value = _mean(xx, wx, wx, biased) + _mean(yy, wy, wy, biased) - 2 * _mean(xy, wx, wy, True)
    if weighted:
        value = jnp.where(jnp.sum(wx) >= 2, value, 0)
    if reference is None:
        return value
    fixed = jax.lax.stop_gradient(value)
    return fixed + (value - fixed) * (codes.shape[0] / z.shape[0])


def _median_distance(
    z: Float[Array, "n d"], prior: Float[Array, "m d"], weights: Float[Array, " n"]
) -> Float[Array, ""]:
    """Return the median squared distance (Gretton et al. 2012, sec. 8), without gradient.

    Only distances between the two samples count: those within a collapsed sample are all 0.
    """
    squared = squared_distances(jax.lax.stop_gradient(z), prior)
    real = jnp.where(weights[:, None] > 0, squared, jnp.nan)
    return jnp.maximum(jnp.nan_to_num(jnp.nanmedian(real)), 1e-6)  # nan without real rows


def _mean(
    matrix: Float[Array, "n m"], a: Float[Array, " n"], b: Float[Array, " m"], diagonal: bool
) -> Float[Array, ""]:
    """Return the weighted mean of kernel values, with or without the diagonal.

    Both the sum and the mean are 0 if there are no pairs: `mmd` then gives the value no meaning.
    """
    pairs = a[:, None] * b[None, :]
    if not diagonal:
        # A mask, not sum - trace: the difference of two large numbers would lose the small result.
        pairs = pairs * (1 - jnp.eye(a.shape[0], dtype=matrix.dtype))
    return jnp.sum(matrix * pairs) / jnp.maximum(jnp.sum(pairs), 1)


def mmd_null(
    key: Key[Array, ""], n: int, dim: int, kernel: Kernel = Kernel.IMQ, draws: int = 200
) -> Float[np.ndarray, " draws"]:
    """Draw MMD^2 estimates of two samples of N(0, I): the distribution under the null hypothesis.

    Args:
        key: random key.
        n: points per sample.
        dim: dimension of the points.
        kernel: the kernel.
        draws: number of estimates.

    Returns:
        The estimates.
    """

    @jax.jit
    def one(key: Array) -> Array:
        a, b = jax.random.normal(key, (2, n, dim))
        return mmd(a, b, kernel)

    return np.asarray(jax.lax.map(one, jax.random.split(key, draws)))


def kl_to_standard_normal(
    mean: Float[Array, "... d"], log_variance: Float[Array, "... d"]
) -> Float[Array, "... d"]:
    """Return the KL divergence of a Gaussian to N(0, 1), per dimension.

    See Kingma & Welling 2014, appendix B.
    """
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
