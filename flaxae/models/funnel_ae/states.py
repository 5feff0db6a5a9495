"""Measures of a model's hidden states, always without skips.

They answer three questions. Do the two states of an upsampled pair differ less than those of the
pair that was pooled? Does the attention of a layer that pools mostly read the pair that it pools?
In how many dimensions do the states of each layer vary?
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Float, Int

from flaxae.data.tokenizer import PAD
from flaxae.models.funnel_ae.modeling import FunnelAEModel
from flaxae.task import Context, Taps
from flaxae.text_autoencoder.latent_measures import principal_dimensions

OUT, WEIGHTS = ".out", ".first.attention.weights"


def measure_states(model: FunnelAEModel, ids: Int[np.ndarray, "B N"]) -> dict[str, Any]:
    """Measure the states of rows, which are reconstructed from their own codes.

    Args:
        model: the model.
        ids: rows of `max_length` tokens, padded on the right.

    Returns:
        differences: for each level, outermost first, the variances of x_odd - x_even of the
            encoder's states ("original") and of the upsampled ones, and their "ratio".
        attention: for each layer that pools, outermost first, `own_pair_attention`.
        layers: names in order of computation -> `principal_dimensions` of the states. The last
            layers of a block of several are those of its last repeat.
    """
    found = _states(model, np.asarray(ids))
    masks, last = found["masks"], len(found["masks"]) - 1
    differences = []
    for level in range(last):
        pairs = rearrange(masks[level], "B (P two) -> B P two", two=2).min(-1)
        original = difference_variance(found["encoder"][level], pairs)
        upsampled = difference_variance(found["upsampled"][level], pairs)
        ratio = upsampled / original if original else float("nan")
        differences.append({"original": original, "upsampled": upsampled, "ratio": ratio})
    attention = [
        own_pair_attention(weights, masks[level])
        for level, weights in enumerate(found["weights"])
        if weights.shape[-1] == 2 * weights.shape[-2]
    ]
    layers = {}
    for name, level, states in found["layers"]:
        real = rearrange(states, "B S D -> (B S) D")[masks[level].reshape(-1) > 0]
        layers[name] = principal_dimensions(real)
    return {"differences": differences, "attention": attention, "layers": layers}


def difference_variance(
    states: Float[np.ndarray, "B 2P D"], pairs: Float[np.ndarray, "B P"]
) -> float:
    """Return the variance of x_odd - x_even over pairs, summed over the dimensions.

    Args:
        states: two states per pair.
        pairs: 1 for pairs that count, else 0.
    """
    even, odd = rearrange(np.asarray(states, np.float64), "B (P two) D -> two B P D", two=2)
    difference = (odd - even)[pairs > 0]
    return float(difference.var(0).sum()) if len(difference) else float("nan")


def own_pair_attention(
    weights: Float[np.ndarray, "B H P 2P"], mask: Float[np.ndarray, "B 2P"]
) -> float:
    """Return the attention of pooled queries to the pairs that they pool, relative to uniform.

    Args:
        weights: attention weights of a layer that pools, from pooled queries to unpooled keys.
        mask: 1 for real keys, 0 for padding.

    Returns:
        The weight on the real keys of a query's own pair over their share of all real keys, the
        mean over queries that pool a real state, and heads: 1 for uniform attention, and half of
        the number of keys if each query attends to its pair alone.
    """
    split = rearrange(np.asarray(weights, np.float64), "B H P (Q two) -> B H P Q two", two=2)
    own = np.einsum("bhpps->bhp", split).mean(1)  # (B, P)
    keys = rearrange(mask, "B (P two) -> B P two", two=2).sum(-1)  # real keys of each pair
    real = keys > 0
    share = keys / mask.sum(1, keepdims=True).clip(1)
    return float((own[real] / share[real]).mean())


def code_moments(
    model: FunnelAEModel, ids: Int[np.ndarray, "B N"]
) -> tuple[Float[np.ndarray, "L Z"], Float[np.ndarray, "L Z"]]:
    """Return the mean and the standard deviation of each number of the codes of rows."""
    graph, state = nnx.split(model)
    ctx = Context(jax.random.key(0), jnp.int32(0))
    encode = jax.jit(lambda state, ids: nnx.merge(graph, state).encode([ids], ctx))
    codes = np.asarray(encode(state, jnp.asarray(ids)), np.float64)
    return codes.mean(0), codes.std(0)


def _states(model: FunnelAEModel, ids: np.ndarray) -> dict[str, Any]:
    """Return the states of a pass over rows, as numpy arrays."""
    graph, state = nnx.split(model)

    def call(state: Any, ids: Any) -> dict[str, Any]:
        model = nnx.merge(graph, state)
        taps = Taps(lambda path: path.endswith((OUT, WEIGHTS)))
        ctx = Context(jax.random.key(0), jnp.int32(0), taps=taps)
        encoded = model.encoded(ids, ctx)
        code = model.posterior(encoded, ctx)[0]
        _, upsampled = model.decode(code, ctx)
        blocks = encoded.blocks
        return {
            "encoder": [row.states for row in blocks],
            "masks": [row.mask for row in blocks],
            "upsampled": upsampled,
            "taps": taps.collected,
        }

    found = jax.tree.map(np.asarray, jax.device_get(jax.jit(call)(state, jnp.asarray(ids))))
    taps, count = found.pop("taps"), len(found["masks"])
    found["masks"] = [(ids != PAD).astype(np.float32), *found["masks"][1:]]
    found["weights"] = [taps[f"encoder.blocks.{k}{WEIGHTS}"] for k in range(1, count)]
    layers = []
    for k in range(count):
        layers += [(name, k, x) for name, x in _layers(taps, "encoder", k)]
    for k in reversed(range(count)):
        layers += [(name, k, x) for name, x in reversed(_layers(taps, "decoder", k))]
        if k:
            layers.append((f"upsampled {k - 1}", k - 1, found["upsampled"][k - 1]))
    found["layers"] = layers
    return found


def _layers(taps: dict[str, np.ndarray], side: str, block: int) -> list[tuple[str, np.ndarray]]:
    """Return a block's layers, outermost first, by name: side, block and layer."""
    path = f"{side}.blocks.{block}"
    rest = taps.get(f"{path}.rest{OUT}", ())
    # The decoder applies its layers from the last one: its scan has recorded them in that order.
    rest = rest[::-1] if side == "decoder" else rest
    every = [taps[f"{path}.first{OUT}"], *rest]
    return [(f"{side} {block}.{layer}", x) for layer, x in enumerate(every)]
