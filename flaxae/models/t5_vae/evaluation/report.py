"""The whole evaluation of a run: report.json, its text and its figures."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from flaxae.data.tokenizer import PAD
from flaxae.measures.stats import finite
from flaxae.measures.text import is_python, signatures
from flaxae.models.t5_vae.evaluation import studies
from flaxae.models.t5_vae.evaluation.likelihood import Scorer
from flaxae.models.t5_vae.evaluation.readable import describe
from flaxae.models.t5_vae.evaluation.studies import Sizes
from flaxae.storage.paths import as_path
from flaxae.text_autoencoder import figures, priors
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import (
    attributes,
    interpolation,
    latent,
    samples,
    text_space,
)
from flaxae.text_autoencoder.reconstruction import references, split_report
from flaxae.text_autoencoder.samples import Timer, held_out, subsample

# The parts of a report on the dev split that are a sentence if there are too few lines.
STUDIES = ("latent", "likelihood", "references", "samples", "text_space", "interpolation")
STUDIES += ("probes", "disentanglement", "attributes")


def evaluate(
    loaded: Any, sizes: Sizes | None = None
) -> tuple[dict[str, Any], studies.EncodedLines | None]:
    """Compute all measures of a run.

    Args:
        loaded: the run, from `flaxae.load`.
        sizes: numbers of lines, samples and resamples; by default the full sizes.

    Returns:
        The content of report.json without figures, and the dev split's lines with their codes. A
        part that needs more lines than there are is a sentence that says so.
    """
    sizes = sizes or Sizes()
    text, task = loaded.task.text, loaded.task
    codec = Codec(loaded.model, text.tokenizer, loaded.step)
    scorer = Scorer(loaded.model, loaded.step)
    lines = {name: held_out(text, name) for name in text.splits if name != "train"}
    rows = {name: subsample(len(x), sizes.lines) for name, (x, _) in lines.items()}
    splits = {name: [lines[name][0][i] for i in rows[name]] for name in lines}
    first = splits.get("dev") or next((x for x in splits.values() if x), [])
    python = is_python(first)
    out: dict[str, Any] = {"step": loaded.step, "python": python}
    out["sizes"] = dataclasses.asdict(sizes)
    out |= {"signatures": signatures(), "splits": {}}
    out["left_out"] = {name: why or "no lines" for name, (x, why) in lines.items() if not x}
    timer = Timer()
    parts: dict[str, studies.EncodedLines] = {}
    for name in [n for n in ("dev", "test_file", "test_line") if splits.get(n)]:
        parts[name] = studies.encode_lines(scorer, codec, splits[name])
        out["splits"][name] = split_report(
            codec, text, name, splits[name], parts[name].codes, python=python, draws=sizes.draws
        )
        timer(f"reconstruction of {name}")
    dev = parts.get("dev")
    if dev is None:
        out |= dict.fromkeys(STUDIES, "n/a: no line of the dev split can be used")
        return finite(out), None
    train = text.lines("train")
    picked = subsample(len(train), sizes.codes)
    encoded = studies.encode_lines(scorer, codec, [train[i] for i in picked])
    test, labels = splits.get("test_line", []), None
    compared = samples.comparison(codec, train, dev.lines, test, python=python)
    prior = priors.flow_of(loaded.workdir, loaded.model)
    if task.data_config.labels:
        train_labels, dev_labels = text.labels("train"), text.labels("dev")
        labels = ([train_labels[i] for i in picked], [dev_labels[i] for i in rows["dev"]])
    for key, call in {
        "latent": lambda: latent.study(
            dev.codes,
            dev.log_variances,
            sigma=codec.sigma,
            tokens_per_line=float((dev.ids != PAD).sum(1).mean()),
            most=sizes.mmd,
            channel=codec.channel,
            lowest_sigma=codec.lowest_sigma,
        ),
        "likelihood": lambda: studies.likelihood_study(scorer, codec, dev, sizes),
        "references": lambda: references(
            codec, dev.lines, dev.codes, python=python, most=sizes.references, draws=sizes.draws
        ),
        "samples": lambda: samples.study_or_reason(
            codec,
            compared,
            encoded.codes,
            samples=sizes.samples,
            pulled=sizes.pulled,
            draws=sizes.draws,
        ),
        "text_space": lambda: text_space.study(
            codec, dev.ids, dev.codes, most=sizes.texts, draws=sizes.draws
        ),
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
        "probes": lambda: studies.probe_study(task, encoded, dev, labels, python),
        "disentanglement": lambda: studies.disentanglement_study(dev, python, sizes),
        "attributes": lambda: attributes.of_run(
            loaded, codec, most=sizes.moved, codes=sizes.codes, draws=sizes.draws
        ),
        "interpolations": lambda: interpolation.examples(
            codec, dev.lines, python, out["interpolation"], prior=prior
        ),
    }.items():
        out[key] = call()
        timer(key)
    out["seconds"] = timer.seconds
    return finite(out), dev


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
    log = as_path(loaded.workdir) / "metrics.jsonl"
    paths = {}
    if log.exists():
        paths["learning_curves"] = figures.learning_curves(log, folder / "learning_curves.png")
    if result["splits"]:
        paths["by_length"] = figures.by_length(result["splits"], folder / "by_length.png")
    if dev is not None:
        paths["latent_map"] = figures.latent_map(dev.flat, dev.lines, folder / "latent_map.png")
        if isinstance(result["latent"], dict):
            paths["spectrum"] = figures.spectrum(result["latent"], folder / "spectrum.png")
        if isinstance(result["interpolation"], dict):
            paths["interpolation"] = figures.interpolation(
                result["interpolation"], folder / "interpolation.png"
            )
    result["figures"] = {name: str(path) for name, path in paths.items()}
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print(describe(result))
    return result
