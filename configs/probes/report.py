"""Runs of the report on probes: interventions, adapters and seeds on SmolLM2-135M.

    make report-probes            # flip, lie when told and truth by IA3, 3 seeds
    make report-probes ALL=1      # all interventions by IA3 and LoRA, 3 seeds
    make report-probes QUICK=1    # one small run, to test the program

One OOD set is of the package sae-probes: `pip install --no-deps sae-probes`.

QUICK=1 took 11.5 minutes of CPU time on one core at 37 GFLOP/s. The others are not measured.
"""

from typing import Any

from configs.probes import lie_ia3
from flaxae.config import Config, copy_config
from flaxae.models.probes.interventions import Intervention
from flaxae.models.probes.task import Method

SEEDS = (0, 1, 2)
DEFAULT = (Intervention.FLIP, Intervention.LIE_WHEN_TOLD, Intervention.TRUTH)
LORA_RATE = 1e-3
QUICK_STEPS = 4


def get_config(
    level: str = "",
    intervention: Intervention = Intervention.LIE_WHEN_TOLD,
    method: Method = Method.IA3,
    seed: int = 0,
) -> Config:
    """Return the config of a run: that of lie_ia3.py on more examples and sets.

    Args:
        level: "" or "quick".
        intervention: the behaviour that is trained.
        method: the adapter.
        seed: seed of the adapter and of the order of examples.
    """
    config = lie_ia3.get_config(intervention.value)
    changes: dict[str, Any] = {
        "seed": seed,
        "task.adapter.method": method.value,
        "data.ood": ("facts:capital", "facts:larger", "sae:41_truthqa_tf"),
        "data.count": 1000,
        "data.ood_count": 100,
        "data.dev": 0.1,
        "data.test": 0.15,
        "data.control": 0.3,
        "log.tensorboard": False,
        "log.progress": False,
        "eval.num_batches": 2,
    }
    # The recipe of T-Few has a learning rate of its own, for any adapter.
    if method is Method.LORA and intervention is not Intervention.T_FEW:
        changes["optim.lr"] = LORA_RATE
    if level == "quick":
        changes |= {"data.count": 40, "data.ood_count": 6, "data.batch_size": 4}
        changes |= dict.fromkeys(("steps", "eval.every", "save.every"), QUICK_STEPS)
        changes |= {"log.every": 1, "optim.warmup": 1}
    return copy_config(config, changes)


def get_runs(level: str = "", everything: bool = False) -> list[tuple[str, Config]]:
    """Return the name and config of each run.

    Args:
        level: "" or "quick".
        everything: all interventions, by both adapters.
    """
    kinds = tuple(Intervention) if everything else DEFAULT
    methods = (Method.IA3, Method.LORA) if everything else (Method.IA3,)
    seeds = SEEDS
    if level == "quick":
        kinds, seeds = (Intervention.LIE_WHEN_TOLD,), SEEDS[:1]
    return [
        (f"{kind.value} {method.value}", get_config(level, kind, method, seed))
        for kind in kinds
        for method in methods
        for seed in seeds
    ]
