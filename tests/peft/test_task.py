"""The options of a run's adapter become the adapter's own config."""

import pytest

from flaxae import peft
from flaxae.peft.task import AdapterOptions, Method

SOME = AdapterOptions(
    r=3,
    alpha=6.0,
    dropout=0.1,
    rslora=True,
    targets=("q_proj", "fc1"),
    feedforward=("fc1",),
    layers=(1, 2),
    modules_to_save=("lm_head",),
)
NAMES = {"target_modules": ("q_proj", "fc1"), "modules_to_save": ("lm_head",)}
LORA = {"r": 3, "lora_alpha": 6.0, "lora_dropout": 0.1, "use_rslora": True}
LORA |= {"layers_to_transform": (1, 2), **NAMES}


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (Method.LORA, peft.LoRAConfig(**LORA)),
        (Method.DORA, peft.LoRAConfig(**LORA, use_dora=True)),
        (Method.IA3, peft.IA3Config(**NAMES, feedforward_modules=("fc1",))),
        (Method.BIAS, peft.BiasConfig(biases=True, norms=False)),
        (Method.NORMS, peft.BiasConfig(biases=False, norms=True)),
        (Method.FULL, None),
    ],
)
def test_every_option_reaches_the_adapters_config(method, config):
    SOME.method = method
    assert SOME.config() == config


def test_empty_options_are_the_defaults_of_the_model():
    assert AdapterOptions().config() == peft.LoRAConfig(lora_alpha=16.0)
    assert AdapterOptions(method=Method.IA3).config() == peft.IA3Config()
    every = AdapterOptions(targets=("all-linear",)).config()
    assert isinstance(every, peft.LoRAConfig) and every.target_modules == "all-linear"
