"""Growth: a Funnel AE of few blocks gains one more block each time it reconstructs well enough.

    python -m flaxae.models.funnel_ae.growth --config=configs/funnel_ae/python_lines.py \
        --workdir=runs/grown --bar=0.1

Each number of blocks is a run of its own, W/blocks_2, W/blocks_3, ..., that starts from the
parameters of the one before. A new block halves the length once more, so codes become shorter. The
same command continues after an interruption.
"""

import sys
from pathlib import Path
from typing import Any

from flaxae.command import run_main
from flaxae.config import Config, copy_config, flags
from flaxae.config.flags import Option
from flaxae.config.ranges import COUNT
from flaxae.errors import ConfigError, require
from flaxae.models.funnel_ae.skips import Skip
from flaxae.models.funnel_ae.task import FunnelAEConfig
from flaxae.storage import paths
from flaxae.training.lanes import newest_step

CODES = {"sigterm": 75, "sigint": 130}
OPTIONS = (
    Option("bar", 0.1, "nats per token of the dev split below which a block is added"),
    Option("first", 2, "blocks at the start", COUNT),
)


def stage_config(config: Config, blocks: int, source: str) -> Config:
    """Return the config of a stage.

    Args:
        config: the config with all blocks; its `steps` are the most steps of a stage.
        blocks: blocks of this stage.
        source: workdir of the stage before; "": none.
    """
    task: Any = config.task
    skip = {Skip.LINEAR: ("finish_by",), Skip.SIGMOID: ("bias", "slope")}.get(task.skip.kind, ())
    fields: dict[str, Any] = {"task.funnel.block_sizes": task.funnel.block_sizes[:blocks]}
    fields["task.funnel.block_repeats"] = task.funnel.block_repeats[:blocks]
    fields["task.latent.block_dims"] = task.latent.block_dims[: blocks - 1]
    fields |= {f"task.skip.{name}": getattr(task.skip, name)[: blocks - 1] for name in skip}
    fields["optim.decay_steps"] = config.optim.decay_steps or config.steps
    if source:
        fields |= {"resume_from": source, "pretrained": ""}
    return copy_config(config, fields)


def grow(config: Config, workdir: Path, bar: float, first: int = 2) -> list[dict[str, Any]]:
    """Train with `first` blocks, then with one more each time, up to those of the config.

    A stage ends at the first evaluation whose reconstruction loss is below the bar, or after the
    config's steps.

    Args:
        config: a config of texts with `eval.every`; its blocks are those of the last stage.
        workdir: parent of the stages' workdirs.
        bar: nats per token of the dev split.
        first: blocks of the first stage.

    Returns:
        One dict per finished stage: its blocks, steps, workdir, "recon" and "exact_match" of the
        dev split, and whether it passed the bar; the status of the run that a signal ended.

    Raises:
        ConfigError: if the config is not one of a Funnel AE, or does not evaluate.
    """
    task: Any = config.task
    require(isinstance(task, FunnelAEConfig), "--config: growth needs the config of a Funnel AE")
    blocks, every = len(task.funnel.block_sizes), config.eval.every
    require(1 <= first <= blocks, f"--first={first}: the config has {blocks} blocks")
    require(bar > 0, f"--bar={bar}: it is in nats per token and must be above 0")
    if not every or "dev" not in config.eval.splits:
        raise ConfigError("growth needs evaluations: set eval.every, and dev in eval.splits")
    from flaxae.training.loop import run

    out, source = [], config.resume_from
    for count in range(first, blocks + 1):
        folder = workdir / f"blocks_{count}"
        stage = stage_config(config, count, source)
        reached = -(-newest_step(folder) // every) * every  # up to an evaluation
        steps = min(max(reached, every), config.steps)
        while True:
            result = run(copy_config(stage, {"steps": steps}), folder)
            if not result.finished:
                return [*out, {"blocks": count, "status": result.status}]
            passed = result.metrics["dev/recon"] < bar
            if passed or steps >= config.steps:
                break
            steps = min(steps + every, config.steps)
        row = {"blocks": count, "steps": steps, "workdir": str(folder), "passed": passed}
        row |= {name: result.metrics[f"dev/{name}"] for name in ("recon", "exact_match")}
        out.append(row)
        source = str(folder)
    return out


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    usage = "Trains a Funnel AE of few blocks and adds blocks as it learns."
    config, workdir, options = flags.parse(argv, OPTIONS, usage)
    for row in grow(config, paths.as_workdir(workdir), options["bar"], options["first"]):
        if "status" in row:
            print(f"Stopped in {row['blocks']} blocks; the same command continues.")
            return CODES[row["status"]]
        print(
            f"{row['blocks']} blocks, {row['steps']} steps: {row['recon']:.4f} nats per token, "
            f"exact match {row['exact_match']:.3f}, bar {'passed' if row['passed'] else 'missed'} "
            f"({row['workdir']})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main, huge_pages=True))
