"""Greedy, sampling and beam search with toy step functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae import decoding
from flaxae.decoding import Sampling, beam, generate, greedy, sample
from flaxae.errors import ConfigError

EOS = 1


def counting(last, cache, index):
    """Count up from the last id; the id at a row's length is eos = 1."""
    ends, calls = cache
    new = jnp.where(index + 1 == ends, 1, last + 1)
    return jax.nn.one_hot(new, 32), (ends, calls + 1)


def table_step(table):
    """Return a step whose next id has the probabilities table[last]."""
    logits = jnp.log(jnp.maximum(jnp.asarray(table, jnp.float32), 1e-9))
    return lambda last, cache, index: (logits[last], cache)


def test_best_id_equals_argmax():
    scores = jax.random.normal(jax.random.key(0), (7, 300))
    scores = scores.at[1].set(0.5)  # equal scores: the first one counts
    scores = scores.at[2, 5:].set(9.0).at[3, 40].set(jnp.nan).at[3, 30].set(jnp.inf)
    scores = scores.at[4, 299].set(jnp.inf).at[5].set(-jnp.inf).at[6].set(jnp.nan)
    expected = jnp.argmax(scores, axis=-1)
    assert expected[jnp.array([1, 2, 3, 4, 5, 6])].tolist() == [0, 5, 40, 299, 0, 0]
    for find in (decoding.best_id, jax.jit(decoding.best_id)):
        np.testing.assert_array_equal(find(scores), expected)


def test_draw_id_equals_jax_categorical():
    keys = jax.random.split(jax.random.key(3), 50)
    logits = 2 * jax.random.normal(jax.random.key(4), (50, 40))
    logits = decoding.mask_unused(logits, 30)
    drawn = jax.jit(decoding.draw_id)(keys, logits)
    expected = jax.jit(jax.vmap(jax.random.categorical))(keys, logits)
    np.testing.assert_array_equal(drawn, expected)
    assert len(set(drawn.tolist())) > 10 and drawn.max() < 30


# Id 0 starts. Greedy takes 2 (.6), whose sequences have at most .6 x .5 x .5; 3 (.4) always ends.
GARDEN = [
    [0, 0, 0.6, 0.4, 0, 0],
    [0, 1, 0, 0, 0, 0],
    [0, 0.2, 0, 0, 0.5, 0.3],
    [0, 1, 0, 0, 0, 0],
    [0, 0.5, 0, 0, 0, 0.5],
    [0, 1, 0, 0, 0, 0],
]


def random_step(seed=0, size=12):
    """Return a step of random transitions whose cache must follow its row: the sum of its ids."""
    table = 3 * jax.random.normal(jax.random.key(seed), (size, size))

    def step(last, cache, index):
        total = cache["rows"]["total"] + last
        layers = jax.lax.dynamic_update_slice_in_dim(
            cache["layers"]["seen"],
            jnp.broadcast_to(last[None, :, None], (2, len(last), 1)),
            index,
            2,
        )
        # The whole cache is read: a beam with the cache of another one has different scores.
        code = total + layers[0].sum(-1) + layers[1].sum(-1)
        return table[code % size], {"layers": {"seen": layers}, "rows": {"total": total}}

    def cache(rows, length=10):
        return {
            "layers": {"seen": jnp.zeros((2, rows, length), jnp.int32)},
            "rows": {"total": jnp.arange(rows)},
        }

    return step, cache


AXES = {"layers": 1, "rows": 0}


def test_every_row_ends_separately_and_is_padded():
    cache = (jnp.asarray([1, 3, 5]), jnp.int32(0))
    ids = jax.jit(lambda c: greedy(counting, c, jnp.asarray([4, 9, 14]), 8, eos=1))(cache)
    expected = [[1, 0, 0, 0, 0, 0, 0, 0], [10, 11, 1, 0, 0, 0, 0, 0], [15, 16, 17, 18, 1, 0, 0, 0]]
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1e-4), Sampling(beams=2)], ids=str
)
def test_the_loop_stops_when_all_rows_have_ended(sampling):
    calls = []

    def step(last, cache, index):
        jax.debug.callback(lambda i: calls.append(int(i)), index)
        logits, cache = counting(last, (cache["ends"], 0), index)
        if sampling.beams > 1:  # a second end, so that both beams end in the third iteration
            logits = jnp.where(index == 2, logits.at[:, 1].set(9.0), logits)
        return logits, {"ends": cache[0]}

    def run():
        cache, key = {"ends": jnp.asarray([2, 3])}, jax.random.key(0)
        return generate(step, cache, jnp.asarray([2, 2]), 30, sampling, key, eos=1)

    jax.block_until_ready(jax.jit(run)())
    jax.effects_barrier()
    assert sorted(calls) == [0, 1, 2]


