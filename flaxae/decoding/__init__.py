"""Decoding for every autoregressive model: one loop inside jit, with a cache that is any pytree.

A model provides `step(ids at this position, cache, position) -> (scores of the next id, cache)`.
A loop stops when every row has ended, and a row's ids do not depend on the other rows.
"""

from typing import Any

from jaxtyping import Array, Int, Key

from flaxae.decoding.beam import beam as beam
from flaxae.decoding.choose import NEVER as NEVER
from flaxae.decoding.choose import ChooseFn as ChooseFn
from flaxae.decoding.choose import Sampling as Sampling
from flaxae.decoding.choose import best_id as best_id
from flaxae.decoding.choose import chooser as chooser
from flaxae.decoding.choose import draw_id as draw_id
from flaxae.decoding.choose import is_end as is_end
from flaxae.decoding.choose import mask_unused as mask_unused
from flaxae.decoding.choose import nucleus as nucleus
from flaxae.decoding.loop import FEWEST_ROWS as FEWEST_ROWS
from flaxae.decoding.loop import StepFn as StepFn
from flaxae.decoding.loop import advance as advance
from flaxae.decoding.loop import greedy as greedy
from flaxae.decoding.loop import sample as sample


def generate(
    step: StepFn,
    cache: Any,
    start_ids: Int[Array, "B"],
    max_length: int,
    sampling: Sampling,
    key: Key[Array, ""],
    *,
    eos: int | tuple[int, ...],
    pad: int = 0,
    cache_axes: Any = 0,
    drop_ended: bool = False,
) -> Int[Array, "B T"]:
    """Decode by `greedy`, `sample` or `beam`, depending on `sampling`. Call it under jit.

    Args:
        step: see `greedy`.
        cache: see `greedy`.
        start_ids: see `greedy`.
        max_length: see `greedy`.
        sampling: how ids are chosen.
        key: random key of `sample`.
        eos: see `greedy`.
        pad: see `greedy`.
        cache_axes: the axis of rows of the cache's leaves, a prefix of its tree.
        drop_ended: whether greedy decoding and sampling continue with half of the rows once the
            others have ended. This saves most of the work if lengths differ, and compiles one loop
            per halving.

    Returns:
        Ids, (B, max_length).
    """
    common: Any = {"eos": eos, "pad": pad}
    if sampling.beams > 1:
        common |= {"beams": sampling.beams, "length_penalty": sampling.length_penalty}
        return beam(step, cache, start_ids, max_length, cache_axes=cache_axes, **common)
    common["drop_axes"] = cache_axes if drop_ended else None
    if sampling.temperature is None:
        return greedy(step, cache, start_ids, max_length, **common)
    return sample(step, cache, start_ids, max_length, key=key, sampling=sampling, **common)
