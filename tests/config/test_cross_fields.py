"""Fields that must fit each other, and seeds outside of configs; nothing is trained."""

import importlib
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from flaxae import peft
from flaxae.command import run_main
from flaxae.config import Config, copy_config, flags
from flaxae.errors import ConfigError
from flaxae.explore.backend import Explorer
from flaxae.lm.generation import Streamer
from flaxae.models.causal_lm.task import CausalLMConfig
from flaxae.models.looped.task import LoopedConfig
from flaxae.models.looped.text.task import TextConfig
from flaxae.models.t5_vae.task import T5VAEConfig
from flaxae.text_autoencoder import priors
from flaxae.training.hparams import make_hparams
from flaxae.training.lanes import lane_configs
from tests.helpers import ROOT
from tests.tiny.family import TinyTask, tiny_config


@pytest.mark.parametrize(
    "task, overrides, message",
    [
        (LoopedConfig, {"loops_start": 21, "loops_every": 5}, "loops_start=21 is above task.loops"),
        (LoopedConfig, {"dims_start": 21, "dims_every": 5}, "dims_start=21 .* task.model.dims=20"),
        (LoopedConfig, {"points_start": 42, "points_every": 5}, "points_start=42 is above task.mo"),
        (LoopedConfig, {"random_loops": True, "max_loops": 9}, "max_loops=9 is below the mean"),
        (LoopedConfig, {"grad_loops": 5, "max_grad_loops": 4}, "above task.max_grad_loops=4"),
        (TextConfig, {"max_loops": 5}, "max_loops=5 is below the mean"),
        (
            T5VAEConfig,
            {"t5.relative_buckets": 2},
            "relative_buckets=2 must be even",
        ),
        (T5VAEConfig, {"t5.relative_max_distance": 16}, "relative_max_distance=16 must be above"),
        (T5VAEConfig, {"noise.mask": 0.6, "noise.replace": 0.6}, "at most 1"),
        (CausalLMConfig, {"weights": "int8"}, "task.weights='int8' is not one of: float32, bfl"),
        (CausalLMConfig, {"dtype": "float64"}, "task.dtype='float64' is not one of: float32, bfl"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_named(task, overrides, message):
    config = copy_config(Config(task=task()), {f"task.{k}": v for k, v in overrides.items()})
    with pytest.raises(ConfigError, match=message):
        flags.validate(config)


def test_a_mask_outside_of_the_vocabulary_is_named():
    """A look-up of such an id is NaN."""
    config = copy_config(
        Config(task=T5VAEConfig()), {"task.noise.mask": 0.1, "task.noise.mask_id": 4096}
    )
    with pytest.raises(ConfigError, match="mask_id=4096 is not an id of a vocabulary of 4096"):
        config.task.make(config)
    config.task.noise.mask_id = 4095  # pyright: ignore[reportAttributeAccessIssue]
    config.task.make(config)


def test_what_a_stored_run_began_with_is_not_refused():
    config = copy_config(Config(task=TextConfig()), {"task.max_loops": 5})
    config.freeze(check=False)
    with pytest.raises(ConfigError, match="frozen"):
        config.optim.lr = 0.5


@pytest.mark.parametrize(
    "module, argv, message",
    [
        ("explore.__main__", ["w", "--points=1"], "--points=1 must be at least 2"),
        ("explore.__main__", ["w", "--port=-1"], "--port=-1 must be in [0, 65535]"),
        ("sweep.__main__", ["--config=c", "--workdir=w", "--jobs=0"], "--jobs=0 must be positive"),
        ("models.t5_vae.baselines", ["--workdir=w", "--seeds", "0", "-1"], "--seeds=-1 must be in"),
        ("models.looped.report", ["--workdir=w", "--jobs=-1"], "--jobs=-1 must not be negative"),
        ("data.wikipedia.__main__", ["out", "--num-shards=0"], "--num-shards=0 must be positive"),
        ("summary", ["--config=FILE", "--devices=-1"], "--devices=-1 must be in [0, 4096]"),
        ("tpu_compile.__main__", ["--config=FILE", "--slices=0"], "--slices=0 must be positive"),
        ("tpu_compile.__main__", ["--config=FILE", "--effort=nan"], "--effort=nan is not a finite"),
    ],
)
def test_options_of_commands_out_of_range_are_one_message(module, argv, message, capsys):
    command = importlib.import_module(f"flaxae.{module}")
    file = str(ROOT / "configs/looped/tree.py")
    assert run_main(command.main, ["program", *(a.replace("FILE", file) for a in argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_the_largest_seeds_reach_the_program_as_they_are():
    config = tiny_config(seed=2**32 - 1, data__seed=2**32 - 1)
    hparams = make_hparams(TinyTask(config), [config], lanes=False)
    assert int(hparams["seed"]) == int(hparams["data_seed"]) == 2**32 - 1
    data = jax.random.key_data(jax.random.key(2**32 - 1))  # as evaluations and frozen parts do
    assert data.tolist() == jax.random.key_data(jax.random.key(hparams["seed"])).tolist()


NOTHING: Any = SimpleNamespace()
SEEDED: dict[str, Any] = {
    "prior": lambda seed: priors.fit("gaussian", np.eye(3, 2)).sample(1, seed),
    "mixture": lambda seed: priors.fit("gmm", np.eye(3, 2), seed),
    "adapter": lambda seed: peft.add_adapter(NOTHING, peft.LoRAConfig(), seed=seed),
    "generation": lambda seed: next(Streamer.__call__(NOTHING, [1], 4, seed)),
    "explorer": lambda seed: Explorer.samples(NOTHING, seed=seed),
    "lane": lambda seed: lane_configs(tiny_config(), [{"seed": seed}], TinyTask(tiny_config())),
    "data of a lane": lambda seed: lane_configs(
        tiny_config(), [{"data.seed": seed}], TinyTask(tiny_config())
    ),
}


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
@pytest.mark.parametrize("name", SEEDED)
def test_seeds_are_0_to_2_to_the_32(name, seed, monkeypatch):
    """Jax takes 2**32 for 0, and numpy and jax raise errors of their own for others."""
    monkeypatch.setattr("flaxae.peft.apply.adapter_names", lambda model: [])
    monkeypatch.setattr("flaxae.peft.apply.copied", lambda model: model)
    monkeypatch.setattr("flaxae.peft.apply.names_lib.sites", lambda model: {})
    with pytest.raises(ConfigError, match=rf"seed={seed} must be in \[0, 2\*\*32\)"):
        SEEDED[name](seed)
