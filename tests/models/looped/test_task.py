"""The task in the training loop: lanes, curricula, random depth, meshes, one compilation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import flaxae
from flaxae.config import copy_config
from flaxae.errors import ConfigError
from flaxae.machine import sharding
from flaxae.models.looped import problems
from flaxae.models.looped.depth import grown, random_loops
from flaxae.models.looped.modeling import LoopedTransformer
from flaxae.models.looped.problems import ProblemBatch
from flaxae.models.looped.task import LoopedTask
from flaxae.sweep import group_by_shape
from flaxae.task import Context
from flaxae.training import step as train_step
from flaxae.training.hparams import make_hparams
from flaxae.training.layout import make_layout
from flaxae.training.loop import Loop, run
from flaxae.training.setup import make_setup
from flaxae.training.state import make_state
from tests.helpers import arrays_of, assert_same, log_of
from tests.models.looped.tiny import tiny_config

LANES = [
    {"seed": 0, "task.loops": 3, "task.grad_loops": 2},
    {"seed": 1, "task.loops": 5, "task.grad_loops": 1},
    {"seed": 2, "task.loops": 1, "task.grad_loops": 3, "optim.lr": 1e-3},
]


def context(step: int = 0, train: bool = True, **hparams) -> Context:
    named = {k: jnp.int32(v) for k, v in hparams.items()}
    return Context(jax.random.key(3), jnp.int32(step), hparams=named, train=train)


@pytest.mark.slow
def test_lanes_with_different_b_and_t_equal_single_runs(tmp_path):
    config = tiny_config(task__max_grad_loops=3)
    result = run(config, tmp_path / "lanes", LANES)
    for i, overrides in enumerate(LANES):
        single = copy_config(config, overrides)
        run(single, tmp_path / f"{i}")
        lane = tmp_path / "lanes" / "lanes" / f"{i:02d}"
        assert_same(arrays_of(lane), arrays_of(tmp_path / f"{i}"), atol=1e-5)
        dev = [r for r in log_of(tmp_path / f"{i}") if r["split"] == "dev"][-1]
        assert dev["error"] == pytest.approx(result.metrics["dev/error"][i], rel=1e-4)
    assert flaxae.load(lane).config.task.grad_loops == 3


def test_a_lane_cannot_have_more_gradient_loops_than_are_compiled(tmp_path):
    with pytest.raises(ConfigError, match="max_grad_loops=3"):
        run(tiny_config(task__max_grad_loops=3), tmp_path / "a", [{}, {"task.grad_loops": 4}])
    with pytest.raises(ConfigError, match="grad_loops"):
        run(tiny_config(), tmp_path / "b", [{"task.grad_loops": 4}])


def test_a_sweep_separates_runs_of_different_depth():
    runs = [{"task.loops": b, "seed": s} for b in (3, 5) for s in (0, 1)]
    assert group_by_shape(tiny_config(), runs) == [[0, 1], [2, 3]]


def test_growing_b_needs_one_program(tmp_path):
    growth = {"task__loops": 9, "task__loops_by": 3, "task__loops_every": 2}
    config = tiny_config(steps=6, log__every=1, **growth)
    config.freeze()
    with Loop(make_setup(config, tmp_path / "w")) as loop:
        loop.train()
        assert loop.step_fn._cache_size() == 1
    loops = [r["loops"] for r in log_of(tmp_path / "w") if r["split"] == "train"]
    assert loops == [1, 1, 4, 4, 7, 7]


def test_grown_numbers_stop_at_their_end():
    values = [int(grown(jnp.int32(s), 5, 8, 2, 10)) for s in (0, 9, 10, 19, 20, 500)]
    assert values == [5, 5, 7, 7, 8, 8]
    assert int(grown(jnp.int32(0), 5, 8, 2, 0)) == 8


def test_random_loops_have_their_mean_and_bounds():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(lambda k: random_loops(k, 12, 0.5, 60))(keys))
    assert abs(drawn.mean() - 12) < 5 * drawn.std() / 4000**0.5
    assert drawn.min() >= 1 and drawn.max() <= 60 and drawn.std() > 12**0.5
    few = np.asarray(jax.vmap(lambda k: random_loops(k, 12, 0.5, 8))(keys))
    assert few.max() == 8


def test_random_depth_is_used_in_training_but_not_in_evaluation(tmp_path):
    run(tiny_config(task__random_loops=True, log__every=1), tmp_path / "w")
    rows = [r["loops"] for r in log_of(tmp_path / "w") if r["split"] == "train"]
    assert len(set(rows)) > 1
    task = tiny_config(task__random_loops=True).task.make(tiny_config())
    assert int(task.loops(context(train=False, loops=3))) == 3


def test_a_lane_of_another_depth_draws_the_same_b_as_a_single_run():
    options = {"task__random_loops": True, "task__random_sigma": 1.5}
    base, single = tiny_config(task__loops=3, **options), tiny_config(task__loops=9, **options)
    for seed in range(20):
        ctx = dataclasses.replace(context(loops=9), key=jax.random.key(seed))
        assert int(base.task.make(base).loops(ctx)) == int(single.task.make(single).loops(ctx))


def test_random_b_does_not_exceed_max_loops():
    config = tiny_config(task__random_loops=True, task__loops=9, task__max_loops=10)
    task = config.task.make(config)
    contexts = [dataclasses.replace(context(), key=jax.random.key(seed)) for seed in range(20)]
    assert max(int(task.loops(ctx)) for ctx in contexts) == 10


def test_held_out_tables_are_used_in_evaluation_only(tmp_path):
    for name, target in (("train", 1.0), ("held_out", -1.0)):
        x = np.linspace(-1, 1, 8)
        rows = np.column_stack([x, target * x])
        np.savetxt(tmp_path / f"{name}.csv", rows, delimiter=",", header="x,y", comments="")
    config = tiny_config(
        task__problem="table",
        task__tables=str(tmp_path / "train.csv"),
        task__held_out_tables=str(tmp_path / "held_out.csv"),
    )
    task = config.task.make(config)
    for split, sign in (("train", 1.0), ("dev", -1.0)):
        batch = task.data(split).batch(0)
        np.testing.assert_allclose(batch["ys"], sign * batch["xs"][..., 0], atol=1e-6)


def test_a_curriculum_of_points_equals_a_shorter_prompt():
    config = tiny_config(task__points_start=2, task__points_by=1, task__points_every=10)
    value, grads = loss_and_gradient(config, step=0)
    short = tiny_config(task__model__points=2)
    expected, wanted = loss_and_gradient(short, step=0, cut=2)
    assert value == pytest.approx(expected, rel=1e-5)
    for name, grad in wanted.items():
        np.testing.assert_allclose(grads[name][: len(grad)], grad, atol=1e-5, err_msg=name)
    # Positions after the prompt's end are not trained.
    assert not np.asarray(grads["positions"][4:]).any()


def test_a_curriculum_of_dimensions_equals_a_narrower_problem():
    config = tiny_config(task__model__dims=4, task__dims_start=2, task__dims_every=10)
    value, grads = loss_and_gradient(config, step=0)
    expected, wanted = loss_and_gradient(tiny_config(), step=0, cut=2)
    assert value == pytest.approx(expected, rel=1e-5)
    for name, grad in wanted.items():
        np.testing.assert_allclose(grads[name][: len(grad)], grad, atol=1e-5, err_msg=name)
    assert not np.asarray(grads["read_in/kernel"][2:]).any()


def loss_and_gradient(config, step, cut=0):
    """Return loss and gradient of one model and one batch, both cut to the config's sizes."""
    model = config.task.model
    wide = LoopedTransformer(tiny_config(task__model__dims=4).task.model, rngs=nnx.Rngs(0))
    whole = dict(nnx.to_flat_state(nnx.split(wide)[1]))
    graphdef, own = nnx.split(LoopedTransformer(model, rngs=nnx.Rngs(1)))
    cut_to = {p: v.replace(whole[p][...][: v.shape[0]]) for p, v in nnx.to_flat_state(own)}
    params = nnx.State.from_flat_path(cut_to)

    class Fixed(LoopedTask):
        def draw(self, batch, ctx, active=None):
            xs, _ = problems.draw(problems.Problem.LINEAR, jax.random.key(1), 16, 4, 4)
            weights = jax.random.normal(jax.random.key(2), (16, 4), jnp.float32)
            limit = cut or active
            if model.dims < 4 or active is not None:
                dims = 2 if limit is None else limit
                xs = jnp.where((jnp.arange(4) < dims)[None, None], xs, 0.0)
            xs = xs[:, : model.points]
            return ProblemBatch(xs[..., : model.dims], jnp.einsum("bnd,bd->bn", xs, weights))

    task = Fixed(config)

    def loss(params):
        out = task.loss(nnx.merge(graphdef, params), {}, context(step))
        return out.total / out.weight

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    flat = {"/".join(map(str, p)): v[...] for p, v in nnx.to_flat_state(grads)}
    return float(value), flat


