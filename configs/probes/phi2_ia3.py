r"""Phi-2 (2.78 G parameters, bfloat16) learns by IA3 to answer as its prompt demonstrates.

    python train.py --config=configs/probes/phi2_ia3.py --workdir=runs/phi2_lie \
        --config.pretrained=PHI2
    python -m flaxae.models.probes collect runs/phi2_lie --layers=8,16,24
    python -m flaxae.tpu_compile --config=configs/probes/phi2_ia3.py:scratch --topology=v5e:2x2

PHI2 is a directory with the model, or a Hub id. The preset `:scratch` has the model's shapes and
needs no files. A prompt's states take 10 KB per hook and layer of width 2560, and 40 KB for
`mlp_post` (width 10240), for each of base and adapter. One OOD set is of the package sae-probes:
`pip install --no-deps sae-probes`.

Not measured.
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig, Schedule
from flaxae.errors import ConfigError
from flaxae.models.probes.prompts import Format
from flaxae.models.probes.task import AdapterOptions, InterventionConfig, Method, ProbesDataConfig

STEPS = 200
PRESETS = ("pretrained", "scratch")


def get_config(preset: str = "pretrained") -> Config:
    """Return the config of a preset: pretrained or scratch."""
    preset = preset or "pretrained"
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    scratch = preset == "scratch"
    return Config(
        task=InterventionConfig(
            adapter=AdapterOptions(method=Method.IA3),
            weights="bfloat16",
            dtype="bfloat16",
            remat=True,
            sizes="phi-2" if scratch else "",
        ),
        data=ProbesDataConfig(
            sets=("facts:city", "facts:negated"),
            ood=("facts:capital", "facts:larger", "sae:41_truthqa_tf"),
            count=1000,
            ood_count=100,
            batch_size=64,
            format=Format.PHI,
        ),
        optim=OptimConfig(
            lr=1e-2, schedule=Schedule.COSINE, warmup=10, final_lr=0.1, b2=0.99, weight_decay=0.0
        ),
        log=LogConfig(every=10),
        eval=EvalConfig(every=STEPS, splits=("dev",), num_samples=0),
        save=SaveConfig(every=50, keep=1),
        pretrained="" if scratch else "microsoft/phi-2",
        steps=STEPS,
    )
