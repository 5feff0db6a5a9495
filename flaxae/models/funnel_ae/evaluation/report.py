"""The whole evaluation of a run: report.json, its text and its figures."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from flaxae.measures.stats import finite
from flaxae.measures.text import is_python, signatures
from flaxae.models.funnel_ae import figures
from flaxae.models.funnel_ae.evaluation import gap
from flaxae.models.funnel_ae.evaluation.readable import describe
from flaxae.models.funnel_ae.evaluation.scores import Codes, Scorer, summary
from flaxae.models.funnel_ae.modeling import FunnelAEModel
from flaxae.models.funnel_ae.states import measure_states
from flaxae.storage.paths import as_path
from flaxae.text_autoencoder import figures as shared_figures
from flaxae.text_autoencoder import priors
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import (
    arithmetic,
    interpolation,
    latent,
    samples,
    text_space,
)
from flaxae.text_autoencoder.reconstruction import references, split_report
from flaxae.text_autoencoder.samples import Timer, held_out, subsample, too_few

# The parts of a report on the dev split that are a sentence if there are too few lines.
STUDIES = ("gap", "states", "latent", "references", "samples", "text_space", "interpolation")
STUDIES += ("arithmetic",)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of lines, samples and resamples that a report uses."""

    lines: int = 2000  # lines per split
    samples: int = 1000  # samples per prior
    pulled: int = 200  # samples that are decoded and encoded repeatedly
    texts: int = 600  # lines for shuffling, neighbours and edits
    codes: int = 6000  # training lines whose codes fit priors
    references: int = 500  # lines decoded from wrong codes
    mmd: int = 1000  # codes for MMD^2
    pairs: int = 100  # interpolated pairs of lines
    steps: int = 9  # texts per interpolation
    analogies: int = 200  # arithmetic of codes
    optimised: int = 100  # lines whose codes are optimised
    updates: int = 300  # updates of each of these codes
    states: int = 500  # lines whose hidden states are measured
    draws: int = 1000  # resamples per bootstrap


@dataclasses.dataclass
class Lines:
    """Lines of a split with their ids and codes."""

    lines: list[str]
    ids: Int[np.ndarray, "B N"]
    codes: Codes

    @property
    def flat(self) -> Float[np.ndarray, "B LZ"]:
        """The codes as vectors."""
        return rearrange(self.codes.mean, "b l z -> b (l z)")


def evaluate(loaded: Any, sizes: Sizes | None = None) -> tuple[dict[str, Any], Lines | None]:
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
    found = {name: held_out(text, name) for name in text.splits if name != "train"}
    splits = {n: [x[i] for i in subsample(len(x), sizes.lines)] for n, (x, _) in found.items()}
    python = is_python(splits.get("dev") or next((x for x in splits.values() if x), []))
    out: dict[str, Any] = {
        "step": loaded.step,
        "python": python,
        "floats": codec.num_latents * codec.dim,
        "signatures": signatures(),
        "left_out": {name: why or "no lines" for name, (x, why) in found.items() if not x},
        "splits": {},
    }
    parts: dict[str, Lines] = {}
    for name in [n for n in ("dev", "test_file", "test_line") if splits.get(n)]:
        parts[name] = part = encoded(codec, scorer, splits[name])
        row = split_report(
            codec, text, name, part.lines, part.codes.mean, python=python, draws=sizes.draws
        )
        scores = summary(scorer.score(part.ids, part.codes.mean), sizes.draws)
        intervals = row["intervals"] | scores["intervals"]
        out["splits"][name] = row | scores | {"intervals": intervals}
        timer(f"reconstruction of {name}")
    dev = parts.get("dev")
    if dev is None:
        out |= dict.fromkeys(STUDIES, "n/a: no line of the dev split can be used")
        return finite(out), None
    train = text.lines("train")
    known = encoded(codec, scorer, [train[i] for i in subsample(len(train), sizes.codes)])
    test = splits.get("test_line", [])
    compared = samples.comparison(codec, train, dev.lines, test, python=python)
    calls = _parts(codec, scorer, dev, known, compared, python, sizes)
    calls |= _paths(loaded, codec, dev, compared, python, sizes, out)
    calls["states"] = lambda: states_study(loaded.model, dev, sizes)
    for key, call in calls.items():
        out[key] = call()
        timer(key)
    out["seconds"] = timer.seconds
    return finite(out), dev


