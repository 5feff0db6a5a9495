"""Questions of a toy language, and a config that trains a tiny Llama on them."""

import json

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig, set_field
from flaxae.models.probes.examples import Example
from flaxae.models.probes.interventions import Intervention
from flaxae.models.probes.prompts import Format
from flaxae.models.probes.task import AdapterOptions, InterventionConfig, Method, ProbesDataConfig
from tests.models.causal_lm.tiny import base


def questions(path, count=24, start=0):
    """Write pairs of a true and a false sentence; each pair is a group."""
    rows = []
    for i in range(start, start + count):
        for label in (0, 1):
            text = f"{i}{'ab'[label]}?"
            row = {"prompt": text, "choices": ["no", "yes"], "label": label, "group": f"g{i}"}
            rows.append(row)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def example(prompt="q?", label=1, group="g", dataset="d", **fields):
    return Example(prompt, ("no", "yes"), label, group, dataset, **fields)


def tiny_config(folder, **overrides):
    """Make a config; overrides are dotted fields with "__" for the dot."""
    folder.mkdir(exist_ok=True)
    config = Config(
        task=InterventionConfig(
            intervention=Intervention.LIE_WHEN_TOLD, adapter=AdapterOptions(method=Method.IA3)
        ),
        data=ProbesDataConfig(
            sets=(questions(folder / "set.jsonl"),),
            ood=(questions(folder / "other.jsonl", 5, 100),),
            count=0,
            ood_count=0,
            batch_size=4,
            format=Format.PHI,
            max_length=200,
        ),
        optim=OptimConfig(lr=0.1, weight_decay=0.0),
        log=LogConfig(every=2, tensorboard=False, progress=False),
        eval=EvalConfig(num_samples=0),
        save=SaveConfig(every=8),
        pretrained=str(base(folder / "base")),
        steps=8,
    )
    config.mesh.fsdp = 1
    for name, value in overrides.items():
        set_field(config, name.replace("__", "."), value)
    return config
