"""Small training steps compiled for TPU slices that need not exist (`make test-tpu`, libtpu)."""

import dataclasses
import json
import math
from functools import cache
from typing import Any

import jax
import pytest

from flaxae import tpu_compile
from flaxae.command import run_main
from flaxae.config import Config, MeshConfig, OptimConfig
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.lm.t5.modeling import T5Config
from flaxae.models.t5_vae.bottlenecks import Bottleneck, LatentConfig
from flaxae.models.t5_vae.task import T5VAEConfig
from flaxae.tpu_compile.__main__ import main, misfit
from flaxae.tpu_compile.page import _message_rows, page
from flaxae.training.layout import make_layout

pytestmark = pytest.mark.tpu
KERNELS = 7 + 11  # of one encoder layer and one decoder layer
NAMES = set(
    "params fits hbm_bytes hbm_capacity_bytes flops task_flops bytes_accessed collective_bytes"
    " step_seconds_bound mfu_bound compile_seconds".split()
)


def tiny(
    layers: int = 2, unroll: int = 1, remat: bool = False, rows: int = 8, **mesh: int
) -> Config:
    t5 = T5Config(
        d_model=128,
        d_ff=256,
        d_kv=32,
        num_heads=4,
        num_layers=layers,
        num_decoder_layers=layers,
        vocab_size=512,
        dtype="bfloat16",
        scan_unroll=unroll,
        remat=remat,
    )
    latent = LatentConfig(
        bottleneck=Bottleneck.MEAN, dim=128, memory_tokens=2, injection=False, positions=False
    )
    return Config(
        task=T5VAEConfig(t5=t5, latent=latent),
        data=TextDataConfig(batch_size=4 * rows, max_length=128, num_buckets=1),
        optim=OptimConfig(lr=1e-3),
        mesh=MeshConfig(**mesh),
    )


@cache
def report(**options: Any) -> tpu_compile.Report:
    return tpu_compile.analyse(tiny(**options), "v5e:2x2", effort=-1.0)


SLOW: Any = pytest.param({"replica": 4, "fsdp": 1}, marks=pytest.mark.slow)
MODES = [{}, {"remat": True}, {"fsdp": 2, "model": 2}, {"replica": 2}]


@pytest.mark.parametrize("mode", [*MODES, SLOW], ids=str)
def test_flops_equal_the_tasks_count_and_everything_fits(mode):
    found = report(**mode)
    recomputed = 4 / 3 if mode.get("remat") else 1.0  # the forward pass runs twice
    assert found.flops == pytest.approx(recomputed * found.task_flops, rel=0.15)
    assert found.fits and 0 < found.hbm_bytes < found.hbm_capacity_bytes
    assert found.unknown_loops == 0 and found.chips == 4
    assert 0 < found.mfu_bound < 1
    assert found.step_seconds_bound == max(found.seconds.values())


@pytest.mark.parametrize("mode", [{}, {"remat": True}, {"replica": 2}], ids=str)
def test_parameters_are_gathered_once_per_forward_pass(mode):
    found = report(**mode)
    gathers = [m for m in found.collectives if m.kind == "all-gather" and m.axis == "fsdp"]
    in_layers = [m for m in gathers if m.times == 2]
    assert len(in_layers) == KERNELS * (2 if mode.get("remat") else 1)
    assert all(m.dtype == "bf16" for m in in_layers)


def test_gradients_of_layers_are_reduce_scattered_once():
    config = tiny()
    shapes = make_layout(config.task.make(config), config).templates["params"]
    kernels = sum(
        math.prod(x.shape)
        for path, x in jax.tree_util.tree_leaves_with_path(shapes)
        if "blocks" in str(path) and "kernel" in str(path)
    )
    scattered = [m for m in report().collectives if m.kind == "reduce-scatter" and m.times == 2]
    assert {m.axis for m in scattered} == {"fsdp"}
    assert sum(m.size * m.times for m in scattered) == 2 * kernels  # bytes, in bfloat16


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_activations_are_not_gathered(mode):
    tokens = 8 * 128  # tokens per chip; the longest axis of a parameter is the vocabulary, 512
    for message in report(**mode).collectives:
        if message.kind == "all-gather":
            assert max(message.shape, default=0) < tokens, message


@pytest.mark.slow
def test_without_fsdp_only_gradients_and_codes_are_sent():
    codes = 4 * 8 * 128 * 4  # the MMD is over the global batch
    for message in report(replica=4, fsdp=1).collectives:
        assert message.kind == "all-reduce" or message.size <= codes, message


