"""LoRA on a frozen base, compiled for four chips that need not exist (needs libtpu)."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from configs.causal_lm import phi2_lora
from flaxae import tpu_compile
from flaxae.config import Config
from flaxae.lm import sizes
from flaxae.lm.llama.modeling import Llama, LlamaConfig

pytestmark = pytest.mark.tpu
LAYERS, ROWS, LENGTH, WIDTH, INNER, VOCAB = 3, 2, 96, 256, 512, 1024
KERNELS = 7  # per layer


@pytest.fixture(scope="module", autouse=True)
def small():
    """Register a size that is large enough to be split over the chips."""
    shape = (WIDTH, INNER, 4, 4, 64, LAYERS, VOCAB)
    sizes.SIZES["llama-small"] = (Llama, LlamaConfig, shape, {})
    yield
    del sizes.SIZES["llama-small"]


def config() -> Config:
    made = phi2_lora.sharded("llama-small", "", "scratch", batch_size=4 * ROWS, lr=1e-3)
    made.data.max_length = LENGTH
    made.task.adapter.r = 64
    return made


@cache
def report() -> tpu_compile.Report:
    return tpu_compile.analyse(config(), "v5e:2x2", effort=-1.0)


def test_a_chip_gathers_one_layer_of_the_base_at_a_time():
    gathers = [m for m in report().collectives if m.kind == "all-gather"]
    largest = WIDTH * INNER
    kernels = [m for m in gathers if m.times == LAYERS and m.size >= 2 * WIDTH * WIDTH]
    assert len(kernels) == 2 * KERNELS  # forward, and again in recomputed blocks
    assert all(m.dtype == "bf16" and m.size <= 2 * largest for m in kernels)
    # Outside of the scan only the embedding and the head are gathered.
    rest = [m for m in gathers if m.times != LAYERS]
    assert len(rest) == 2 and all(m.size == 2 * VOCAB * WIDTH for m in rest), rest
    assert not any(m.shape[:1] == (LAYERS,) for m in gathers)


def test_activations_and_gradients_of_the_base_are_not_sent():
    mine, rows = ROWS * LENGTH, 4 * ROWS
    for m in report().collectives:
        assert not {mine, rows * LENGTH, LENGTH, rows} & set(m.shape), m
        if m.kind != "all-gather":  # at most the gradients of the factors
            assert m.size <= 4 * 64 * INNER, m


def test_flops_are_the_tasks_plus_one_forward_pass():
    found = report()
    forward = (
        found.task_flops / 2
    )  # a frozen kernel has a forward pass and the gradient of its input
    assert found.flops == pytest.approx(found.task_flops + forward, rel=0.2)
    assert found.unknown_loops == 0 and found.fits


def test_the_base_is_bfloat16_and_only_factors_have_moments():
    devices = tpu_compile.topology("v5e:2x2")
    _, _, _, (state, frozen, *_) = tpu_compile.abstract_step(config(), devices)
    base: Any = jax.tree.leaves(frozen)
    assert {x.dtype for x in base} == {jnp.dtype("bfloat16")}
    for leaf in base:
        if leaf.size > 2**14:
            assert leaf.sharding.shard_shape(leaf.shape) != leaf.shape, leaf
    trained = sum(x.size for x in jax.tree.leaves(state["params"]))
    assert trained == LAYERS * 64 * 2 * (2 * WIDTH) == report().params
    assert {x.dtype for x in jax.tree.leaves(state["params"])} == {jnp.dtype("float32")}
    moments = sum(x.size for x in jax.tree.leaves(state["opt"]))
    assert 2 * trained <= moments <= 2 * trained + 8