def test_a_row_without_end_is_cut_at_max_length():
    cache = (jnp.asarray([99]), jnp.int32(0))
    ids = greedy(counting, cache, jnp.asarray([2]), 4, eos=1)
    np.testing.assert_array_equal(ids, [[3, 4, 5, 6]])
    step = table_step(np.eye(6)[[2, 1, 4, 1, 2, 1]])  # 0 -> 2 -> 4 -> 2 ... never ends
    ids = beam(step, {}, jnp.zeros(1, jnp.int32), 4, beams=2, eos=EOS)
    np.testing.assert_array_equal(ids, [[2, 4, 2, 4]])


def test_beam_search_finds_a_sequence_that_greedy_misses():
    step, start = table_step(GARDEN), jnp.zeros(2, jnp.int32)
    np.testing.assert_array_equal(greedy(step, {}, start, 5, eos=EOS)[0], [2, 4, 1, 0, 0])
    found = beam(step, {}, start, 5, beams=3, length_penalty=0.0, eos=EOS)
    np.testing.assert_array_equal(found, [[3, 1, 0, 0, 0]] * 2)  # .4 against .18, .15, .12


def test_the_length_penalty_changes_the_length():
    # 2 1: .5 x .8 = .4, or 3 4 5 1: .5 x .9 x .9 x .9 = .3645.
    table = np.full((6, 6), 1e-9)
    table[0, [2, 3]] = 0.5
    table[2, [1, 5]] = 0.8, 0.2
    table[3, [4, 2]] = 0.9, 0.1
    table[4, [5, 2]] = 0.9, 0.1
    table[5, [1, 2]] = 0.9, 0.1
    step, start = table_step(table), jnp.zeros(1, jnp.int32)
    search = jax.jit(lambda a: beam(step, {}, start, 6, beams=2, length_penalty=a, eos=EOS))
    np.testing.assert_array_equal(search(0.0), [[2, 1, 0, 0, 0, 0]])  # .4
    np.testing.assert_array_equal(search(1.0), [[3, 4, 5, 1, 0, 0]])  # log .3645 / 4 > log .4 / 2
    assert search._cache_size() == 1


@pytest.fixture(scope="module")
def greedy_ids():
    step, cache = random_step()
    return greedy(step, cache(6), jnp.zeros(6, jnp.int32), 10, eos=EOS)


def test_one_beam_is_greedy(greedy_ids):
    step, cache = random_step()
    ids = beam(step, cache(6), jnp.zeros(6, jnp.int32), 10, beams=1, eos=EOS, cache_axes=AXES)
    np.testing.assert_array_equal(ids, greedy_ids)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.0, top_p=1e-6),
        Sampling(temperature=1e-5),
        Sampling(temperature=0.0),
        Sampling(top_k=3),
    ],
    ids=str,
)
def test_sampling_from_one_id_is_greedy(sampling, greedy_ids):
    step, cache = random_step()
    start, key = jnp.zeros(6, jnp.int32), jax.random.key(3)
    ids = generate(step, cache(6), start, 10, sampling, key, eos=EOS, cache_axes=AXES)
    np.testing.assert_array_equal(ids, greedy_ids)


def exhaustive(step, cache, length, size):
    """Return log-probability and ids of one row's best sequence that ends."""
    import itertools

    best = (-np.inf, ())
    call = jax.jit(step)
    states = {(): (cache, 0.0, 0)}
    for index in range(length):
        grown = {}
        for ids, (at, score, last) in states.items():
            logits, after = call(jnp.full(1, last, jnp.int32), at, jnp.int32(index))
            logp = np.asarray(jax.nn.log_softmax(logits[0]))
            best = max(best, (score + logp[EOS], (*ids, EOS)))
            others = itertools.chain(range(EOS), range(EOS + 1, size))
            grown |= {(*ids, i): (after, score + logp[i], i) for i in others}
        states = grown
    return best


def test_many_beams_find_the_best_of_all_sequences():
    """Check that the cache follows its beam: this step reads all of it."""
    step, cache = random_step(seed=5, size=5)
    ids = beam(
        step,
        cache(3, 3),
        jnp.zeros(3, jnp.int32),
        3,
        beams=80,
        length_penalty=0.0,
        eos=EOS,
        cache_axes=AXES,
    )
    for row in range(3):
        own = jax.tree.map(lambda x: x, cache(3, 3))
        own = {
            "layers": {"seen": own["layers"]["seen"][:, row : row + 1]},
            "rows": {"total": own["rows"]["total"][row : row + 1]},
        }
        expected = exhaustive(step, own, 3, 5)[1]
        assert tuple(ids[row][: len(expected)].tolist()) == expected


@pytest.mark.parametrize("sampling", [Sampling(temperature=1.0), Sampling(beams=3)], ids=str)
def test_a_row_does_not_depend_on_the_others(sampling):
    step, cache = random_step(seed=2)

    def run(rows):
        start, key = jnp.zeros(rows, jnp.int32), jax.random.key(0)
        return generate(step, cache(rows), start, 10, sampling, key, eos=EOS, cache_axes=AXES)

    np.testing.assert_array_equal(run(6)[:2], run(2))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)], ids=str)
