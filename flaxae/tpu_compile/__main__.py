"""The command `python -m flaxae.tpu_compile`: does a config fit a TPU slice?"""

import json
import sys
from typing import Any

from flaxae.command import run_main
from flaxae.config import flags
from flaxae.config.ranges import COUNT, Range

USAGE = "Compile a config's training step for a TPU slice, without a TPU, and print its costs."
OPTIONS = (
    flags.Option("topology", "v5e:2x4", "chip and slice: v4, v5e, v5p or v6e, such as v5p:2x2x4"),
    flags.Option("slices", 1, "number of such slices (set config.mesh.replica to the same)", COUNT),
    flags.Option(
        "find_batch", False, "find the largest data.batch_size that fits, to within an eighth"
    ),
    flags.Option(
        "effort",
        0.0,
        "compiler effort: 0 as in training, -1 in a fraction of the time",
        Range(-1, 1, "[]"),
    ),
    flags.Option("json", False, "print one JSON object instead of the text"),
)


def main(argv: list[str]) -> int:
    """Run the command; return 3 if the program does not fit."""
    config, _, extra = flags.parse(
        ["python -m flaxae.tpu_compile", *argv[1:]], OPTIONS, USAGE, workdir=False
    )
    import jax

    # The program is for the slice, so this machine's accelerators are not needed.
    jax.config.update("jax_platforms", "cpu")
    from flaxae import tpu_compile
    from flaxae.tpu_compile.page import page

    name, options = extra["topology"], {"effort": extra["effort"], "slices": extra["slices"]}

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        if extra["find_batch"]:
            report = tpu_compile.find_batch(config, name, log=log, **options)
        else:
            report = tpu_compile.analyse(config, name, **options)
    except tpu_compile.DoesNotFit as error:
        print(misfit(error, config, name, extra["slices"], extra["json"]))
        return 3
    title = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), "The config")
    print(json.dumps(report.json()) if extra["json"] else page(title, report))
    return 0


def misfit(error: Any, config: Any, name: str, slices: int, as_json: bool) -> str:
    """Return the output if the program does not fit; in JSON, unknown numbers are null."""
    from flaxae.tpu_compile.chips import chip_of
    from flaxae.tpu_compile.compiler import topology
    from flaxae.tpu_compile.report import task_flops, train_parameters

    if not as_json:
        return (
            f"Does not fit {name}: {error}\n"
            "A smaller data.batch_size (--find-batch finds the largest), more chips, remat=True or"
            " accumulate=N reduce the memory."
        )
    known = {
        "topology": name,
        "slices": slices,
        "fits": False,
        "params": train_parameters(config),
        "hbm_bytes": error.needed,
        "hbm_capacity_bytes": float(chip_of(name).hbm),
        "task_flops": task_flops(config, len(topology(name, slices))),
    }
    unknown = "flops bytes_accessed collective_bytes step_seconds_bound mfu_bound compile_seconds"
    return json.dumps(known | dict.fromkeys(unknown.split()) | {"message": str(error)})


if __name__ == "__main__":
    sys.exit(run_main(main))
