"""Properties of problems; baselines compared with closed forms and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.errors import ConfigError
from flaxae.models.looped import baselines, tables
from flaxae.models.looped.problems import (
    DEPTH,
    FUNCTIONS,
    NOISE,
    NONZERO,
    Problem,
    draw,
    inputs,
    linear_weights,
    scale,
)
from flaxae.models.looped.shifts import Shift, draw_shifted

KEY = jax.random.key(0)


def errors(baseline, problem: Problem, points: int, dims: int, rows: int) -> np.ndarray:
    """Return squared errors at the last of `points` + 1 points."""
    xs, ys = draw(problem, KEY, rows, points + 1, dims)
    answer = baseline(xs[:, :-1], ys[:, :-1], xs[:, -1])
    return np.square(np.asarray(answer) - np.asarray(ys[:, -1]))


def assert_mean(values: np.ndarray, expected: float) -> None:
    """Check that a mean is within four standard errors."""
    assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5


def test_noise_is_independent_of_the_weights():
    rows, dims = 200, 5
    noise = FUNCTIONS[Problem.NOISY](KEY, jnp.zeros((rows, dims, dims))) / NOISE
    weights = linear_weights(KEY, rows, dims)
    assert abs(np.corrcoef(np.ravel(noise), np.ravel(weights))[0, 1]) < 0.15
    assert np.std(noise) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("problem", [p for p in Problem if p is not Problem.TABLE])
def test_scale_is_the_variance_of_y(problem):
    _, ys = draw(problem, KEY, 4000, 4, 6)
    values = np.square(np.asarray(ys)).mean(1)
    assert_mean(values, scale(problem, 6) + (NOISE**2 if problem is Problem.NOISY else 0))


@pytest.mark.parametrize("problem", [Problem.LINEAR, Problem.SPARSE, Problem.RELU, Problem.TREE])
def test_scale_with_fewer_active_dimensions_is_the_variance_of_y(problem):
    _, ys = draw(problem, KEY, 8000, 4, 6, active=2)
    assert_mean(np.square(np.asarray(ys)).mean(1), float(scale(problem, 6, 2)))


def test_least_squares_explains_one_dimension_per_point():
    for k in (1, 3, 5):
        values = errors(baselines.least_squares, Problem.LINEAR, k, 6, 3000) / 6
        assert_mean(values, 1 - k / 6)
    assert errors(baselines.least_squares, Problem.LINEAR, 7, 6, 200).max() < 1e-3


def test_the_error_of_averaging_equals_its_closed_form():
    for k in (2, 10):
        values = errors(baselines.averaging, Problem.LINEAR, k, 5, 4000) / 5
        assert_mean(values, (5 + 1) / k)


def test_the_error_of_noisy_least_squares_equals_its_closed_form_and_ridge_is_better():
    k, d = 12, 5
    xs, ys = draw(Problem.NOISY, KEY, 4000, k + 1, d)
    clean = np.asarray(baselines.least_squares(*draw_clean(k, d)))
    answer = baselines.least_squares(xs[:, :-1], ys[:, :-1], xs[:, -1])
    excess = np.square(np.asarray(answer) - clean)
    assert_mean(excess, NOISE**2 * d / (k - d - 1))
    penalised = baselines.ridge(xs[:, :-1], ys[:, :-1], xs[:, -1])
    assert np.square(np.asarray(penalised) - clean).mean() < excess.mean()


def draw_clean(k, d):
    """Draw the same problems without noise, which least squares solves exactly."""
    function_key, input_key = jax.random.split(KEY)
    xs = inputs(input_key, 4000, k + 1, d)
    ys = FUNCTIONS[Problem.LINEAR](function_key, xs)
    return xs[:, :-1], ys[:, :-1], xs[:, -1]


def test_sparse_problems_have_three_nonzero_weights():
    xs = jnp.broadcast_to(jnp.eye(8)[None], (50, 8, 8))
    ys = FUNCTIONS[Problem.SPARSE](KEY, xs)
    assert (np.asarray(ys != 0).sum(1) == NONZERO).all()
    assert (np.asarray(ys != 0).sum(0) > 0).all()


def test_a_tree_is_a_function_of_signs_with_sixteen_leaves():
    xs = inputs(KEY, 30, 400, 5)
    ys = np.asarray(FUNCTIONS[Problem.TREE](KEY, xs))
    again = np.asarray(FUNCTIONS[Problem.TREE](KEY, jnp.sign(xs)))
    np.testing.assert_array_equal(ys, again)
    leaves = [len(np.unique(row)) for row in ys]
    assert max(leaves) <= 2**DEPTH and max(leaves) > 8


def test_inactive_dimensions_are_zero():
    xs, ys = draw(Problem.LINEAR, KEY, 3, 4, 6, jnp.int32(2))
    assert not np.asarray(xs[..., 2:]).any() and np.asarray(xs[..., :2]).all()
    whole, _ = draw(Problem.LINEAR, KEY, 3, 4, 6)
    np.testing.assert_array_equal(xs[..., :2], whole[..., :2])


def test_ridge_lasso_and_neighbours_equal_scikit_learns():
    from sklearn.linear_model import Lasso, Ridge
    from sklearn.neighbors import KNeighborsRegressor

    xs, ys = draw(Problem.NOISY, KEY, 6, 9, 4)
    prompt = (xs[:, :-1], ys[:, :-1], xs[:, -1])
    makers = {
        "ridge": (
            lambda *p: baselines.ridge(*p, penalty=0.7),
            lambda: Ridge(0.7, fit_intercept=False),
        ),
        "lasso": (
            lambda *p: baselines.lasso(*p, penalty=0.2),
            lambda: Lasso(0.2, fit_intercept=False, tol=1e-8, max_iter=10000),
        ),
        "nearest": (baselines.nearest, lambda: KNeighborsRegressor(3)),
    }
    rows = list(zip(*map(np.asarray, prompt), strict=True))
    for name, (ours, theirs) in makers.items():
        expected = [theirs().fit(x, y).predict(q[None])[0] for x, y, q in rows]
        np.testing.assert_allclose(ours(*prompt), expected, atol=2e-4, err_msg=name)


def test_trees_and_boosting_predict_a_known_point():
    xs, ys = draw(Problem.TREE, KEY, 3, 9, 4)
    for baseline in (baselines.greedy_tree, baselines.boosting):
        answer = baseline(xs, ys, xs[:, 2])
        np.testing.assert_allclose(answer, ys[:, 2], atol=0.1)


def test_the_network_fits_its_prompt():
    xs, ys = draw(Problem.RELU, KEY, 3, 6, 3)
    answer = baselines.network(xs, ys, xs[:, 1], steps=300)
    np.testing.assert_allclose(answer, ys[:, 1], atol=0.2)


@pytest.mark.parametrize("shift", list(Shift))
def test_shifts_have_their_distributions(shift):
    (xs, ys), unit = draw_shifted(shift, KEY, 2000, 7, 4)
    xs, ys = np.asarray(xs), np.asarray(ys)
    query, prompt = xs[:, -1], xs[:, :-1]
    assert_mean(np.square(ys[:, -1]), float(unit))
    match shift:
        case Shift.QUADRANTS:
            assert (np.sign(prompt) == np.sign(prompt[:, :1])).all()
            assert (np.sign(query) == -np.sign(prompt[:, 0])).all()
        case Shift.ORTHOGONAL:
            assert xs.shape[1] == 4
            assert np.abs(np.einsum("bnd,bd->bn", prompt, query)).max() < 1e-3
        case Shift.HALF_SUBSPACE:
            assert (np.linalg.matrix_rank(xs, tol=1e-3) == 2).all()
        case Shift.SKEWED:
            # The variance summed over dimensions equals that of training.
            assert_mean(np.square(xs).sum(-1).mean(1), 4.0)
        case Shift.NOISE:
            exact = np.asarray(baselines.least_squares(prompt, ys[:, :-1], query))
            assert 0.5 < np.square(exact - ys[:, -1]).mean()


def test_prompts_are_read_from_table_files(tmp_path):
    rng = np.random.default_rng(0)
    for name, columns in (("a", 2), ("b", 6)):
        x = rng.normal(size=(30, columns))
        rows = np.column_stack([x, x @ np.arange(1, columns + 1)])
        header = ",".join([f"x{i}" for i in range(columns)] + ["y"])
        np.savetxt(tmp_path / f"{name}.csv", rows, delimiter=",", header=header, comments="")
    read = tables.read(str(tmp_path), 8)
    assert read.rows.tolist() == [30, 30] and read.columns.tolist() == [2, 6]
    np.testing.assert_allclose(read.values[0, :, :3].std(0), 1, atol=1e-5)
    source = tables.TableSource(read, 16, 8, 4, 0, None)
    batch = source.batch(3)
    np.testing.assert_array_equal(batch["xs"], source.batch(3)["xs"])
    assert not np.array_equal(batch["xs"], source.batch(4)["xs"])
    evaluated = tables.TableSource(read, 16, 8, 4, 0, 5).batch(3)
    assert not np.array_equal(batch["xs"], evaluated["xs"])  # not the prompts of training
    assert {k: v.shape for k, v in batch.items()} == {"xs": (16, 8, 4), "ys": (16, 8)}
    narrow = ~batch["xs"][..., 2:].any((1, 2))
    assert 0 < narrow.sum() < 16
    # The narrow table is exactly linear, so no rows or columns were mixed.
    xs, ys = batch["xs"][narrow][..., :2], batch["ys"][narrow]
    answer = baselines.least_squares(jnp.asarray(xs), jnp.asarray(ys), jnp.asarray(xs[:, 0]))
    np.testing.assert_allclose(answer, ys[:, 0], atol=1e-4)


def test_a_table_without_a_header_keeps_its_first_row(tmp_path):
    path = tmp_path / "a.csv"
    for head, rows, note in (
        ("", 4, "no header"),
        ("x,y\n", 4, "read as the header: x, y"),
        ("0,1\n", 4, "read as the header: 0, 1"),
        ("1.5,2\n", 5, "no header"),
        ("x1,x1\n", 4, "read as the header: x1, x1.1"),
    ):
        path.write_text(f"{head}1,2\n3,5\n5,1\n7,True\n")
        read = tables.read(str(path), 4)
        assert read.rows.tolist() == [rows] and any(note in found for found in read.notes)
    path.rename(tmp_path / "a.tsv").write_text("1\t2\n3\t5\n5\t1\n")
    (tmp_path / "b.json").write_text("[]")
    (tmp_path / ".c.csv").write_text("x")
    read = tables.read(str(tmp_path), 3)
    assert read.rows.tolist() == [3] and f"{tmp_path}: not used: b.json" in read.notes[0]
    (tmp_path / "a.tsv").rename(tmp_path / "test.tsv")
    assert "test.tsv are used like the other tables" in tables.read(str(tmp_path), 3).notes[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,y\n1,2\n3,\n5,1\n", "missing: '' in row 2 of column 'y'"),
        ("x,y\n1,2\n3,NA\n5,1\n", "'NA' in row 2 of column 'y'"),
        ("x,y\n1,2\ninf,4\n5,1\n", "'inf' in row 2 of column 'x'"),
        ("x,y\n2020-01-01,2\n", "'2020-01-01' in row 1 of column 'x'"),
        ("x,y\n1,2\n3,4,5\n", "line 3: 3 fields"),
        ("", "is empty"),
    ],
)
def test_values_that_are_no_numbers_are_named(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ConfigError, match=message):
        tables.read(str(tmp_path), 1)


def test_invalid_tables_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no .csv"):
        tables.read(str(tmp_path), 4)
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    with pytest.raises(ConfigError, match="2 rows"):
        tables.read(str(tmp_path), 4)
    (tmp_path / "a.csv").write_text("x,y\n1,a\n3,b\n5,c\n")
    with pytest.raises(ConfigError, match="numbers"):
        tables.read(str(tmp_path), 2)
