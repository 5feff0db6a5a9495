"""`python -m flaxae.explore WORKDIR`: the latent-space explorer in the browser."""

import argparse
import sys

from flaxae.command import run_main
from flaxae.errors import ConfigError, require
from flaxae.machine.compile_cache import keep_programs


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m flaxae.explore",
        description="Explores the latent space of a trained autoencoder in the browser.",
    )
    add = out.add_argument
    add("source", help="a run's workdir, a saved model's directory, or a Hub id")
    text = "the config file that the run was trained with; needed if its task is not flaxae's own"
    add("--config", default="", metavar="FILE", help=text)
    text = "texts to explore, one a line; default: those it was trained on"
    add("--corpus", default="", metavar="FILE", help=text)
    add("--labels", action="store_true", help="the corpus's lines are label<tab>text")
    add("--points", type=int, default=10_000, help="texts of the map (10000)")
    add("--port", type=int, default=5006, help="5006; 0: any that is free")
    text = "another address than loopback needs --password-file"
    add("--host", default="127.0.0.1", help=text)
    text = "its first line is asked for before anything is shown"
    add("--password-file", default="", metavar="FILE", help=text)
    text = "where pages may come from beside this server, behind a proxy"
    add("--allow-origin", action="append", default=[], metavar="HOST:PORT", help=text)
    add("--no-browser", action="store_true", help="do not open the browser")
    return out


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv[1:])
    require(args.points >= 2, f"--points={args.points} must be at least 2")
    from flaxae.explore.serve import check_address, serve

    check_address(args.host, args.port, args.password_file)
    try:
        import panel  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("the explorer's page needs packages: pip install panel bokeh") from None
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
            explorer, port=args.port, host=args.host, password_file=args.password_file,
            allow_origin=args.allow_origin, show=not args.no_browser,
            ready=lambda url: print(f"open {url} (Ctrl-C ends)", flush=True),
        )  # fmt: skip
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
