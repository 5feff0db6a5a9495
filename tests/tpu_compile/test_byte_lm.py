"""A small recurrent byte model compiled for eight chips that need not exist (needs libtpu)."""

from functools import cache

import pytest

from configs.byte_lm import enwik8
from flaxae import tpu_compile
from flaxae.config import copy_config

pytestmark = pytest.mark.tpu
CHIPS, ROWS, UPDATE = 8, 20, 12  # streams per chip, bytes per step
SIZES = {"task.layers": 2, "task.states": 256, "task.hidden": 128}


@cache
def report() -> tpu_compile.Report:
    more = {"task.update": UPDATE, "task.bptt": UPDATE, "data.batch_size": CHIPS * ROWS}
    config = copy_config(enwik8.get_config(), SIZES | more | {"steps_per_call": 1})
    return tpu_compile.analyse(config, "v5e:2x4", effort=-1.0)


def test_bytes_and_activations_stay_on_their_chip():
    for message in report().collectives:
        if message.kind == "all-gather":
            assert not {ROWS, UPDATE, CHIPS * ROWS} & set(message.shape), message


def test_weights_are_gathered_once_per_step_and_not_per_byte():
    found = report()
    assert found.fits and found.unknown_loops == 0 and found.chips == CHIPS
    assert all(message.times == 1 for message in found.collectives)


def test_flops_are_those_of_the_task_and_of_the_looked_up_rows():
    per_byte = 2 * 256 * (2 * 256 + 128)  # gradients of the first layer's maps by one-hot rows
    table = 6 * 128 * 256 * (2 * 256 + 128) / CHIPS
    expected = report().task_flops + ROWS * UPDATE * per_byte + table
    assert report().flops == pytest.approx(expected, rel=0.1)
