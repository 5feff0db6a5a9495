"""Trainings of real networks: a resumed one equals a whole one, and one device equals eight."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flaxae
from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    MeshConfig,
    OptimConfig,
    SaveConfig,
    copy_config,
)
from flaxae.models.byte_lm.automaton import AutomatonConfig
from flaxae.models.byte_lm.cell import CellConfig
from flaxae.models.byte_lm.stimulus import StimulusConfig
from flaxae.models.byte_lm.stimulus_layer import Decay
from flaxae.models.byte_lm.streams import ByteDataConfig
from flaxae.models.byte_lm.task import ByteLMConfig

SIZES: dict[str, Any] = {"update": 8, "eval_update": 64, "eval_streams": 8}
NETWORKS: dict[str, ByteLMConfig] = {
    "cell": CellConfig(layers=2, states=16, hidden=8, bptt=4, **SIZES),
    "automaton": AutomatonConfig(rows=8, width=8, inputs=8, layers=2, bptt=4, **SIZES),
    "stimulus": StimulusConfig(states=16, width=4, layers=2, decay_kind=Decay.UNIT, **SIZES),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_resumed_run_and_one_on_eight_devices_equal_a_whole_run(name: str, tmp_path: Path):
    text = tmp_path / "text.txt"
    words = np.random.default_rng(0).choice([b"alpha ", b"beta ", b"gamma\n"], 1000)
    text.write_bytes(b"".join(words))
    config = Config(
        task=NETWORKS[name],
        data=ByteDataConfig(path=str(text), batch_size=8),
        optim=OptimConfig(lr=1e-2, decay_steps=16),
        log=LogConfig(every=4, tensorboard=False, progress=False),
        eval=EvalConfig(num_samples=0, num_batches=1),
        save=SaveConfig(every=8),
        mesh=MeshConfig(fsdp=1),
        steps=16,
        steps_per_call=4,
    )
    whole = flaxae.run(config, tmp_path / "whole")
    carried = jax.tree.leaves(whole.state["carry"]["stream"])
    assert carried and all(np.asarray(x).any() for x in carried)

    flaxae.run(copy_config(config, {"steps": 8}), tmp_path / "resumed")
    resumed = flaxae.run(config, tmp_path / "resumed")
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)

    eight = flaxae.run(copy_config(config, {"mesh.fsdp": 8}), tmp_path / "eight")
    for part in ("params", "carry"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5),
            eight.state[part],
            whole.state[part],
        )
    for bits in ("dev/bits_per_byte", "dev/loss"):
        assert eight.metrics[bits] == pytest.approx(whole.metrics[bits], abs=1e-5)