@pytest.mark.usefixtures("split_small")
@pytest.mark.slow
def test_eight_devices_equal_one(tmp_path):
    one, eight = tiny_config(), tiny_config(mesh__replica=2, mesh__fsdp=4)
    a, b = run(one, tmp_path / "one"), run(eight, tmp_path / "eight")
    assert_same(arrays_of(tmp_path / "one"), arrays_of(tmp_path / "eight"), atol=1e-5)
    assert a.metrics["dev/error"] == pytest.approx(b.metrics["dev/error"], rel=1e-4)


def test_drawn_problems_are_split_over_the_devices():
    config = tiny_config(data__batch_size=32, mesh__replica=2, mesh__fsdp=4)
    task = config.task.make(config)
    with jax.set_mesh(sharding.make_mesh(config.mesh)):
        drawn = jax.jit(lambda: tuple(task.draw({}, context()))).lower().compile().output_shardings
    assert [x.spec for x in drawn] == 2 * [P(("replica", "fsdp"))]


def test_training_with_accumulation_is_finite(tmp_path):
    result = run(tiny_config(accumulate=2), tmp_path / "w")
    assert np.isfinite(result.metrics["dev/error"])


def test_evaluation_measures_errors_by_point_and_by_loop():
    config = tiny_config()
    task = config.task.make(config)
    model = task.init(nnx.Rngs(0))
    sums = task.eval_step(model, {}, context(train=False, loops=4))
    for name, value in task.finalize(sums).items():
        assert np.isfinite(value), name
    totals, rows = sums["error_by_loop"]
    assert totals.shape == (5,) and sums["error_by_point"][0].shape == (4,)
    np.testing.assert_allclose(totals[3] / rows, sums["error"][0] / rows, rtol=1e-5)
    np.testing.assert_allclose(sums["error_by_point"][0][-1], sums["error"][0], rtol=1e-5)


