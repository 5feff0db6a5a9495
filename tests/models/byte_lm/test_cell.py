"""The cell made for one run computes what the grid's cell computes."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.config import Config, DataConfig, MeshConfig
from flaxae.errors import ConfigError
from flaxae.models.byte_lm.cell import CellConfig
from flaxae.models.byte_lm.grid import GridConfig
from flaxae.models.byte_lm.network import ByteNetwork, nats
from flaxae.models.byte_lm.rates import Timed
from flaxae.models.byte_lm.recurrence import Dynamic
from flaxae.models.byte_lm.streams import ByteDataConfig
from flaxae.task import Context, StreamCarry

ROWS, STEPS, STATES, HIDDEN, LAYERS = 2, 8, 5, 6, 2


def loss_and_gradient(network: ByteNetwork, x: Any) -> tuple[Any, Any, Any]:
    """Return the mean nats, the last state, and the gradients by path of a second call."""
    hparams = {"bptt": jnp.int32(4), "same_step": jnp.int32(1), "output_gate": jnp.int32(0)}
    ctx = Context(jax.random.key(0), jnp.int32(0), hparams=hparams)
    graphdef, params, streams = nnx.split(network, nnx.Param, StreamCarry)

    def loss(params: Any, streams: Any) -> tuple[Any, Any]:
        model = nnx.merge(graphdef, params, jax.tree.map(lambda x: x, streams))  # of this trace
        value = nats(model(x, ctx).logits, x).mean()
        return value, nnx.state(model, StreamCarry)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, streams), _ = step(params, streams)
    (value, streams), grads = step(params, streams)  # from the state that the first call left
    state = nnx.to_flat_state(streams)[-1][1][...]
    return value, state, dict(nnx.to_flat_state(grads))


@pytest.mark.parametrize("dynamic", [*Dynamic])
def test_the_cell_equals_the_grids(dynamic: Dynamic):
    rngs = nnx.Rngs(params=1, frozen=2)
    sizes: Any = {"layers": LAYERS, "states": STATES, "hidden": HIDDEN, "dynamic": dynamic}
    ours: Any = CellConfig(bptt=4, **sizes).network(ROWS, rngs)
    grid: Any = GridConfig(bptt=4, **sizes).network(ROWS, rngs)
    grid.embed.table[...] = ours.embed.table[...]
    for name in ("kernel", "bias"):
        getattr(grid.head, name)[...] = getattr(ours.head, name)[...]
    for mine, theirs in zip(ours.layers, grid.layers, strict=True):
        theirs.inputs.kernel[...] = mine.inputs.kernel[...]
        theirs.inputs.bias[...] = mine.inputs.bias[...] + 0.5
        mine.inputs.bias[...] = mine.inputs.bias[...] + 0.5
        theirs.recurrent.kernel[...] = mine.recurrent.kernel[...]
        readout = jnp.concatenate([mine.of_state.kernel[...], mine.of_input.kernel[...]])
        kernel = theirs.outputs.kernel[...]
        theirs.outputs.kernel[...] = kernel.at[:, :HIDDEN].set(readout)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (ROWS, STEPS)))
    value, state, grads = loss_and_gradient(ours, x)
    wanted, wanted_state, wanted_grads = loss_and_gradient(grid, x)
    np.testing.assert_allclose(value, wanted, atol=1e-6)
    np.testing.assert_allclose(state, wanted_state, atol=1e-6)
    same = [("embed", "table"), ("head", "kernel"), ("head", "bias")]
    for i in range(LAYERS):
        same += [("layers", i, "inputs", "kernel"), ("layers", i, "inputs", "bias")]
        same += [("layers", i, "recurrent", "kernel")]
    for path in same:
        assert np.abs(grads[path][...]).max() > 1e-6
        np.testing.assert_allclose(grads[path][...], wanted_grads[path][...], atol=1e-6)
    for i in range(LAYERS):
        readout = wanted_grads["layers", i, "outputs", "kernel"][...][:, :HIDDEN]
        of_state = grads["layers", i, "of_state", "kernel"][...]
        of_input = grads["layers", i, "of_input", "kernel"][...]
        np.testing.assert_allclose(np.concatenate([of_state, of_input]), readout, atol=1e-6)


def test_gradients_cannot_stop_after_the_end_of_an_update():
    with pytest.raises(ConfigError, match="task.bptt=32 is above task.update=16"):
        Config(task=CellConfig(bptt=32)).freeze()


def test_a_mesh_gathers_no_rows_of_a_batch():
    data: DataConfig = ByteDataConfig(batch_size=8 * 5)
    task = CellConfig(states=256, hidden=128, update=3, bptt=3)
    timed: Any = Timed(Config(task=task, data=data, mesh=MeshConfig(fsdp=8)))
    text = timed._step.as_text().splitlines()
    results = [line.split(" all-gather(")[0] for line in text if " all-gather(" in line]
    found = [shape for result in results for shape in re.findall(r"\w+\[([\d,]+)\]", result)]
    shapes = [[int(size) for size in shape.split(",")] for shape in found]
    assert [256, 512] in shapes  # the recurrent weights
    # None has 40 streams, 3 bytes, or both as one axis.
    assert not any({40, 3, 120} & set(shape) for shape in shapes), shapes
