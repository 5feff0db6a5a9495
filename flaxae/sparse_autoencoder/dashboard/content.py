"""The contents of the page as data, and the search that the page does."""

import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxae.config.locate import user_path
from flaxae.sparse_autoencoder.dashboard import directions
from flaxae.sparse_autoencoder.dashboard.collect import Statistics
from flaxae.sparse_autoencoder.dashboard.contexts import AFTER, BEFORE, KeptContexts
from flaxae.sparse_autoencoder.dashboard.inputs import DashboardInput
from flaxae.sparse_autoencoder.dashboard.vocabulary import Vocabulary

SCOPES = ("all", "contexts", "active", "output")
QUANTILES = (0.9, 0.7, 0.5, 0.3, 0.1)  # of the sampled contexts' largest activations
TOKENS, NEIGHBOURS = 8, 6  # per feature


class Limits(NamedTuple):
    """Bounds of the page.

    Attributes:
        features: number of features.
        megabytes: size of the features' data.
    """

    features: int = 10_000
    megabytes: float = 40.0


def short_name(name: str) -> str:
    """Return the last part of a path, and any other name as it is.

    A page is published: it does not show where files are on this machine. Ids of the Hub and
    relative paths that do not exist here cannot be told apart and stay.
    """
    path = user_path(name).absolute()
    local = bool(name) and (name.startswith(("/", "~", ".")) or path.exists())
    return os.path.basename(os.path.normpath(path)) if local else name


def rounded(value: float) -> float:
    """Return a number with four significant digits."""
    return float(f"{value:.4g}")


