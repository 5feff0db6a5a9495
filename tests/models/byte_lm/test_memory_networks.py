"""The successive autoencoder, the reservoir and the measure of their memory."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae.config import Config, EvalConfig, LogConfig, MeshConfig, SaveConfig
from flaxae.models.byte_lm import memory
from flaxae.models.byte_lm.network import nats, signed_bits
from flaxae.models.byte_lm.readout import root_mean_square
from flaxae.models.byte_lm.reservoir import ReservoirConfig, radius_of
from flaxae.models.byte_lm.streams import ByteDataConfig
from flaxae.models.byte_lm.successive import SuccessiveConfig
from flaxae.task import Context, StreamCarry
from flaxae.training.load import load
from flaxae.training.loop import run
from tests.models.byte_lm.helpers import build, hparams_of, read, reader_of, text

ROWS, STATES = 4, 16
AUTOENCODER = SuccessiveConfig(states=STATES, hidden=12)
RESERVOIR = ReservoirConfig(states=STATES, scale=0.2, radius=0.9)


def call(config: Any, train: bool) -> Any:
    graphdef, _ = nnx.split(build(config, ROWS))

    def run(params: Any, rest: Any, x: Any) -> Any:
        model = nnx.merge(graphdef, params, rest, copy=True)
        ctx = Context(jax.random.key(0), jnp.int32(0), hparams=hparams_of(config), train=train)
        return model(x, ctx), nnx.split(model, nnx.Param, ...)[2]

    return run


@pytest.fixture(scope="module")
def bytes_read() -> Any:
    return np.random.default_rng(0).integers(0, 256, (ROWS, 17))


@pytest.fixture(scope="module")
def reservoir_states() -> Any:
    """States of the reservoir after independent bytes, and the bytes."""
    x = memory.uniform_bytes(ROWS, 4096)
    return memory.collect_states(build(RESERVOIR), hparams_of(RESERVOIR), x), x


def test_the_cross_entropy_trains_the_readout_alone_and_the_errors_the_rest(
    bytes_read: Any,
) -> None:
    run = call(AUTOENCODER, train=True)
    _, params, rest = nnx.split(build(AUTOENCODER, ROWS), nnx.Param, ...)
    x, y = jnp.asarray(bytes_read[:, :-1]), jnp.asarray(bytes_read[:, 1:])

    def losses(params: Any) -> Any:
        out, _ = run(params, rest, x)
        return jnp.stack([nats(out.logits, y).sum(), out.loss.sum()])

    found = jax.jit(jax.jacrev(losses))(params)
    for path, leaf in nnx.to_flat_state(found):
        of_readout = path[0] == "readout"
        changes = [bool(jnp.any(each)) for each in leaf[...]]
        assert changes == [of_readout, not of_readout], path


@pytest.mark.slow
def test_the_state_before_is_detached() -> None:
    """The gradient of a call equals the sum over single bytes with given states before."""
    config = dataclasses.replace(AUTOENCODER, noise=0.0)
    run = call(config, train=True)
    _, params, rest = nnx.split(build(config, 1), nnx.Param, ...)
    x = jnp.arange(40, 46)[None]

    def loss(params: Any, rest: Any, x: Any) -> Any:
        out, rest = run(params, rest, x)
        return out.loss.sum(), rest

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    whole, _ = gradient(params, rest, x)
    total: Any = jax.tree.map(jnp.zeros_like, params)
    for t in range(x.shape[1]):
        found, rest = gradient(params, rest, x[:, t : t + 1])
        total = jax.tree.map(jnp.add, total, found)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [AUTOENCODER, RESERVOIR], ids=["autoencoder", "reservoir"])
def test_reading_in_parts_equals_one_pass(config: Any) -> None:
    reader, x = reader_of(config), text(streams=1)
    whole = read(reader, x)
    for length in (1, 16):
        np.testing.assert_allclose(read(reader, x, length), whole, rtol=1e-4, atol=1e-4)


def test_training_changes_only_the_readout_of_a_reservoir(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"alpha beta gamma " * 50)
    config = Config(
        dataclasses.replace(RESERVOIR, update=8, eval_update=64),
        ByteDataConfig(batch_size=2, path=str(tmp_path / "text.txt")),
        mesh=MeshConfig(fsdp=1),
        log=LogConfig(tensorboard=False, progress=False),
        eval=EvalConfig(num_samples=0, num_batches=1),
        save=SaveConfig(every=2),
        steps=2,
    )
    run(config, tmp_path / "run")
    trained = load(tmp_path / "run").model
    start = config.task.make(config).init(nnx.Rngs(params=0, frozen=config.frozen_seed))
    before, after = (dict(nnx.to_flat_state(nnx.state(each))) for each in (start, trained))
    assert before.keys() == after.keys()
    # Compiled together, the initial values differ by rounding.
    same = {p for p in before if np.allclose(before[p][...], after[p][...], rtol=1e-4, atol=0)}
    changed = before.keys() - same
    assert {path[0] for path in changed} == {"readout", "state"}


def test_weights_per_byte_of_frozen_matmuls_count_a_third() -> None:
    """A trained weight costs three matmuls per step, a frozen one only that of the forward pass."""
    readout = STATES * 256 + 256 * 256
    assert build(RESERVOIR).weights_per_byte() == readout + (STATES * STATES + 8 * STATES) // 3


def test_normalized_codes_do_not_shrink() -> None:
    model: Any = build(AUTOENCODER, ROWS)
    for layer in model.encoder:
        layer.value.kernel[...] *= 0.03
    ctx = Context(jax.random.key(0), jnp.int32(0), hparams=hparams_of(AUTOENCODER))
    code = model.encode(jnp.ones((1, 8)), jnp.zeros((1, STATES)), ctx)
    assert root_mean_square(code).min() > 0.4


def test_bits_are_in_order_of_significance() -> None:
    assert signed_bits(jnp.array([0b10000001])).tolist() == [[1, -1, -1, -1, -1, -1, -1, 1]]


def test_radius_equals_the_largest_eigenvalue() -> None:
    matrix = np.random.default_rng(0).standard_normal((30, 30)).astype(np.float32)
    expected = np.abs(np.linalg.eigvals(matrix)).max()
    np.testing.assert_allclose(radius_of(jnp.asarray(matrix)), expected, rtol=0.01)
    reservoir: Any = build(dataclasses.replace(RESERVOIR, orthogonal=True))
    recurrent = reservoir.recurrent[...]
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(STATES), atol=1e-5)


def test_capacity_of_independent_bytes_is_at_most_the_number_of_states(
    reservoir_states: Any,
) -> None:
    states, x = reservoir_states
    found = memory.measure(states, x, lags=12)
    assert 4 < found.capacity <= STATES
    # Noise of the size of the states themselves leaves little.
    assert memory.measure(states, x, lags=12, noise=0.5).capacity < found.capacity / 2


def test_a_shift_register_remembers_exactly_its_bytes() -> None:
    x = memory.uniform_bytes(2, 2048)
    bits = np.asarray(signed_bits(jnp.asarray(x)))  # (B, n, 8)
    states = np.concatenate([bits, np.roll(bits, 1, axis=1)], -1)  # two bytes, M = 16
    found = memory.measure(states, x, lags=6)
    np.testing.assert_allclose(found.bits, [8, 8, 0, 0, 0, 0], atol=0.05)
    assert found.depth == 2 and abs(found.capacity - 16) < 0.1


def test_ridge_solves_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 5)), rng.standard_normal((50, 3))
    x, y = x - x.mean(0), y - y.mean(0)
    moments = memory.Moments.of(x, y)
    (weights,) = memory.ridge(moments, [0.3])
    gram = x.T @ x + 0.3 * x.var(0).mean() * len(x) * np.eye(5)
    np.testing.assert_allclose(weights, np.linalg.solve(gram, x.T @ y), atol=1e-10)
    expected = 1 - np.square(y - x @ weights).mean(0) / y.var(0)
    np.testing.assert_allclose(moments.explained(weights), expected, atol=1e-10)


def test_states_of_a_text_start_at_zero_and_do_not_depend_on_other_rows() -> None:
    model = build(RESERVOIR)
    assert not any(leaf.any() for leaf in jax.tree.leaves(nnx.state(model, StreamCarry)))
    x = memory.text_rows(np.arange(1000) % 256, 3, 256)
    assert x.shape == (3, 256) and x[-1, -1] == 999 % 256
    states = memory.collect_states(model, hparams_of(RESERVOIR), x)
    alone = memory.collect_states(model, hparams_of(RESERVOIR), x[1:2])
    np.testing.assert_allclose(states[1:2], alone, atol=1e-6)