def test_optimizer_state_is_sharded():
    config = tiny()
    devices = tpu_compile.topology("v5e:2x2")
    _, mesh, _, (state, *_) = tpu_compile.abstract_step(config, devices)
    for leaf in jax.tree.leaves((state["params"], state["opt"])):
        if leaf.size * leaf.dtype.itemsize > 2**17:
            assert leaf.sharding.shard_shape(leaf.shape) != leaf.shape, leaf


@pytest.mark.slow
def test_four_chips_store_a_quarter_of_the_state_each():
    assert report(replica=4, fsdp=1).argument_bytes > 3.5 * report().argument_bytes


def test_costs_of_a_scan_agree_with_unrolled_layers():
    """The body of a scan is in the program once, and counts once per layer."""
    assert report().flops == pytest.approx(report(unroll=2).flops, rel=0.02)


@pytest.mark.slow
def test_bytes_of_a_scan_grow_linearly_with_its_length():
    # Up to 5 %: the compiler fuses programs of different depths differently.
    two, three = report(layers=2).bytes_accessed, report(layers=3).bytes_accessed
    assert report(layers=5).bytes_accessed == pytest.approx(two + 3 * (three - two), rel=0.05)


def test_a_program_that_does_not_fit_raises():
    config = tiny(rows=2**15)
    with pytest.raises(tpu_compile.DoesNotFit, match=r"[Oo]ut of memory|exceeds"):
        tpu_compile.analyse(config, "v5e:2x2", effort=-1.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [("v9:2x2", "no chip 'v9'"), ("v5e:3x5", "does not know this slice"), ("v5e", "slice")],
)
def test_unknown_slices_are_errors(name, words):
    with pytest.raises(ConfigError, match=words):
        tpu_compile.topology(name)


def test_a_v4_chip_is_one_device():
    """Check that both cores of a chip are one device with all of its memory, as on a VM."""
    assert len(tpu_compile.topology("v4:2x2x1")) == 4


def test_between_slices_only_replicas_communicate():
    config = tiny(replica=2)
    config.data.batch_size *= 2
    found = tpu_compile.analyse(config, "v5e:2x2", effort=-1.0, slices=2)
    assert "between slices are timed as if on the links inside" in page("tiny", found)
    assert found.chips == 8 and found.mesh == {"replica": 2, "fsdp": 4, "model": 1}
    for message in found.collectives:
        if message.kind in ("all-gather", "reduce-scatter") and len(message.shape) > 1:
            codes = message.size <= 8 * 8 * 128 * 4
            assert message.axis == "fsdp" or codes, message
    with pytest.raises(ConfigError, match="set mesh.replica=2"):
        tpu_compile.analyse(tiny(), "v5e:2x2", slices=2)


def test_a_batch_that_is_not_divisible_is_an_error():
    config = tiny()
    config.data.batch_size = 30
    with pytest.raises(ConfigError, match="not divisible by 4 data shards"):
        tpu_compile.analyse(config, "v5e:2x2")


def test_the_command_reports_errors_and_prints_json(tmp_path, capsys):
    path = tmp_path / "tiny.py"
    path.write_text("from tests.tpu_compile.test_program import tiny\n\nget_config = tiny\n")
    command = ["tpu_compile", f"--config={path}", "--topology=v5e:2x2", "--effort=-1", "--json"]
    assert run_main(main, [*command, "--config.data.batch_size=30"]) == 2
    assert "not divisible" in capsys.readouterr().err
    assert run_main(main, [*command, "--config.task.t5.num_layers=1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert NAMES <= found.keys() and found["fits"] is True


def test_output_of_a_program_that_does_not_fit_has_all_known_numbers():
    config, error = tiny(), tpu_compile.DoesNotFit("RESOURCE_EXHAUSTED: too much", 3e11)
    found = json.loads(misfit(error, config, "v5e:2x2", 1, True))
    assert NAMES <= found.keys() and found["fits"] is False and found["hbm_bytes"] == 3e11
    assert found["params"] == report().params and found["task_flops"] == report().task_flops
    assert found["flops"] is None
    assert "Does not fit v5e:2x2" in misfit(error, config, "v5e:2x2", 1, False)


def test_messages_of_a_call_are_reported_per_step():
    whole = dataclasses.replace(report(), steps_per_call=1)
    part = dataclasses.replace(whole, steps_per_call=4)
    counts = [dict(_message_rows(x))["  all-gather, fsdp"].split(" in ")[1] for x in (whole, part)]
    assert float(counts[1]) == float(counts[0]) / 4


def test_the_page_contains_the_main_numbers():
    text = page("tiny", report())
    for words in ("HBM", "FLOPs", "x the task's own count", "all-gather, fsdp", "bound by the"):
        assert words in text
