"""Every config file builds its networks, and reads a batch with each of its variants' shapes."""

import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from flaxae.config import Config, copy_config, from_json, to_json
from flaxae.sweep import group_by_shape
from flaxae.task import Context
from flaxae.training.hparams import make_hparams
from tests.helpers import ROOT

# Parameters of the presets that documents name.
SIZES = {"enwik8:": 19_408_128, "automaton:full": 26_384, "straight:original": 2_690_940}
NAMES = {
    "demo": [""],
    "enwik8": [""],
    "grid": ["", "all", "accelerator", "quick"],
    "automaton": ["full", "rnn", "quick", "rnn_quick"],
    "stimulus": ["full", "quick"],
    "straight": ["full", "quick", "original"],
    "successive": ["full", "quick"],
}
PRESETS = [f"{file}:{preset}" for file, presets in NAMES.items() for preset in presets]
EXPERIMENTS = [name for name in PRESETS if name not in ("demo:", "enwik8:")]


def test_every_config_file_is_listed():
    assert {path.stem for path in (ROOT / "configs/byte_lm").glob("*.py")} == set(NAMES)


def read(config: Config) -> tuple[int, Any]:
    """Return the number of trained parameters and the shapes of the loss of a batch."""
    task: Any = config.task.make(config)
    hparams = make_hparams(task, [config], lanes=False)

    def trace() -> Any:
        network = task.init(nnx.Rngs(params=0, frozen=1))
        spec = task.batch_spec()
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), spec)
        ctx = Context(jax.random.key(0), jnp.int32(0), hparams=hparams)
        return nnx.state(network, nnx.Param), task.loss(network, batch, ctx)

    params, loss = jax.eval_shape(trace)
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params)), loss


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_read_a_batch(name: str):
    file, _, preset = name.partition(":")
    config = importlib.import_module(f"configs.byte_lm.{file}").get_config(preset)
    assert to_json(from_json(to_json(config))) == to_json(config)
    size, loss = read(config)
    assert size == SIZES.get(name, size) > 0
    assert "bits_per_byte" in loss.metrics
    task = config.task.make(config)
    assert task.flops(task.batch_spec(), {}) > 0
    config.freeze()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_variants_of_a_preset_read_a_batch(name: str):
    file, _, preset = name.partition(":")
    space = importlib.import_module(f"configs.byte_lm.{file}")
    pairs = []
    if file == "grid":
        pairs = [(space.get_config(preset), space.get_runs("quick"))]
    elif file == "successive":
        pairs = [
            (space.get_config(preset), settings(space.autoencoders(preset))),
            (space.reservoir(preset), settings(space.reservoirs(preset))),
        ]
    else:
        pairs = [(space.get_config(preset), settings(space.variants(preset)))]
    for base, overrides in pairs:
        for group in group_by_shape(base, overrides):
            config = copy_config(base, overrides[group[0]])
            read(config)
            config.freeze()


def settings(variants: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the overrides of all candidates of all variants."""
    return [setting for variant in variants.values() for setting in variant.settings()]