def test_dropping_rows_that_ended_does_not_change_ids(sampling):
    inner, cache = random_step(seed=4)
    rows, sizes = 4 * decoding.FEWEST_ROWS, []

    def step(last, cache, index):
        logits, cache = inner(last, cache, index)
        return logits.at[:, EOS].add(3.0), cache

    def counted(last, cache, index):
        jax.debug.callback(lambda x: sizes.append(len(x)), last)
        return step(last, cache, index)

    def run(call, drop):
        start, key = jnp.zeros(rows, jnp.int32), jax.random.key(0)
        options = {"eos": EOS, "cache_axes": AXES, "drop_ended": drop}
        return jax.jit(lambda: generate(call, cache(rows), start, 10, sampling, key, **options))()

    np.testing.assert_array_equal(run(counted, True), run(step, False))
    jax.effects_barrier()
    assert set(sizes) >= {rows, rows // 2}


def test_frequencies_match_the_softmax():
    probabilities = np.array([0, 0, 0.5, 0.3, 0.15, 0.05])
    table = np.tile(probabilities, (6, 1))
    rows = 4000

    def share(sampling):
        step, start, key = table_step(table), jnp.zeros(rows, jnp.int32), jax.random.key(1)
        run = jax.jit(lambda s: sample(step, {}, start, 2, key=key, sampling=s, eos=EOS))
        return np.bincount(np.asarray(run(sampling)).ravel(), minlength=6) / (2 * rows)

    np.testing.assert_allclose(share(Sampling(temperature=1.0)), probabilities, atol=0.02)
    hotter = probabilities**0.5 / (probabilities**0.5).sum()
    np.testing.assert_allclose(share(Sampling(temperature=2.0)), hotter, atol=0.02)
    top2 = np.array([0, 0, 0.625, 0.375, 0, 0])
    np.testing.assert_allclose(share(Sampling(temperature=1.0, top_k=2)), top2, atol=0.02)
    nucleus = np.array([0, 0, 0.5, 0.3, 0.15, 0]) / 0.95
    np.testing.assert_allclose(share(Sampling(temperature=1.0, top_p=0.9)), nucleus, atol=0.02)


def test_the_nucleus_contains_the_fewest_ids_of_its_probability():
    logits = jnp.log(jnp.asarray([[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25]]))

    def kept(top_p):
        return (decoding.nucleus(logits, top_p) > decoding.NEVER).sum(-1).tolist()

    assert kept(0.01) == [1, 1]
    assert kept(0.5) == [1, 2]  # .5 is reached by one, or by two quarters
    assert kept(0.51) == [2, 3]
    assert kept(0.8) == [3, 4]
    assert kept(0.9999) == [4, 4]


def test_other_sampling_values_do_not_recompile():
    step, cache = random_step()
    start, key = jnp.zeros(6, jnp.int32), jax.random.key(3)
    run = jax.jit(lambda s: generate(step, cache(6), start, 5, s, key, eos=EOS, cache_axes=AXES))
    for temperature, top_p in ((1.0, 0.9), (0.5, 0.8), (2.0, 0.1)):
        run(Sampling(temperature=temperature, top_p=top_p))
    assert run._cache_size() == 1


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"beams": 0},
        {"beams": 2, "temperature": 1.0},
    ],
    ids=str,
)
def test_invalid_sampling_is_an_error(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Sampling(**options)


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_joined_parts_equal_the_ids_of_one_loop(temperature):
    step, cache = random_step()
    start, key = jnp.zeros(6, jnp.int32), jax.random.key(0)
    sampling = Sampling(temperature=temperature)
    free = generate(step, cache(6), start, 10, sampling, key, eos=99, cache_axes=AXES)
    eos = (int(free[0, 3]), int(free[5, 5]))
    whole = generate(step, cache(6), start, 10, sampling, key, eos=eos, cache_axes=AXES)
    state = {"last": start, "cache": cache(6), "done": jnp.zeros(6, bool), "index": jnp.int32(0)}
    choose, parts = decoding.chooser(sampling, key), []
    for steps in (3, 3, 4):
        ids, state = decoding.advance(step, choose, state, steps, eos=eos)
        parts.append(ids)
    np.testing.assert_array_equal(jnp.concatenate(parts, axis=1), whole)
    ends = [(np.asarray(whole) == end).any(axis=1) for end in eos]
    assert all(x.any() for x in ends) and np.array_equal(ends[0] | ends[1], state["done"])


def test_each_of_several_end_ids_ends_a_row():
    def step(last, cache, index):
        return jax.nn.one_hot(last + 1, 32), cache

    ids = greedy(step, None, jnp.asarray([2, 5]), 6, eos=(4, 8))
    np.testing.assert_array_equal(ids, [[3, 4, 0, 0, 0, 0], [6, 7, 8, 0, 0, 0]])
    ids = beam(step, {}, jnp.asarray([2, 5]), 6, beams=2, eos=(4, 8))
    assert ids[0, :2].tolist() == [3, 4] and ids[1, :3].tolist() == [6, 7, 8]
