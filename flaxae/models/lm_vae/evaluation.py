"""The whole evaluation of a run: report.json, its text and its figures."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from flaxae.data.tokenizer import PAD
from flaxae.measures.stats import finite
from flaxae.measures.text import signatures
from flaxae.storage.paths import as_path
from flaxae.text_autoencoder import figures, priors
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import (
    attribute_report,
    attributes,
    interpolation,
    latent,
    readable,
    samples,
    text_space,
)
from flaxae.text_autoencoder.reconstruction import references, split_report
from flaxae.text_autoencoder.samples import Timer, held_out, subsample


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of lines, samples and resamples that a report uses; a language model is slow."""

    lines: int = 500  # lines per split
    samples: int = 200  # samples per prior
    pulled: int = 50  # samples that are decoded and encoded repeatedly
    texts: int = 200  # lines for shuffled copies, neighbours and edits
    codes: int = 2000  # training lines whose codes fit priors
    references: int = 100  # lines decoded from wrong codes
    mmd: int = 500  # codes for MMD^2
    pairs: int = 20  # interpolated pairs of lines
    steps: int = 7  # texts per interpolation
    moved: int = 100  # texts per split of the arithmetic of attributes
    draws: int = 1000  # resamples per bootstrap


SMALL = Sizes(
    lines=20, moved=6, samples=8, codes=60, references=8, mmd=20, pairs=3, steps=3, draws=20
)


def evaluate(loaded: Any, sizes: Sizes | None = None) -> tuple[dict[str, Any], Any]:
    """Compute all measures of a run.

    Args:
        loaded: the run, from `flaxae.load`.
        sizes: numbers of lines, samples and resamples; by default the full sizes.

    Returns:
        The content of report.json without figures, and the codes and lines of the dev split, None
        if it has none.
    """
    sizes, text = sizes or Sizes(), loaded.task.text
    codec = Codec(loaded.model, text.tokenizer, loaded.step)
    lines = {name: held_out(text, name) for name in text.splits if name != "train"}
    splits = {n: [x[i] for i in subsample(len(x), sizes.lines)] for n, (x, _) in lines.items() if x}
    out: dict[str, Any] = {"step": loaded.step, "python": False}
    out |= {"signatures": signatures(), "splits": {}}
    out["left_out"] = {name: why or "no lines" for name, (x, why) in lines.items() if not x}
    timer = Timer()
    codes = {}
    for name in [n for n in ("dev", "test_file", "test_line") if n in splits]:
        codes[name] = codec.encode(splits[name])
        out["splits"][name] = split_report(
            codec, text, name, splits[name], codes[name], python=False, draws=sizes.draws
        )
        timer(f"reconstruction of {name}")
    if "dev" not in splits:
        return finite(out), None
    dev, z, train = splits["dev"], codes["dev"], text.lines("train")
    ids = codec.ids(dev)
    picked = codec.encode([train[i] for i in subsample(len(train), sizes.codes)])
    compared = samples.comparison(codec, train, dev, splits.get("test_line", []), python=False)
    prior = priors.flow_of(loaded.workdir, loaded.model)
    for key, call in {
        "latent": lambda: latent.study(
            z,
            None,
            sigma=codec.sigma,
            tokens_per_line=float((ids != PAD).sum(1).mean()),
            most=sizes.mmd,
            channel=codec.channel,
        ),
        "references": lambda: references(
            codec, dev, z, python=False, most=sizes.references, draws=sizes.draws
        ),
        "samples": lambda: samples.study_or_reason(
            codec,
            compared,
            picked,
            samples=sizes.samples,
            pulled=sizes.pulled,
            draws=sizes.draws,
        ),
        "text_space": lambda: text_space.study(codec, ids, z, most=sizes.texts, draws=sizes.draws),
        "interpolation": lambda: interpolation.study(
            codec,
            dev,
            pairs=sizes.pairs,
            steps=sizes.steps,
            python=False,
            prior=prior,
            likeness=samples.likeness_of(compared, sizes.draws),
            draws=sizes.draws,
        ),
        "interpolations": lambda: interpolation.examples(
            codec, dev, False, out["interpolation"], prior=prior
        ),
        "attributes": lambda: attributes.of_run(
            loaded, codec, most=sizes.moved, codes=sizes.codes, draws=sizes.draws
        ),
    }.items():
        out[key] = call()
        timer(key)
    out["seconds"] = timer.seconds
    return finite(out), (z, dev)


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
    log, paths = as_path(loaded.workdir) / "metrics.jsonl", {}
    if log.exists():
        paths["learning_curves"] = figures.learning_curves(log, folder / "learning_curves.png")
    if result["splits"]:
        paths["by_length"] = figures.by_length(result["splits"], folder / "by_length.png")
    if dev is not None:
        z, lines = dev
        paths["latent_map"] = figures.latent_map(
            z.reshape(len(z), -1), lines, folder / "latent_map.png"
        )
    result["figures"] = {name: str(path) for name, path in paths.items()}
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print(describe(result))
    return result


def describe(result: dict[str, Any]) -> str:
    """Return a report as text; [a, b] are 95 % intervals over lines, paths or samples."""
    lines = [f"LM-VAE at step {result['step']}, free-running greedy reconstruction"]
    lines += readable.splits(result)
    for name, part in (
        ("references", readable.references),
        ("latent", readable.latent),
        ("samples", readable.samples),
        ("text_space", readable.text_space),
        ("interpolation", readable.interpolation),
        ("attributes", attribute_report.describe),
    ):
        if name in result:
            found = result[name]
            lines += [f"{name}: {found}"] if isinstance(found, str) else part(found)
    return "\n".join(lines + readable.examples(result) + readable.figures(result))
