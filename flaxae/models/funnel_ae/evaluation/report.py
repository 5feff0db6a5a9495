"""The whole evaluation of a run: report.json, its text and its figures."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxae.models.funnel_ae import figures
from flaxae.models.funnel_ae.evaluation import gap
from flaxae.models.funnel_ae.evaluation.readable import describe
from flaxae.models.funnel_ae.evaluation.scores import Scorer, summary
from flaxae.models.funnel_ae.modeling import FunnelAEModel
from flaxae.models.funnel_ae.states import measure_states
from flaxae.text_autoencoder import figures as shared_figures
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import arithmetic, run_report
from flaxae.text_autoencoder.evaluation.run_report import Encoded
from flaxae.text_autoencoder.samples import Timer, subsample, too_few

# The family's own parts of a report on the dev split.
STUDIES = ("gap", "states", "arithmetic")


@dataclasses.dataclass(frozen=True)
class Sizes(run_report.Sizes):
    """Numbers of lines, samples and resamples that a report uses."""

    analogies: int = 200  # arithmetic of codes
    optimised: int = 100  # lines whose codes are optimised
    updates: int = 300  # updates of each of these codes
    states: int = 500  # lines whose hidden states are measured


def evaluate(loaded: Any, sizes: Sizes | None = None) -> tuple[dict[str, Any], Encoded | None]:
    """Compute all measures of a run.

    Args:
        loaded: the run, from `flaxae.load`.
        sizes: numbers of lines, samples and resamples; by default the full sizes.

    Returns:
        The content of report.json without figures, and the dev split's lines with their codes. A
        part that needs more lines than there are is a sentence that says so.
    """
    sizes, text, timer = sizes or Sizes(), loaded.task.text, Timer()
    codec = Codec(loaded.model, text.tokenizer, loaded.step)
    scorer = Scorer(loaded.model, loaded.step, loaded.task.num_tokens)

    def encode(lines: list[str]) -> Encoded:
        ids = codec.ids(lines)
        return Encoded(lines, ids, *scorer.encode(ids))

    def scores(part: Encoded) -> dict[str, Any]:
        return summary(scorer.score(part.ids, part.codes), sizes.draws)

    held = run_report.held_out_lines(text, sizes.lines)
    out = run_report.begin(loaded, held, sizes) | {"floats": codec.num_latents * codec.dim}
    parts = run_report.reconstruct(loaded, codec, held, encode, out, sizes.draws, timer, scores)
    dev = parts.get("dev")
    if dev is None:
        return run_report.without_dev(out, STUDIES), None
    train = text.lines("train")
    known = encode([train[i] for i in subsample(len(train), sizes.codes)])
    calls = run_report.shared_studies(loaded, codec, held, dev, known.codes, sizes, out)
    calls |= {
        "gap": lambda: gap_study(scorer, dev, known.codes.mean(0), sizes),
        "arithmetic": lambda: arithmetic.study(
            codec, dev.lines, count=sizes.analogies, draws=sizes.draws
        ),
        "analogies": lambda: arithmetic.examples(codec, dev.lines, held.python, known.lines),
        "states": lambda: states_study(loaded.model, dev, sizes),
    }
    return run_report.run_studies(out, calls, timer), dev


def gap_study(
    scorer: Scorer, dev: Encoded, mean: Float[np.ndarray, "L Z"], sizes: Sizes
) -> dict[str, Any] | str:
    """Optimise the codes of some held-out lines (see `gap`)."""
    if missing := too_few(len(dev.lines), 2, "the encoder's gap"):
        return missing
    rows = subsample(len(dev.lines), sizes.optimised)
    return gap.study(
        scorer,
        dev.ids[rows],
        dev.codes[rows],
        mean,
        steps=sizes.updates,
        draws=sizes.draws,
    )


def states_study(model: FunnelAEModel, dev: Encoded, sizes: Sizes) -> dict[str, Any] | str:
    """Measure the hidden states of some held-out lines (see `states`)."""
    if missing := too_few(len(dev.lines), 2, "the spread of hidden states"):
        return missing
    rows = subsample(len(dev.lines), sizes.states)
    return {"lines": len(rows)} | measure_states(model, dev.ids[rows])


def report(loaded: Any, outdir: str, sizes: Sizes | None = None) -> dict[str, Any]:
    """Evaluate a run, write report.json and figures, and print the report.

    Args:
        loaded: the run, from `flaxae.load`.
        outdir: folder for report.json and the figures.
        sizes: numbers of lines, samples and resamples; by default the full sizes.

    Returns:
        The content of report.json.
    """
    folder = Path(outdir)
    folder.mkdir(parents=True, exist_ok=True)
    result, dev = evaluate(loaded, sizes)
    paths = run_report.draw_shared(result, loaded.workdir, folder, dev, figures.CURVES)
    if result["splits"]:
        paths["by_place"] = figures.by_place(result["splits"], folder / "by_place.png")
    for name, draw in (("gap", figures.gap), ("states", figures.states)):
        if isinstance(result[name], dict):
            paths[name] = draw(result[name], folder / f"{name}.png")
    if dev is not None and "spectrum" in paths:
        paths["histograms"] = shared_figures.histograms(dev.flat, folder / "histograms.png")
    return run_report.write(result, paths, folder, describe)
