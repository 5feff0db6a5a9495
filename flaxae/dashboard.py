"""The dashboard of a sparse autoencoder: `python -m flaxae.dashboard RUN`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config.locate import user_path
from flaxae.config.ranges import COUNT, INT32, SEEDS, WHOLE, Range, ranged
from flaxae.data.text import unicode_fault
from flaxae.errors import require

FILE = "dashboard.html"
PROMPT, STRENGTHS = "I think that", (0.0, 0.5, 1.0, 2.0)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m flaxae.dashboard",
        description="One HTML page on the features of a sparse autoencoder or transcoder: "
        "contexts, histograms, output tokens, neighbours, steered texts. It sends no request.",
    )
    add = out.add_argument
    numbers = {
        "type": ranged("--features", int, WHOLE),
        "nargs": "+",
        "default": [],
        "metavar": "N",
    }
    add("source", help="a run's folder, or a directory or file that SAE.from_pretrained reads")
    add("--out", default="", metavar="FILE", help=f"the page; default: {FILE} in the folder")
    add("--features", **numbers, help="only these features; default: all that are active")
    text = "texts to read: a file with one per line, or a folder; default: a run's training texts"
    add("--text", default="", metavar="PATH", help=text)
    count = {"type": ranged("--tokens", int, COUNT), "default": 100_000, "metavar": "N"}
    add("--tokens", **count, help="number of tokens to read (default: 100000)")
    text = "contexts per feature with the largest activations (default: 8)"
    add("--contexts", type=ranged("--contexts", int, Range(1, 100)), default=8, help=text)
    text = "largest number of features on the page (default: 10000)"
    add("--max-features", type=ranged("--max-features", int, COUNT), default=10_000, help=text)
    text = "largest size of their data in megabytes (default: 40)"
    add("--max-mb", type=ranged("--max-mb", float, Range(0, INT32, "()")), default=40.0, help=text)
    steer = out.add_argument_group("steering").add_argument
    steer("--steer", **numbers, help="features with which texts are generated")
    text = "values that they are clamped to, as multiples of their largest activations in the text"
    kind = ranged("--strength", float, Range())
    steer("--strength", type=kind, nargs="+", default=list(STRENGTHS), metavar="X", help=text)
    steer("--prompt", default=PROMPT, metavar="TEXT", help="beginning of the texts")
    kind = ranged("--max-new-tokens", int, COUNT)
    steer("--max-new-tokens", type=kind, default=40, metavar="N", help="their length (default: 40)")
    text = "0 (default): the most likely token"
    kind = ranged("--temperature", float, Range(0))
    steer("--temperature", type=kind, default=0.0, metavar="T", help=text)
    steer("--seed", type=ranged("--seed", int, SEEDS), default=0, help="seed of the drawn tokens")
    file = out.add_argument_group("dictionaries that are not runs").add_argument
    file("--pretrained", default="", metavar="NAME", help="the model; default: the one it names")
    file("--hook", default=None, help="the state that it reads, if the file does not name it")
    file("--layer", type=ranged("--layer", int, WHOLE), default=None, help="its layer")
    file("--hook-out", default=None, metavar="HOOK", help="the state that a transcoder writes")
    file("--transcoder", action="store_true", help="a file of Gemma Scope 1 is a transcoder")
    text = "the texts began with the token of their beginning, if the file does not say so"
    file("--prepend-bos", action="store_true", default=None, help=text)
    text = "type of the model (default: float32)"
    file("--dtype", default=None, choices=["float32", "bfloat16"], help=text)
    text = "use another model than the one that the dictionary was trained on"
    file("--other-model", action="store_true", help=text)
    return out


def main(argv: list[str]) -> int:
    """Run the command line; return its exit code."""
    args = parser().parse_args(argv[1:])
    fault = unicode_fault(args.prompt)
    require(not fault, f"--prompt: {fault}")
    from flaxae.machine.compile_cache import keep_programs
    from flaxae.sparse_autoencoder.dashboard import collect, content, page

    keep_programs()
    inputs = open_input(args)
    most, wanted = inputs.sae.config.d_sae, sorted({*args.features, *args.steer})
    for number in wanted:
        require(number < most, f"there is no feature {number}: they are 0 to {most - 1}")
    steering = None
    if args.steer:
        from flaxae.sparse_autoencoder.api import SAE
        from flaxae.sparse_autoencoder.steering import Steering

        sae = SAE(inputs.sae, inputs.origin)
        steering = Steering(inputs, sae, other_model=True)  # it was compared when it was opened
    found = collect.collect(
        inputs, features=wanted if args.features else (), contexts=args.contexts, log=_log
    )
    steered = steered_texts(steering, found, args) if steering else {}
    limits = content.Limits(args.max_features, args.max_mb)
    made = content.build(
        inputs,
        found,
        wanted=wanted,
        steered=steered,
        prompt=args.prompt,
        limits=limits,
        log=_log,
    )
    file = user_path(args.out) if args.out else default_file(args.source)
    size = page.write(made, file)
    print(f"{len(made['features']):,} features, {size / 1e6:.1f} MB: {file}")
    return 0


def default_file(source: str) -> Path:
    """Return the page's path in the folder of a run or dictionary."""
    path = user_path(source)
    return (path if path.is_dir() else path.parent) / FILE


