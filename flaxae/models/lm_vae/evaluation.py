"""The whole evaluation of a run: report.json, its text and its figures."""

import dataclasses
from pathlib import Path
from typing import Any

from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import attribute_report, readable, run_report
from flaxae.text_autoencoder.evaluation.run_report import Encoded
from flaxae.text_autoencoder.samples import Timer, subsample


@dataclasses.dataclass(frozen=True)
class Sizes(run_report.Sizes):
    """Numbers of lines, samples and resamples that a report uses; a language model is slow."""

    lines: int = 500
    samples: int = 200
    pulled: int = 50
    texts: int = 200
    codes: int = 2000
    references: int = 100
    mmd: int = 500
    pairs: int = 20
    steps: int = 7


SMALL = Sizes(
    lines=20, moved=6, samples=8, codes=60, references=8, mmd=20, pairs=3, steps=3, draws=20
)


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

    def encode(lines: list[str]) -> Encoded:
        return Encoded(lines, codec.ids(lines), codec.encode(lines), None)

    held = run_report.held_out_lines(text, sizes.lines)
    out = run_report.begin(loaded, held, sizes)
    parts = run_report.reconstruct(loaded, codec, held, encode, out, sizes.draws, timer)
    dev = parts.get("dev")
    if dev is None:
        return run_report.without_dev(out, ()), None
    train = text.lines("train")
    known = codec.encode([train[i] for i in subsample(len(train), sizes.codes)])
    studies = run_report.shared_studies(loaded, codec, held, dev, known, sizes, out)
    return run_report.run_studies(out, studies, timer), dev


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
    paths = run_report.draw_shared(result, loaded.workdir, folder, dev)
    return run_report.write(result, paths, folder, describe)


def describe(result: dict[str, Any]) -> str:
    """Return a report as text; [a, b] are 95 % intervals over lines, paths or samples."""
    lines = [f"LM-VAE at step {result['step']}, free-running greedy reconstruction"]
    lines += readable.splits(result)
    lines += readable.parts(
        result,
        {
            "references": readable.references,
            "latent": readable.latent,
            "samples": readable.samples,
            "text_space": readable.text_space,
            "interpolation": readable.interpolation,
            "attributes": attribute_report.describe,
        },
    )
    return "\n".join(lines + readable.examples(result) + readable.figures(result))
