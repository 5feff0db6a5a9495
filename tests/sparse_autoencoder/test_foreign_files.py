"""Dictionaries that SAELens and sparsify have written give the outputs that they have recorded."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from flaxae.sparse_autoencoder import files, saelens
from flaxae.sparse_autoencoder.parameters import values
from tests.sparse_autoencoder import foreign_files
from tests.sparse_autoencoder.foreign_files import FOLDER
from tests.sparse_autoencoder.tiny_dictionaries import context

CASES = sorted(foreign_files.writers())


def outputs(sae, x):
    """Return latents and output in one compiled program."""
    graphdef, state = nnx.split(sae)

    @jax.jit
    def run(state, x):
        model = nnx.merge(graphdef, state)
        latents = model.encode(x, context())
        return latents, model.decode(latents, context(), x)

    return run(state, x)


def test_every_file_is_known():
    assert sorted(path.name for path in FOLDER.iterdir()) == CASES


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_recorded_ones(case):
    sae, _ = files.load(FOLDER / case)
    record = foreign_files.read_record(FOLDER / case)
    latents, output = outputs(sae, record["x"])
    np.testing.assert_allclose(output, record["output"], rtol=0, atol=1e-5)
    factor = 1.0
    if case == "topk_factor":  # latents are in units of the decoder's norms, which are divided
        factor = files.load(FOLDER / case)[1].factor
    np.testing.assert_allclose(latents * factor, record["latents"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["jumprelu_hook_z", "topk_whitening", "gated_raw", "topk_factor"])
def test_a_file_of_saelens_is_written_again_unchanged(case, tmp_path):
    sae, origin = files.load(FOLDER / case)
    saelens.write(tmp_path, sae, origin)
    again, where = files.load(tmp_path)
    assert again.config == sae.config
    assert dataclasses.replace(where, other=origin.other) == origin
    assert where.other.get("reshape_activations") == origin.other.get("reshape_activations")
    for name, x in values(sae).items():
        np.testing.assert_array_equal(values(again)[name], x, err_msg=name)
