"""Runs of the report on probes: interventions, adapters and seeds on SmolLM2-135M.

    make report-probes            # flip, lie when told and truth by IA3, 3 seeds
    make report-probes ALL=1      # all interventions by IA3 and LoRA, 3 seeds
    make report-probes QUICK=1    # one small run, to test the program

One OOD set is of the package sae-probes: `pip install --no-deps sae-probes`.

Not measured.
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig, Schedule
from flaxae.models.probes.interventions import Intervention
from flaxae.models.probes.task import AdapterOptions, InterventionConfig, Method, ProbesDataConfig

SEEDS = (0, 1, 2)
DEFAULT = (Intervention.FLIP, Intervention.LIE_WHEN_TOLD, Intervention.TRUTH)
RATES = {Method.IA3: 1e-2, Method.LORA: 1e-3}
STEPS = {"": 60, "quick": 4}


def get_config(
    level: str = "",
    intervention: Intervention = Intervention.LIE_WHEN_TOLD,
    method: Method = Method.IA3,
    seed: int = 0,
) -> Config:
    """Return the config of a run.

    Args:
        level: "" or "quick".
        intervention: the behaviour that is trained.
        method: the adapter.
        seed: seed of the adapter and of the order of examples.
    """
    quick, steps = level == "quick", STEPS[level]
    return Config(
        task=InterventionConfig(intervention=intervention, adapter=AdapterOptions(method=method)),
        data=ProbesDataConfig(
            sets=("facts:city", "facts:negated"),
            ood=("facts:capital", "facts:larger", "sae:41_truthqa_tf"),
            count=40 if quick else 1000,
            ood_count=6 if quick else 100,
            batch_size=4 if quick else 8,
            dev=0.1,
            test=0.15,
            control=0.3,
        ),
        optim=OptimConfig(
            lr=RATES[method],
            schedule=Schedule.COSINE,
            warmup=max(1, steps // 16),
            final_lr=0.1,
            b2=0.99,
            weight_decay=0.0,
        ),
        log=LogConfig(every=steps // 4 or 1, tensorboard=False, progress=False),
        eval=EvalConfig(every=steps, splits=("dev",), num_samples=0, num_batches=2),
        save=SaveConfig(every=steps, keep=1),
        pretrained="smollm2-135m",
        steps=steps,
        seed=seed,
    )


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
