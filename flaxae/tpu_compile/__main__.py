"""Does a config fit a TPU slice, and what bounds it: `python -m flaxae.tpu_compile --help`."""

import json
import sys
from typing import Any

from flaxae.command import run_main
from flaxae.config import flags

USAGE = "Compiles a config's train step for a TPU slice, without a TPU, and says what it needs."
OPTIONS = (
    flags.Option("topology", "v5e:2x4", "chip and slice: v4, v5e, v5p or v6e, such as v5p:2x2x4"),
    flags.Option("slices", 1, "how many such slices (set config.mesh.replica to it)"),
    flags.Option("find_batch", False, "the largest data.batch_size that fits, to an eighth"),
    flags.Option("effort", 0.0, "of the compiler: 0 as in training, -1 in a fraction of the time"),
    flags.Option("json", False, "print one JSON object instead of the page"),
)


def main(argv: list[str]) -> int:
    config, _, extra = flags.parse(
        ["python -m flaxae.tpu_compile", *argv[1:]], OPTIONS, USAGE, workdir=False
    )
    import jax

    # Whatever this machine has: the program is for the slice.
    jax.config.update("jax_platforms", "cpu")
    from flaxae import tpu_compile
    from flaxae.tpu_compile.page import page
    from flaxae.tpu_compile.program import DoesNotFit

    name, options = extra["topology"], {"effort": extra["effort"], "slices": extra["slices"]}

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        if extra["find_batch"]:
            report = tpu_compile.find_batch(config, name, say=say, **options)
        else:
            report = tpu_compile.analyse(config, name, **options)
    except DoesNotFit as error:
        print(refusal(error, config, name, extra["slices"], extra["json"]))
        return 3
    title = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), "The config")
    print(json.dumps(report.json()) if extra["json"] else page(title, report))
    return 0


def refusal(error: Any, config: Any, name: str, slices: int, as_json: bool) -> str:
    """What is printed where the program does not fit; what only a program tells is null."""
    from flaxae.tpu_compile.chips import chip_of
    from flaxae.tpu_compile.program import task_flops, topology, train_parameters

    if as_json:
        unknown = ("flops", "bytes_accessed", "collective_bytes", "step_seconds_bound", "mfu_bound",
                   "compile_seconds")  # fmt: skip
        return json.dumps({
            "topology": name, "slices": slices, "fits": False, "params": train_parameters(config),
            "hbm_bytes": error.needed, "hbm_capacity_bytes": float(chip_of(name).hbm),
            "task_flops": task_flops(config, len(topology(name, slices))),
            **dict.fromkeys(unknown), "message": str(error),
        })  # fmt: skip
    return (
        f"Does not fit {name}: {error}\n"
        "Smaller data.batch_size (--find-batch searches it), more chips, recomputed blocks"
        " (remat=True) or accumulate=N need less."
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
