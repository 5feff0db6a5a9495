"""`python -m flaxae.data.wikipedia OUT` writes shards of Wikipedia's sentences."""

import argparse
import os
import sys

from flaxae.command import run_main
from flaxae.config.ranges import COUNT, WHOLE, ranged
from flaxae.data.sentences import MAX_WORDS, MIN_WORDS
from flaxae.data.wikipedia import beam, build
from flaxae.data.wikipedia.shards import FORMATS, Plan
from flaxae.data.wikipedia.sources import open_source
from flaxae.errors import UserError, report

DEFAULT = "hf:wikimedia/wikipedia:20231101.en"


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.data.wikipedia",
        description="Write shards of Wikipedia's sentences. Existing shards are kept, so the same"
        " command continues where it stopped. Train on them with --config.data.path=OUT.",
    )
    parser.add_argument(
        "out", type=os.path.expanduser, help="folder of the shards, such as .cache/wikipedia"
    )
    parser.add_argument(
        "--source",
        default=DEFAULT,
        help="hf:<Hub name or local path>[:config], tfds:<name>, or a dump: an .xml"
        f" or .xml.bz2, or a folder of its parts; default: {DEFAULT}",
    )
    parser.add_argument("--num-shards", type=ranged("--num-shards", int, COUNT), default=64)
    parser.add_argument("--format", choices=FORMATS, default="txt")
    parser.add_argument(
        "--min-words",
        type=ranged("--min-words", int, COUNT),
        default=MIN_WORDS,
        help="fewest words of a sentence",
    )
    parser.add_argument(
        "--max-words",
        type=ranged("--max-words", int, COUNT),
        default=MAX_WORDS,
        help="most words of a sentence",
    )
    parser.add_argument(
        "--max-articles",
        type=ranged("--max-articles", int, WHOLE),
        default=0,
        help="number of articles that are read (from each file of a dump); 0: all",
    )
    parser.add_argument(
        "--num-proc",
        type=ranged("--num-proc", int, COUNT),
        default=os.cpu_count() or 1,
        help="number of processes of `datasets`; default: one per core",
    )
    parser.add_argument(
        "--runner",
        choices=["datasets", "beam"],
        default="datasets",
        help="beam: on a cluster; other arguments are passed to Beam",
    )
    parser.add_argument("--beam-runner", default="DirectRunner", help="Beam's --runner")
    args, rest = parser.parse_known_args(argv[1:])
    if rest and args.runner != "beam":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        source = open_source(args.source, args.max_articles)
        sizes = (args.num_shards, args.format, args.min_words, args.max_words)
        plan = Plan(args.out, source, *sizes)
        if args.runner == "beam":
            manifest = beam.build(plan, [f"--runner={args.beam_runner}", *rest])
        else:
            manifest = build.build(plan, max(args.num_proc, 1))
    except UserError as error:
        return report(error)
    totals = ", ".join(f"{name} {count:,}" for name, count in manifest["totals"].items())
    print(f"{args.out}: {len(manifest['shards'])} shards: {totals}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
