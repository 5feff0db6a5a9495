"""The frame of a run's report, and the studies that all text autoencoders have.

A family encodes the held-out lines in its own way, adds studies of its own to `shared_studies`,
runs all of them by `run_studies`, and writes the result with its figures by `write`.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from flaxae.data.tokenizer import PAD
from flaxae.measures.stats import finite
from flaxae.measures.text import is_python, signatures
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

# Parts on the dev split that are a sentence if it has no lines.
STUDIES = ("latent", "references", "samples", "text_space", "interpolation", "attributes")
SPLITS = ("dev", "test_file", "test_line")
Study = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of lines, samples and resamples that a report uses."""

    lines: int = 2000  # lines per split
    samples: int = 1000  # samples per prior
    pulled: int = 200  # samples that are decoded and encoded repeatedly
    texts: int = 600  # lines for shuffling, neighbours and edits
    codes: int = 6000  # training lines whose codes fit priors and probes
    references: int = 500  # lines decoded from wrong codes
    mmd: int = 1000  # codes for MMD^2
    pairs: int = 100  # interpolated pairs of lines
    steps: int = 9  # texts per interpolation
    moved: int = 100  # texts per split of the arithmetic of attributes
    draws: int = 1000  # resamples per bootstrap


class HeldOut(NamedTuple):
    """The held-out lines of a report.

    Attributes:
        splits: lines of each split that has some.
        rows: their places among all lines of the split.
        left_out: why a split has no lines.
        python: whether the lines are Python.
    """

    splits: dict[str, list[str]]
    rows: dict[str, list[int]]
    left_out: dict[str, str]
    python: bool


@dataclasses.dataclass
class Encoded:
    """Lines with their ids and codes.

    Attributes:
        lines: the lines.
        ids: their ids with EOS, then padding.
        codes: their clean codes.
        log_variances: logarithms of the posteriors' variances; None: codes are deterministic.
    """

    lines: list[str]
    ids: Int[np.ndarray, "B T"]
    codes: Float[np.ndarray, "B L Z"]
    log_variances: Float[np.ndarray, "B L Z"] | None

    @property
    def flat(self) -> Float[np.ndarray, "B LZ"]:
        """The codes as vectors."""
        return rearrange(self.codes, "b l z -> b (l z)")


E = TypeVar("E", bound=Encoded)


def held_out_lines(text: Any, most: int) -> HeldOut:
    """Choose the held-out lines of a report.

    Args:
        text: the run's texts (`data.hub.TextData`).
        most: lines per split.
    """
    found = {name: held_out(text, name) for name in text.splits if name != "train"}
    left_out = {name: why or "no lines" for name, (lines, why) in found.items() if not lines}
    rows = {name: subsample(len(x), most) for name, (x, _) in found.items() if x}
    splits = {name: [found[name][0][i] for i in rows[name]] for name in SPLITS if name in rows}
    python = is_python(next(iter(splits.values()), []))
    return HeldOut(splits, rows, left_out, python)


def begin(loaded: Any, held: HeldOut, sizes: Sizes) -> dict[str, Any]:
    """Return the content of report.json before any part."""
    return {
        "step": loaded.step,
        "python": held.python,
        "sizes": dataclasses.asdict(sizes),
        "signatures": signatures(),
        "left_out": held.left_out,
        "splits": {},
    }


def reconstruct(
    loaded: Any,
    codec: Codec,
    held: HeldOut,
    encode: Callable[[list[str]], E],
    out: dict[str, Any],
    draws: int,
    timer: Timer,
    more: Callable[[E], dict[str, Any]] = lambda _: {},
) -> dict[str, E]:
    """Encode the held-out lines, and measure how well they are decoded.

    Args:
        loaded: the run.
        codec: its model with its tokenizer.
        held: the held-out lines.
        encode: encodes lines.
        out: the content of report.json, whose "splits" are filled.
        draws: resamples of the bootstrap.
        timer: notes the seconds of each split.
        more: further measures of a split, with their `intervals`.

    Returns:
        The encoded lines of each split.
    """
    parts = {}
    for name, lines in held.splits.items():
        parts[name] = part = encode(lines)
        row = split_report(
            codec, loaded.task.text, name, lines, part.codes, python=held.python, draws=draws
        )
        added = more(part)
        intervals = row["intervals"] | added.get("intervals", {})
        out["splits"][name] = row | added | {"intervals": intervals}
        timer(f"reconstruction of {name}")
    return parts