def build(
    inputs: DashboardInput,
    found: Statistics,
    *,
    wanted: Sequence[int] = (),
    steered: dict[int, list[dict[str, Any]]] | None = None,
    prompt: str = "",
    limits: Limits | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        inputs: the dictionary, its model and text.
        found: statistics of its features.
        wanted: features that are on the page first, active or not.
        steered: {feature: [{"strength", "value", "text"}]}.
        prompt: the beginning of the steered texts.
        limits: bounds of the page.
        log: called with a message if features are left out.
    """
    limits, log = limits or Limits(), log or (lambda _: None)
    alive = int((found.active > 0).sum())
    kept = len(set(wanted))  # these are on the page, whatever its bounds are
    places = _ordered(found, wanted)[: max(limits.features, kept)]
    numbers = found.features[places]
    near = directions.neighbours(inputs.sae, numbers, NEIGHBOURS)
    outputs: Any = None
    if inputs.causal and inputs.hook_out in directions.RESIDUAL:
        outputs = directions.logit_tokens(inputs.model, inputs.sae, numbers, TOKENS)
    vocabulary = Vocabulary(inputs)
    rows: dict[int, int] = {}  # row of the text -> row of the page
    texts: list[list[int]] = []

    def row_of(row: int) -> int:
        if row not in rows:
            rows[row] = len(texts)
            real = inputs.rows.ids[row][inputs.rows.mask[row] > 0]
            texts.append(vocabulary.row(real))
        return rows[row]

    features, used = [], 0.0
    for i, place in enumerate(places):
        before = len(texts)
        feature = _feature(found, int(place), row_of)
        feature["near"] = [
            [int(n), rounded(c)] for n, c in zip(near[0][i], near[1][i], strict=True)
        ]
        if outputs is not None:
            for name, (ids, values) in zip(("up", "down"), outputs, strict=True):
                pairs = zip(ids[i], values[i], strict=True)
                feature[name] = [[vocabulary(token), rounded(x)] for token, x in pairs]
        if steered and feature["n"] in steered:
            feature["steered"] = steered[feature["n"]]
        size = len(json.dumps(feature)) + sum(5 * len(text) for text in texts[before:])
        used += size / 1e6
        if used > limits.megabytes and i >= max(kept, 1):
            break
        features.append(feature)
    on_page = {feature["n"] for feature in features}
    for feature in features:  # neighbours that are not on the page have no link
        feature["near"] = [pair for pair in feature["near"] if pair[0] in on_page]
    left_out = alive - sum(feature["active"] > 0 for feature in features)
    if left_out > 0:
        log(
            f"the page has {len(features):,} features, those that are active most often; "
            f"{left_out:,} active ones are left out (--max-features, --max-mb; --features chooses)"
        )
    return {
        "about": _about(inputs, found, alive, left_out) | {"prompt": prompt},
        "before": BEFORE,
        "after": AFTER,
        "vocabulary": vocabulary.texts,
        "rows": texts,
        "features": sorted(features, key=lambda feature: feature["n"]),
    }


def _ordered(found: Statistics, wanted: Sequence[int]) -> np.ndarray:
    """Return places of the wanted features, then of the active ones, the most frequent first."""
    first = np.isin(found.features, np.asarray(wanted, np.int64))
    order = np.lexsort((found.features, -found.active, ~first))
    return order[first[order] | (found.active[order] > 0)]


def _about(inputs: DashboardInput, found: Statistics, alive: int, left_out: int) -> dict[str, Any]:
    config, origin = inputs.sae.config, inputs.origin
    return {
        "name": short_name(inputs.name),
        "model": short_name(origin.model),
        "hook": origin.hook,
        "hook_out": origin.hook_out,
        "layer": origin.layer,
        "activation": config.activation.value,
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "tokens": found.tokens,
        "read": len(found.features),
        "alive": alive,
        "left_out": left_out,
    }


def _feature(found: Statistics, place: int, row_of: Callable[[int], int]) -> dict[str, Any]:
    """Return the data of one feature."""
    active = int(found.active[place])
    counts, width = found.histograms.of(place)
    top = [_context(found.top, place, slot, row_of) for slot in _filled(found.top, place)]
    seen = {int(found.top.rows[place, slot]) for slot in _filled(found.top, place)}
    return {
        "n": int(found.features[place]),
        "active": active,
        "largest": rounded(found.largest[place]),
        "mean": rounded(found.total[place] / max(active, 1)),
        "counts": counts,
        "width": width,
        "top": top,
        "lower": [
            _context(found.sample, place, slot, row_of) | {"quantile": q}
            for q, slot in _quantiles(found.sample, place)
            if int(found.sample.rows[place, slot]) not in seen
        ],
    }


def _filled(kept: KeptContexts, place: int) -> list[int]:
    return np.nonzero(kept.keys[place] > 0)[0].tolist()


def _quantiles(kept: KeptContexts, place: int) -> list[tuple[float, int]]:
    """Return (quantile, slot) of contexts at the quantiles of the sample; no slot twice."""
    slots = _filled(kept, place)
    slots.sort(key=lambda slot: kept.windows[place, slot, BEFORE])
    chosen: dict[int, float] = {}
    for q in QUANTILES:
        if slots:
            chosen.setdefault(slots[round(q * (len(slots) - 1))], q)
    return [(q, slot) for slot, q in chosen.items()]


def _context(
    kept: KeptContexts, place: int, slot: int, row_of: Callable[[int], int]
) -> dict[str, Any]:
    """Return a context: its row, the position of its peak, and {offset from the peak: value}."""
    window = kept.windows[place, slot]
    offsets = np.nonzero(window)[0]
    return {
        "row": row_of(int(kept.rows[place, slot])),
        "peak": int(kept.peaks[place, slot]),
        "values": [[int(o) - BEFORE, rounded(window[o])] for o in offsets],
    }


def tokens_of(content: dict[str, Any], context: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the tokens of a context with their activations, as the page shows them."""
    row, values = content["rows"][context["row"]], dict(map(tuple, context["values"]))
    start = max(0, context["peak"] - content["before"])
    end = min(len(row), context["peak"] + content["after"] + 1)
    return [
        (content["vocabulary"][row[i]], values.get(i - context["peak"], 0.0))
        for i in range(start, end)
    ]


def search(content: dict[str, Any], query: str, scope: str = "all") -> list[int]:
    """Return the numbers of the features that a query finds, ascending.

    Args:
        content: what `build` returns.
        query: words, or the number of a feature. In contexts, all words must be in one of them.
        scope: "contexts", "active" (tokens in contexts at which the feature is active), "output"
            (tokens that it makes more likely), or "all".
    """
    words = query.lower().split()
    number = re.fullmatch(r"#?(\d+)", query.strip())
    found = []
    for feature in content["features"]:
        own = number is not None and feature["n"] == int(number[1])
        if own or not words or _matches(content, feature, words, scope):
            found.append(feature["n"])
    return found


def _matches(
    content: dict[str, Any], feature: dict[str, Any], words: list[str], scope: str
) -> bool:
    contexts = [tokens_of(content, c) for c in (*feature["top"], *feature["lower"])]
    if scope in ("all", "contexts"):
        texts = ["".join(text for text, _ in c).lower() for c in contexts]
        if any(all(word in text for word in words) for text in texts):
            return True
    if scope in ("all", "active"):
        active = [text.lower() for c in contexts for text, value in c if value > 0]
        if all(any(word in text for text in active) for word in words):
            return True
    if scope in ("all", "output"):
        output = [content["vocabulary"][token].lower() for token, _ in feature.get("up", ())]
        return all(any(word in text for text in output) for word in words)
    return False
