"""The horizon of the learning-rate schedule: the step at which it ends, and runs that go beyond it.

The horizon is `optim.decay_steps`, or else the first `steps` of the workdir. Changing `steps` later
does not move it, so that a resumed run has the learning rates of an uninterrupted one.
"""

import shlex
from pathlib import Path
from typing import Any

from flaxae.config.sections import Config, OptimConfig, Schedule
from flaxae.errors import ConfigError, require

ENDING = (Schedule.LINEAR, Schedule.COSINE, Schedule.WSD)
NEGLIGIBLE = 1e-6  # a share of optim.lr that changes nothing


def horizon(config: Config) -> int:
    """Return the step at which the learning-rate schedule ends."""
    return config.optim.decay_steps or config.steps


def ends_at_zero(optim: OptimConfig) -> bool:
    """Return True if the learning rate is 0 from the horizon on."""
    return optim.schedule in ENDING and optim.final_lr < NEGLIGIBLE


def schedule_has_ended(config: Config, step: int) -> bool:
    """Return True if this step and all later ones train at a learning rate of 0."""
    return step >= horizon(config) and ends_at_zero(config.optim)


def stored_horizon(stored: dict[str, Any] | None) -> int:
    """Return the horizon of a workdir's config.json; 0 if it has none, or is not there."""
    if stored is None:
        return 0
    return stored.get("optim", {}).get("decay_steps", 0) or stored.get("steps", 0)


def check_horizon(config: Config, stored: dict[str, Any] | None, workdir: str | Path) -> None:
    """Refuse steps that would train at a learning rate of 0, and a warmup beyond the schedule.

    What a workdir began with is not refused.

    Args:
        config: the config, its horizon resolved.
        stored: contents of the workdir's config.json; None: a new run.
        workdir: the run's folder, for the message.

    Raises:
        ConfigError: the message contains options for each way out.
    """
    end, optim = horizon(config), config.optim
    begun_with = stored and (stored.get("steps"), stored_horizon(stored))
    if optim.schedule not in ENDING or begun_with == (config.steps, end):
        return
    require(
        optim.warmup <= end,
        f"optim.warmup={optim.warmup} is longer than the {optim.schedule.value} schedule of {end} "
        f"steps, so the learning rate would never reach optim.lr: lower it "
        f"(--config.optim.warmup={end // 10}), or raise steps or optim.decay_steps",
    )
    if config.steps <= end or not ends_at_zero(optim):
        return
    what = f"the learning rate of the {optim.schedule.value} schedule is 0 from step {end} on"
    if stored is None:
        raise ConfigError(
            f"steps={config.steps} is above optim.decay_steps={end}: {what}, and the steps after it"
            " would change nothing. Give the schedule all steps (--config.optim.decay_steps="
            f"{config.steps}), train fewer (--config.steps={end}), or set optim.final_lr above 0"
        )
    new = f"{shlex.quote(f'--config.resume_from={workdir}')} --workdir=NEW"
    raise ConfigError(
        f"steps={config.steps}: {what}, which is the horizon that the run in {workdir} began with, "
        "and more steps would change nothing. Give the same command with one of:\n"
        f"  --config.optim.decay_steps={config.steps}\n"
        "      a new horizon for this run: its learning rate rises again, and reaches 0 there\n"
        f"  {new}\n"
        "      a new run from its parameters, with a schedule of its own\n"
        f"  {new} --config.optim.schedule=constant\n"
        "      the same, at a constant learning rate: such a run can be extended at any time"
    )
