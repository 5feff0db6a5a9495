"""Commands of probes: `python -m flaxae.models.probes collect|fit|report`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config.locate import user_path
from flaxae.config.ranges import COUNT, WHOLE, ranged
from flaxae.errors import ConfigError, require
from flaxae.models.probes import experiment, report, report_page, run_states
from flaxae.models.probes.fitted import KINDS, chosen_arm
from flaxae.models.probes.metrics import intervals
from flaxae.models.probes.task import InterventionTask
from flaxae.sparse_autoencoder.api import SAE
from flaxae.training.load import load


def _opened(workdir: str) -> Any:
    loaded = load(workdir)
    require(
        isinstance(loaded.task, InterventionTask),
        f"{workdir} is a run of {type(loaded.task).__name__}, not of configs/probes",
    )
    loaded.check_data()
    return loaded


def _states(
    workdir: str, args: argparse.Namespace, also: Sequence[int] = (), pair_hook: str = ""
) -> run_states.States:
    loaded = _opened(workdir)
    folder = user_path(args.states) if args.states else loaded.workdir / "states"
    return run_states.collect_run(
        loaded,
        Path(str(folder)),
        hooks=args.hooks.split(","),
        layers=_numbers(args.layers),
        also=also,
        pair_hook=pair_hook,
        part=args.part,
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(x) for x in text.split(",") if x)
    except ValueError:
        raise ConfigError(f"--layers={text!r}: give numbers, such as 5,10,15") from None


def _collect(args: argparse.Namespace) -> None:
    for workdir in args.workdirs:
        states = _states(workdir, args)
        table = states.table
        print(f"{workdir}: {len(table)} prompts, layers {table.layers}, adapter {table.adapter}")


def _fit(args: argparse.Namespace) -> None:
    # Before the collection, which takes long.
    require(len(args.workdirs) == 1, "fit takes one workdir: a probe is fitted on one run")
    hooks = args.hooks.split(",")
    hook = args.hook or hooks[0]
    require(hook in hooks, f"--hook={hook!r} is not one of --hooks={args.hooks}")
    arm = chosen_arm(args.probe, args.arm)
    states = _states(args.workdirs[0], args, pair_hook=hook if args.probe == "ccs" else "")
    model = states.loaded.model
    fitted = experiment.fit(args.probe, states.table, hook, arm, model=model, seed=args.seed)
    probe = experiment.as_probe(states, fitted)
    probe.save_pretrained(args.out)
    print(f"{probe!r}: {args.out}")
    for name, rows in report.evaluated_sets(states.table).items():
        found = intervals(fitted.scores(rows), rows.labels, rows["group"])
        print(f"{name}: AUROC {found['auroc']}, balanced accuracy {found['bal_acc']}")


def _report(args: argparse.Namespace) -> None:
    # Runs of two parents may share a name.
    given = [str(Path(str(user_path(workdir)))) for workdir in args.workdirs]
    require(len(set(given)) == len(given), "a workdir is given twice")
    runs, sae = {}, SAE.from_pretrained(args.sae) if args.sae else None
    layer = sae.origin.layer if sae is not None else None
    for workdir in args.workdirs:
        states = _states(workdir, args, () if layer is None else (layer,))
        name = f"{states.loaded.config.task.intervention.value} {workdir}"
        runs[name] = report.measure_run(states, args.draws, sae)
    print(report_page.page(runs))
    print(f"written to {report_page.write(runs, Path(str(user_path(args.out))))}")


def main(argv: list[str]) -> int:
    """Run a command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flaxae.models.probes",
        description="Hidden states of trained interventions (configs/probes), and probes of them.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("workdirs", nargs="+", help="workdirs of runs of configs/probes")
    common.add_argument("--states", default="", help="folder of states; default: WORKDIR/states")
    common.add_argument("--hooks", default="resid_out,mlp_post", help="hidden states to collect")
    common.add_argument("--layers", default="", help="such as 5,10,15; default: six layers")
    common.add_argument(
        "--part", type=ranged("--part", int, COUNT), default=128, help="prompts per file"
    )
    commands.add_parser("collect", parents=[common], help="collect states of base and adapter")
    one = commands.add_parser("fit", parents=[common], help="fit and save a probe of one run")
    one.add_argument("--probe", default="logistic", help=", ".join(KINDS))
    one.add_argument("--arm", help="base, adapter, both or diff; default: that of the probe")
    one.add_argument("--hook", default="", help="default: the first of --hooks")
    seeds = ranged("--seed", int, WHOLE)
    one.add_argument("--seed", type=seeds, default=0, help="of probes that start at random")
    one.add_argument("--out", required=True, help="folder of the probe")
    page = commands.add_parser("report", parents=[common], help="fit all probes, write tables")
    page.add_argument("--out", required=True, help="folder of report.md and report.json")
    page.add_argument(
        "--draws", type=ranged("--draws", int, COUNT), default=500, help="bootstrap resamples"
    )
    page.add_argument("--sae", default="", help="a dictionary of the base's states (SAELens)")
    args = parser.parse_args(argv[1:])
    {"collect": _collect, "fit": _fit, "report": _report}[args.command](args)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
