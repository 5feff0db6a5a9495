"""The whole evaluation of a run: report.json, a text, figures."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from flaxae.measures.text import signatures, valid_mask
from flaxae.models.t5_vae import figures
from flaxae.models.t5_vae.evaluation import interpolation, studies
from flaxae.models.t5_vae.evaluation.likelihood import Scorer
from flaxae.models.t5_vae.evaluation.readable import describe
from flaxae.models.t5_vae.evaluation.reconstruction import reconstruction
from flaxae.models.t5_vae.evaluation.studies import Sizes
from flaxae.models.t5_vae.modeling import T5VAE
from flaxae.storage.paths import as_path
from flaxae.task import Context
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.latents import slerp

PYTHON_SHARE = 0.3  # of lines that parse, from which on a corpus counts as Python's


def sample_texts(task: Any, model: T5VAE, ctx: Context, n: int) -> dict[str, list[str]]:
    """What the loop shows: reconstructions, draws of the prior, the way between two lines."""
    codec = Codec(model, task.text.tokenizer, ctx.step)
    lines = list(task.text.lines("dev")[:n])
    if not lines:
        return {}
    codes = codec.encode(lines)
    shape = (n, codec.num_latents, codec.dim)
    prior = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    out = {
        "reconstructions": [
            f"{'=' if a == b else '!'} {a}   ->   {b}"
            for a, b in zip(lines, codec.decode(codes), strict=True)
        ],
        "samples of N(0, I)": codec.texts(codec.generate(prior)),
    }
    if len(lines) > 1:
        out["interpolation"] = codec.decode(slerp(codes[0], codes[1], 5))
    return out


def evaluate(loaded: Any, sizes: Sizes | None = None) -> tuple[dict[str, Any], studies.Held | None]:
    """All measures of a run.

    Args:
        loaded: what `flaxae.load` returns.
        sizes: how much is looked at; None: the full sizes.

    Returns:
        What report.json holds, figures aside, and the dev split's lines with their codes.
    """
    sizes = sizes or Sizes()
    text, task = loaded.task.text, loaded.task
    codec = Codec(loaded.model, text.tokenizer, loaded.step)
    scorer = Scorer(loaded.model, loaded.step)
    rows = {name: _some(len(text.lines(name)), sizes.lines) for name in text.splits}
    splits = {name: [text.lines(name)[i] for i in rows[name]] for name in rows if name != "train"}
    first = splits.get("dev") or next((x for x in splits.values() if x), [])
    python = bool(len(first) and valid_mask(first[:500]).mean() > PYTHON_SHARE)
    out: dict[str, Any] = {"step": loaded.step, "python": python}
    out |= {"signatures": signatures(), "splits": {}}
    clock = _Clock()
    parts: dict[str, studies.Held] = {}
    for name in [n for n in ("dev", "test_file", "test_line") if splits.get(n)]:
        parts[name] = studies.held(scorer, codec, splits[name])
        row = {"lines": len(splits[name])} | reconstruction(
            codec, splits[name], parts[name].codes, python=python, draws=sizes.draws
        )
        if python:
            row["validity_of_real_lines"] = float(valid_mask(splits[name]).mean())
        row["in_training_files"] = float(dict(text.overlap).get(name, 0.0))
        row["too_long_and_skipped"] = text.source(name).skipped
        out["splits"][name] = row
        clock(f"reconstruction of {name}")
    dev = parts.get("dev")
    if dev is None:
        return studies.finite(out), None
    train = text.lines("train")
    picked = _some(len(train), sizes.codes)
    some = studies.held(scorer, codec, [train[i] for i in picked])
    test, known = splits.get("test_line", []), None
    if task.config.data.labels:
        of_train, of_dev = text.labels("train"), text.labels("dev")
        known = ([of_train[i] for i in picked], [of_dev[i] for i in rows["dev"]])
    for key, call in {
        "latent": lambda: studies.latent_study(codec, dev, sizes),
        "likelihood": lambda: studies.likelihood_study(scorer, codec, dev, sizes),
        "references": lambda: studies.references(codec, dev, python, sizes),
        "samples": lambda: studies.sample_study(codec, train, some, dev.lines, test, python, sizes),
        "interpolation": lambda: studies.interpolation_study(codec, dev, python, sizes),
        "probes": lambda: studies.probe_study(task, some, dev, known, python),
        "disentanglement": lambda: studies.disentanglement_study(dev, python, sizes),
        "interpolations": lambda: interpolation.examples(codec, dev.lines, python),
    }.items():
        out[key] = call()
        clock(key)
    out["seconds"] = clock.seconds
    return studies.finite(out), dev


class _Clock:
    """Says on standard error which part is done: minutes pass."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = round(now - self.last, 1)
        self.last = now
        print(f"{part}: {self.seconds[part]} s", file=sys.stderr, flush=True)


def _some(count: int, most: int) -> list[int]:
    """All rows, or a seeded sample of them, in order."""
    if count <= most:
        return list(range(count))
    return sorted(np.random.default_rng(0).choice(count, most, replace=False).tolist())


def report(loaded: Any, outdir: str, sizes: Sizes | None = None) -> dict[str, Any]:
    """The whole evaluation of a run.

    Args:
        loaded: what `flaxae.load` returns.
        outdir: report.json and the figures are written here.
        sizes: how much is looked at; None: the full sizes.

    Returns:
        What report.json holds.
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
        paths["spectrum"] = figures.spectrum(result["latent"], folder / "spectrum.png")
        if isinstance(result["interpolation"], dict):
            ways = figures.ways(result["interpolation"], folder / "interpolation.png")
            paths["interpolation"] = ways
    result["figures"] = {name: str(path) for name, path in paths.items()}
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print(describe(result))
    return result
