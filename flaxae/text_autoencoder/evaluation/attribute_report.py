r"""The report on the arithmetic of an attribute: curves, first texts, ten paths, and a figure.

    python -m flaxae.text_autoencoder.evaluation.attribute_report runs/t5_vae_sentences
    python -m flaxae.text_autoencoder.evaluation.attribute_report runs/t5_vae_sentences \
        --first=news/world --second=news/sport

It works on the workdir of any text autoencoder whose texts have labels, and writes attributes.json
and attributes.png into the folder of its report.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config.locate import user_path
from flaxae.config.ranges import INT32, Range, ranged
from flaxae.data.config import TextDataConfig
from flaxae.errors import require
from flaxae.measures.stats import finite
from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.evaluation import readable
from flaxae.text_autoencoder.evaluation.attribute_classes import labels_of
from flaxae.text_autoencoder.evaluation.attributes import CHANGED, KEPT, TESTS, of_texts
from flaxae.text_autoencoder.evaluation.interpolation import examples
from flaxae.text_autoencoder.evaluation.readable import number
from flaxae.text_autoencoder.figures import subplots


def describe(found: dict[str, Any]) -> list[str]:
    """Return a study as lines of text."""
    first, second = (", ".join(x) for x in found["classes"])
    dev, strength = found["dev"], found["strength"]
    out = [
        f"arithmetic of attributes: {first} <-> {second}; the direction is {found['length']:.2f} "
        "of a code's length",
        f"dev, on which the strength is chosen: {_about(dev)}",
        f"{'strength':>10}{'changed':>24}{'kept':>24}{'random: changed':>18}{'kept':>8}",
        *(_row(row, other) for row, other in zip(dev["direction"], dev["random"], strict=True)),
    ]
    for name, row in dev["largest"].items():
        out.append(
            f"largest over strengths (each text moved until its verdict changes), {name}: changed "
            f"{number(row['changed'])}, kept {number(row['kept'])}"
        )
    nearest = "the first" if dev["reached"] else "none is; the nearest"
    out.append(f"within {CHANGED:.0%} changed and {KEPT:.0%} kept on dev: {nearest}: {strength:g}")
    for name, part in found["splits"].items():
        if isinstance(part, str):
            out.append(f"{name}: {part}")
            continue
        out += [f"{name}: {_about(part)}", _row(part["direction"], part["random"])]
        out.append(f"the goal is {'' if part['reached'] else 'not '}reached; the first texts:")
        for x in part["examples"]:
            out += [f"    {x['text']}", f"        {x['decoded']}", f"     -> {x['moved']}"]
    return out


def _about(part: dict[str, Any]) -> str:
    return (
        f"{part['texts']} texts, each with {part['words']:.1f} other words; classifier of n-grams "
        f"{number(part['classifier'])}"
    )


def _row(row: dict[str, Any], other: dict[str, Any]) -> str:
    """Return a row of the direction beside that of random ones."""
    text = f"{row['strength']:>10.1f}{number(row['changed']):>24}{number(row['kept']):>24}"
    changed, kept = (number(other[name]["value"]) for name in ("changed", "kept"))
    return f"{text}{changed:>18}{kept:>8}"


def figure(found: dict[str, Any], path: Path) -> Path:
    """Plot kept words against changed verdicts: one point per strength, and the test splits."""
    made, axes = subplots(1, 1, (5.5, 4.5))
    axis, dev = axes[0, 0], found["dev"]
    for name, label, colour in (
        ("direction", "difference of means, dev", "C0"),
        ("random", "random directions, dev", "C1"),
    ):
        x, y = ([row[key]["value"] for row in dev[name]] for key in ("changed", "kept"))
        axis.plot(x, y, "o-", label=label, markersize=4, color=colour)
    for row in dev["direction"]:
        place = (row["changed"]["value"], row["kept"]["value"])
        axis.annotate(f"{row['strength']:g}", place, fontsize=8)
    for (name, part), mark in zip(found["splits"].items(), "s^", strict=False):
        if not isinstance(part, str):
            row = part["direction"]
            axis.plot(row["changed"]["value"], row["kept"]["value"], mark, label=name, color="C2")
    axis.fill_between([CHANGED, 1], KEPT, 1, alpha=0.1, color="green", label="goal")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="verdicts changed", ylabel="other words kept")
    axis.legend(fontsize=8)
    made.savefig(path, dpi=120)
    return path


def main(argv: list[str]) -> int:
    """Run the command."""
    from flaxae.training.load import load

    parser = argparse.ArgumentParser(
        prog="python -m flaxae.text_autoencoder.evaluation.attribute_report", description=__doc__
    )
    parser.add_argument("workdir", help="of a text autoencoder whose data have labels")
    parser.add_argument("--out", default="", help="folder; default: WORKDIR/report")
    for name in ("first", "second"):
        parser.add_argument(f"--{name}", default="", help=f"labels of the {name} class, by commas")
    number = ranged("--paths", int, Range(0, INT32))
    parser.add_argument("--paths", type=number, default=10, help="paths between held-out texts")
    number = ranged("--texts", int, Range(4, INT32))
    about = "most held-out texts per split, two of each class or more"
    parser.add_argument("--texts", type=number, default=300, help=about)
    args = parser.parse_args(argv[1:])
    classes = tuple(tuple(x.split(",")) for x in (args.first, args.second) if x)
    require(len(classes) != 1, "give both --first and --second, or neither")
    loaded: Any = load(user_path(args.workdir))
    require(
        hasattr(loaded.model, "num_latents") and isinstance(loaded.config.data, TextDataConfig),
        f"{args.workdir} is a run of {type(loaded.config.task).__name__}: give one of a text "
        "autoencoder",
    )
    require(
        loaded.config.data.labels,
        f"{args.workdir} was trained on texts without labels (data.labels)",
    )
    loaded.check_data()
    text = loaded.task.text
    codec = Codec(loaded.model, text.tokenizer, loaded.step)
    known = set(text.labels("train"))
    wrong = sorted(labels_of(classes) - known)
    require(not wrong, f"no training text has label {', '.join(wrong)}: {', '.join(sorted(known))}")
    found = of_texts(codec, text, classes, most=args.texts)
    if isinstance(found, str):
        print(found)
        return 0
    split = next(x for x in (*TESTS, "dev") if x in text.splits)
    shown = examples(codec, text.lines(split), False, count=args.paths)
    found = {"step": loaded.step, **found, "interpolations": shown}
    folder = user_path(args.out) if args.out else user_path(args.workdir) / "report"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "attributes.json").write_text(json.dumps(finite(found), indent=2) + "\n")
    lines = [*describe(found), *readable.examples(found)]
    lines += [f"figure: {figure(found, folder / 'attributes.png')}"]
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