def open_input(args: argparse.Namespace) -> Any:
    """Open the dictionary, model and text that the command line names.

    Raises:
        ConfigError: if it is neither a run of sparse autoencoders nor a dictionary's file, or an
            option is not for it.
    """
    from flaxae.sparse_autoencoder.dashboard.inputs import open_file, read_texts

    names = ("hook", "layer", "hook_out", "prepend_bos")
    expected = {name: getattr(args, name) for name in names}
    expected["transcoder"] = args.transcoder or None
    if not (user_path(args.source) / "latest").is_dir():
        _log("opening the dictionary and its model")
        return open_file(
            args.source,
            args.pretrained,
            read_texts(args.text, args.tokens),
            tokens=args.tokens,
            dtype=args.dtype or "float32",
            other_model=args.other_model,
            log=_log,
            **expected,
        )
    options = {n: getattr(args, n) or None for n in ("pretrained", "dtype", "other_model")}
    given = [
        f"--{name.replace('_', '-')}"
        for name, value in (expected | options).items()
        if value is not None
    ]
    require(not given, f"{', '.join(given)}: a run names its own model, type and states")
    from flaxae.training.load import load

    _log("opening the run and its model")
    loaded = load(args.source)
    opener: Any = getattr(loaded.task, "dashboard", None)
    require(
        opener is not None,
        f"{args.source}: the dashboard is for sparse autoencoders, not for a run of "
        f"{type(loaded.task).__name__}",
    )
    return opener(loaded, args.tokens, read_texts(args.text, args.tokens) if args.text else ())


def steered_texts(
    steering: Any, found: Any, args: argparse.Namespace
) -> dict[int, list[dict[str, Any]]]:
    """Generate and print the texts of the features that are steered.

    Returns:
        {feature: [{"strength", "value", "text"}]}; the first one, of value None, is not steered.

    Raises:
        ConfigError: if a feature is never active: its values have no unit then.
    """
    from flaxae.decoding import Sampling

    out: dict[int, list[dict[str, Any]]] = {}
    for feature in args.steer:
        largest = float(found.largest[list(found.features).index(feature)])
        require(
            largest > 0,
            f"--steer {feature}: the feature is not active in the text, so that its strength has "
            "no unit: read more of it (--tokens), or other text (--text)",
        )
        rows: list[dict[str, Any]] = [{"strength": None, "value": None}]
        rows += [{"strength": x, "value": x * largest} for x in args.strength]
        texts = steering(
            args.prompt,
            [(feature, row["value"]) for row in rows],
            max_new_tokens=args.max_new_tokens,
            sampling=Sampling(temperature=args.temperature),
            seed=args.seed,
        )
        out[feature] = [row | {"text": text} for row, text in zip(rows, texts, strict=True)]
        print(f"feature {feature}, largest activation {largest:.4g}")
        for row in out[feature]:
            name = "unchanged" if row["value"] is None else f"{row['strength']:g}"
            print(f"  {name:>9}: {args.prompt}{row['text']!r}")
    return out


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