def encoded(codec: Codec, scorer: Scorer, lines: list[str]) -> Lines:
    """Encode lines once for all parts of a report."""
    ids = codec.ids(lines)
    return Lines(lines, ids, scorer.encode(ids))


def _parts(
    codec: Codec,
    scorer: Scorer,
    dev: Lines,
    known: Lines,
    compared: Any,
    python: bool,
    sizes: Sizes,
) -> dict[str, Any]:
    """Return the parts that need the dev split, in the order of the report."""
    codes, draws = dev.codes.mean, sizes.draws
    return {
        "gap": lambda: gap_study(scorer, dev, known.codes.mean.mean(0), sizes),
        "latent": lambda: latent.study(
            codes,
            dev.codes.log_variance,
            sigma=codec.sigma,
            tokens_per_line=float((dev.ids != 0).sum(1).mean()),
            most=sizes.mmd,
        ),
        "references": lambda: references(
            codec, dev.lines, codes, python=python, most=sizes.references, draws=draws
        ),
        "samples": lambda: samples.study_or_reason(
            codec,
            compared,
            known.codes.mean,
            samples=sizes.samples,
            pulled=sizes.pulled,
            draws=draws,
        ),
        "text_space": lambda: text_space.study(
            codec, dev.ids, codes, most=sizes.texts, draws=draws
        ),
        "arithmetic": lambda: arithmetic.study(
            codec, dev.lines, count=sizes.analogies, draws=draws
        ),
        "analogies": lambda: arithmetic.examples(codec, dev.lines, python, known.lines),
    }


def _paths(
    loaded: Any,
    codec: Codec,
    dev: Lines,
    compared: Any,
    python: bool,
    sizes: Sizes,
    out: dict[str, Any],
) -> dict[str, Any]:
    """Return the parts on paths; the second one reads the result of the first one in `out`."""
    prior = priors.flow_of(loaded.workdir, loaded.model)
    return {
        "interpolation": lambda: interpolation.study(
            codec,
            dev.lines,
            pairs=sizes.pairs,
            steps=sizes.steps,
            python=python,
            prior=prior,
            likeness=samples.likeness_of(compared, sizes.draws),
            draws=sizes.draws,
        ),
        "interpolations": lambda: interpolation.examples(
            codec, dev.lines, python, out["interpolation"], prior=prior
        ),
    }


def gap_study(
    scorer: Scorer, dev: Lines, mean: Float[np.ndarray, "L Z"], sizes: Sizes
) -> dict[str, Any] | str:
    """Optimise the codes of some held-out lines (see `gap`)."""
    if missing := too_few(len(dev.lines), 2, "the encoder's gap"):
        return missing
    rows = subsample(len(dev.lines), sizes.optimised)
    return gap.study(
        scorer,
        dev.ids[rows],
        dev.codes.mean[rows],
        mean,
        steps=sizes.updates,
        draws=sizes.draws,
    )


def states_study(model: FunnelAEModel, dev: Lines, sizes: Sizes) -> dict[str, Any] | str:
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
    paths = _figures(result, dev, as_path(loaded.workdir) / "metrics.jsonl", folder)
    result["figures"] = {name: str(path) for name, path in paths.items()}
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print(describe(result))
    return result


def _figures(result: dict[str, Any], dev: Lines | None, log: Any, folder: Path) -> dict[str, Path]:
    """Draw what there is."""
    paths: dict[str, Path] = {}

    def draw(name: str, call: Any, *args: Any) -> None:
        paths[name] = call(*args, folder / f"{name}.png")

    if log.exists():
        curves = shared_figures.learning_curves
        paths["learning_curves"] = curves(log, folder / "learning_curves.png", figures.CURVES)
    if result["splits"]:
        draw("by_length", shared_figures.by_length, result["splits"])
        draw("by_place", figures.by_place, result["splits"])
    if dev is not None:
        draw("latent_map", shared_figures.latent_map, dev.flat, dev.lines)
        for name, call in (
            ("gap", figures.gap),
            ("states", figures.states),
            ("interpolation", shared_figures.interpolation),
        ):
            if isinstance(result[name], dict):
                draw(name, call, result[name])
        if isinstance(result["latent"], dict):
            draw("spectrum", shared_figures.spectrum, result["latent"])
            draw("histograms", shared_figures.histograms, dev.flat)
    return paths
