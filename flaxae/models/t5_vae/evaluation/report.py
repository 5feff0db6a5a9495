"""The whole evaluation of a run: report.json, its text and its figures."""

from functools import partial
from pathlib import Path
from typing import Any

from flaxae.models.t5_vae.evaluation import studies
from flaxae.models.t5_vae.evaluation.likelihood import Scorer
from flaxae.models.t5_vae.evaluation.readable import describe
from flaxae.models.t5_vae.evaluation.studies import EncodedLines, Sizes
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import run_report
from flaxae.text_autoencoder.samples import Timer, subsample

# The family's own parts of a report on the dev split.
STUDIES = ("likelihood", "probes", "disentanglement")


def evaluate(loaded: Any, sizes: Sizes | None = None) -> tuple[dict[str, Any], EncodedLines | None]:
    """Compute all measures of a run.

    Args:
        loaded: the run, from `flaxae.load`.
        sizes: numbers of lines, samples and resamples; by default the full sizes.

    Returns:
        The content of report.json without figures, and the dev split's lines with their codes. A
        part that needs more lines than there are is a sentence that says so.
    """
    sizes, text, task, timer = sizes or Sizes(), loaded.task.text, loaded.task, Timer()
    codec = Codec(loaded.model, text.tokenizer, loaded.step)
    scorer = Scorer(loaded.model, loaded.step)
    encode = partial(studies.encode_lines, scorer, codec)
    held = run_report.held_out_lines(text, sizes.lines)
    out = run_report.begin(loaded, held, sizes)
    parts = run_report.reconstruct(loaded, codec, held, encode, out, sizes.draws, timer)
    dev = parts.get("dev")
    if dev is None:
        return run_report.without_dev(out, STUDIES), None
    train, labels = text.lines("train"), None
    picked = subsample(len(train), sizes.codes)
    known = encode([train[i] for i in picked])
    if task.data_config.labels:
        train_labels, dev_labels = text.labels("train"), text.labels("dev")
        labels = ([train_labels[i] for i in picked], [dev_labels[i] for i in held.rows["dev"]])
    calls = run_report.shared_studies(loaded, codec, held, dev, known.codes, sizes, out)
    calls |= {
        "likelihood": lambda: studies.likelihood_study(scorer, codec, dev, sizes),
        "probes": lambda: studies.probe_study(task, known, dev, labels, held.python),
        "disentanglement": lambda: studies.disentanglement_study(dev, held.python, sizes),
    }
    return run_report.run_studies(out, calls, timer), dev


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