def shared_studies(
    loaded: Any,
    codec: Codec,
    held: HeldOut,
    dev: Encoded,
    known: Float[np.ndarray, "N L Z"],
    sizes: Sizes,
    out: dict[str, Any],
) -> dict[str, Study]:
    """Return the studies that all families have, by the name of their part.

    Args:
        loaded: the run.
        codec: its model with its tokenizer.
        held: the held-out lines.
        dev: those of the dev split.
        known: codes of training lines, to fit priors to.
        sizes: numbers of lines, samples and resamples.
        out: the content of report.json; "interpolations" reads "interpolation" from it.
    """
    train, draws = loaded.task.text.lines("train"), sizes.draws
    test = held.splits.get("test_line", [])
    compared = samples.comparison(codec, train, dev.lines, test, python=held.python)
    prior = priors.flow_of(loaded.workdir, loaded.model)
    return {
        "latent": lambda: latent.study(
            dev.codes,
            dev.log_variances,
            sigma=codec.sigma,
            tokens_per_line=float((dev.ids != PAD).sum(1).mean()),
            most=sizes.mmd,
            channel=codec.channel,
            lowest_sigma=codec.lowest_sigma,
        ),
        "references": lambda: references(
            codec, dev.lines, dev.codes, python=held.python, most=sizes.references, draws=draws
        ),
        "samples": lambda: samples.study_or_reason(
            codec, compared, known, samples=sizes.samples, pulled=sizes.pulled, draws=draws
        ),
        "text_space": lambda: text_space.study(
            codec, dev.ids, dev.codes, most=sizes.texts, draws=draws
        ),
        "interpolation": lambda: interpolation.study(
            codec,
            dev.lines,
            pairs=sizes.pairs,
            steps=sizes.steps,
            python=held.python,
            prior=prior,
            likeness=samples.likeness_of(compared, draws),
            draws=draws,
        ),
        "interpolations": lambda: interpolation.examples(
            codec, dev.lines, held.python, out["interpolation"], prior=prior
        ),
        "attributes": lambda: attributes.of_run(
            loaded, codec, most=sizes.moved, codes=sizes.codes, draws=draws
        ),
    }


def run_studies(out: dict[str, Any], studies: dict[str, Study], timer: Timer) -> dict[str, Any]:
    """Run studies in order, and return the content of report.json with their results."""
    for name, study in studies.items():
        out[name] = study()
        timer(name)
    out["seconds"] = timer.seconds
    return finite(out)


def without_dev(out: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the content of report.json of a run whose dev split has no lines."""
    reason = "n/a: no line of the dev split can be used"
    return finite(out | dict.fromkeys((*STUDIES, *names), reason))


def draw_shared(
    result: dict[str, Any],
    workdir: Any,
    folder: Path,
    dev: Encoded | None,
    curves: tuple[tuple[str, str], ...] = figures.CURVES,
) -> dict[str, Path]:
    """Draw the figures that all families have.

    Args:
        result: the content of report.json.
        workdir: the run's, with the log.
        folder: folder of the figures.
        dev: the dev split; None: it has no lines.
        curves: see `figures.learning_curves`.

    Returns:
        The file of each figure.
    """
    paths: dict[str, Path] = {}

    def draw(name: str, call: Callable[..., Path], *given: Any) -> None:
        paths[name] = call(*given, folder / f"{name}.png")

    log = as_path(workdir) / "metrics.jsonl"
    if log.exists():
        path = folder / "learning_curves.png"
        paths["learning_curves"] = figures.learning_curves(log, path, curves)
    if result["splits"]:
        draw("by_length", figures.by_length, result["splits"])
    if dev is not None:
        draw("latent_map", figures.latent_map, dev.flat, dev.lines)
        for name, part, call in (
            ("spectrum", "latent", figures.spectrum),
            ("interpolation", "interpolation", figures.interpolation),
        ):
            if isinstance(result[part], dict):
                draw(name, call, result[part])
    return paths


def write(
    result: dict[str, Any],
    paths: dict[str, Path],
    folder: Path,
    describe: Callable[[dict[str, Any]], str],
) -> dict[str, Any]:
    """Write report.json and print the report.

    Args:
        result: the content of report.json.
        paths: the file of each figure.
        folder: folder of report.json.
        describe: returns the report as text.

    Returns:
        The content of report.json, with the files of its figures.
    """
    result["figures"] = {name: str(path) for name, path in paths.items()}
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print(describe(result))
    return result