def test_flops_equal_those_of_the_compiled_step():
    sizes = {"data__batch_size": 64, "task__model__width": 64, "task__model__points": 16}
    config = tiny_config(**sizes, task__loops=1, task__grad_loops=1)
    task = config.task.make(config)
    layout = make_layout(task, config)
    update = train_step.make_update(task, config, layout)
    hparams = make_hparams(task, [config], False)
    state = jax.eval_shape(lambda: make_state(task, config, hparams))
    compiled = jax.jit(update).lower(state, {}, {}, hparams).compile()
    # XLA counts the body of the loops without gradient once, but it runs b - T = 0 times.
    counted = compiled.cost_analysis()["flops"] * 3 / 4
    assert task.flops({}, {}) == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(
    "overrides, word",
    [
        ({"task__loops": 0}, "task.loops=0"),
        ({"task__grad_loops": 5, "task__max_grad_loops": 4}, "max_grad_loops"),
        ({"task__problem": "sparse"}, "sparse"),
        ({"task__problem": "table"}, "task.tables"),
        ({"task__model__num_heads": 3}, "num_heads"),
    ],
)
def test_mistakes_in_the_config_are_named(overrides, word):
    with pytest.raises(ConfigError, match=word):
        tiny_config(**overrides).freeze()
    assert dataclasses.is_dataclass(tiny_config())
