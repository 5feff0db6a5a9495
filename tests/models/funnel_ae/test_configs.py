"""Configs of texts: every preset builds a model, whose codes have the documented size."""

import importlib
import math

import jax
import pytest
from flax import nnx

from flaxae.config import from_json, to_json
from flaxae.errors import ConfigError

# file:preset -> millions of parameters, shape of a code
CONFIGS = {
    "python_lines": (1.14, (16, 16)),
    "python_lines:mini": (0.92, (2, 32)),
    "python_lines:8tkn": (4.18, (2, 128)),
    "python_lines:32tkn": (5.45, (1, 256)),
    "python_lines:two_blocks": (2.94, (16, 16)),
    "calm": (12.1, (8, 32)),
    "calm:small": (1.16, (8, 32)),
    "text_report:floats_32": (1.14, (16, 2)),
    "text_report:floats_1024": (1.16, (16, 64)),
    "text_report:calm": (1.16, (8, 32)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_model_has_the_documented_size(name: str) -> None:
    file, _, preset = name.partition(":")
    module = importlib.import_module(f"configs.funnel_ae.{file}")
    config = module.get_config(preset) if preset else module.get_config()
    config.freeze()
    task = config.task.make(config)
    model = nnx.eval_shape(lambda: task.init(nnx.Rngs(params=0, frozen=1)))
    _, state, _ = nnx.split(model, nnx.Param, ...)
    millions = sum(math.prod(x.shape) for x in jax.tree.leaves(state)) / 1e6
    size, code = CONFIGS[name]
    assert (model.num_latents, model.dim) == code
    assert millions == pytest.approx(size, rel=0.05)
    assert to_json(from_json(to_json(config))) == to_json(config)
    spec = {"a": {"ids": jax.ShapeDtypeStruct((64, config.data.max_length), "int32")}}
    assert task.flops(spec, {}) > 6 * 64 * config.data.max_length * 0.9e6 * 0.5


@pytest.mark.parametrize("file", ["python_lines", "calm", "text_report"])
def test_unknown_preset_names_the_others(file: str) -> None:
    with pytest.raises(ConfigError, match=r"'nonsense'; there are \w+, \w+"):
        importlib.import_module(f"configs.funnel_ae.{file}").get_config("nonsense")
