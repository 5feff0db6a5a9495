"""`python -m flaxae.explore WORKDIR`: the latent-space explorer in the browser.

A run whose task is not part of flaxae is opened with the config file that it was trained with:
`python -m flaxae.explore WORKDIR --config=FILE`. The class of that file's task config must define
`open_autoencoder` (see `flaxae.text_autoencoder.protocol`).
"""

import argparse
import importlib.util
import sys

from flaxae.command import run_main
from flaxae.config.ranges import INT32, Range, ranged
from flaxae.errors import ConfigError
from flaxae.machine.compile_cache import keep_programs


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m flaxae.explore",
        description="Explore the latent space of a trained text autoencoder in the browser.",
    )
    add = out.add_argument
    add("source", help="a run's workdir, a saved model's directory, or a Hub id")
    text = "config file that the run was trained with; needed if its task is not part of flaxae"
    add("--config", default="", metavar="FILE", help=text)
    text = "texts to explore, one per line; default: the texts that the model was trained on"
    add("--corpus", default="", metavar="FILE", help=text)
    add("--labels", action="store_true", help="the lines of --corpus are label<tab>text")
    text = "maximum number of texts (default: 10000)"
    add("--points", type=ranged("--points", int, Range(2, INT32)), default=10_000, help=text)
    text = "default: 5006; 0: any free port"
    add("--port", type=ranged("--port", int, Range(0, 65535, "[]")), default=5006, help=text)
    text = "address to listen on (default: 127.0.0.1); any other than loopback needs a password"
    add("--host", default="127.0.0.1", help=text)
    text = "file whose first line is the password that users must enter"
    add("--password-file", default="", metavar="FILE", help=text)
    text = "another address that pages may be loaded from, for example of a proxy"
    add("--allow-origin", action="append", default=[], metavar="HOST:PORT", help=text)
    add("--no-browser", action="store_true", help="do not open the browser")
    return out


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv[1:])
    from flaxae.explore.server import check_address, serve

    check_address(args.host, args.port, args.password_file)
    if importlib.util.find_spec("panel") is None:
        raise ConfigError("the explorer's page needs packages: pip install panel bokeh")
    from flaxae.explore.backend import Explorer

    keep_programs()
    print(f"opening {args.source} ...", flush=True)
    explorer = Explorer.open(
        args.source,
        args.corpus or None,
        config=args.config or None,
        labels=args.labels,
        most=args.points,
    )
    print(f"warming up, with {len(explorer.texts)} texts ...", flush=True)
    try:
        serve(
            explorer,
            port=args.port,
            host=args.host,
            password_file=args.password_file,
            allow_origin=args.allow_origin,
            show=not args.no_browser,
            ready=lambda url: print(f"open {url} (Ctrl-C stops the server)", flush=True),
        )
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
