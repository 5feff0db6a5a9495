"""Interpolation between codes, against values computed by hand."""

import numpy as np

from flaxae.text_autoencoder.interpolation import (
    lerp,
    lerp_at,
    path_codes,
    reencoded,
    slerp,
    slerp_at,
)


def test_slerp_keeps_ends_and_length():
    a, b = np.asarray([3.0, 0, 0]), np.asarray([0, 3.0, 0])
    path = slerp(a, b, 5)
    np.testing.assert_allclose(path[[0, -1]], [a, b], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 3, rtol=1e-5)
    np.testing.assert_allclose(slerp(a, a, 3), [a] * 3, atol=1e-6)
    assert np.isfinite(slerp(a, -a, 3)).all()
    assert slerp(np.ones((2, 4)), np.zeros((2, 4)), 3).shape == (3, 2, 4)


def test_lerp_is_linear():
    path = lerp(np.zeros((1, 2)), np.ones((1, 2)), 3)
    np.testing.assert_allclose(path, [[[0, 0]], [[0.5, 0.5]], [[1, 1]]])


def test_slerp_rotates_evenly_and_accepts_opposite_ends() -> None:
    path = slerp(np.asarray([1.0, 0.0]), np.asarray([0.0, 2.0]), 3)
    np.testing.assert_allclose(path[1], 1.5 * np.asarray([0.5, 0.5]) ** 0.5, atol=1e-6)
    opposite = slerp(np.asarray([1.0, 0.0]), np.asarray([-1.0, 0.0]), 3)
    np.testing.assert_allclose(opposite, [[1, 0], [0, 0], [-1, 0]], atol=1e-6)


def test_fractions_are_points_of_the_path() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    for at, path in ((slerp_at, slerp), (lerp_at, lerp)):
        np.testing.assert_array_equal(at(a, b, np.asarray([0.25, 0.5])), path(a, b, 5)[1:3])
    np.testing.assert_allclose(slerp_at(a, -a, np.asarray([0.25]))[0], a / 2, atol=1e-6)


def test_the_code_of_an_empty_text_stays_on_a_denoised_path() -> None:
    def decode(codes):
        return [" " if x[0, 0] < 0 else str(round(float(x[0, 0]))) for x in codes]

    def again(codes):
        return reencoded(codes, decode, lambda texts: np.asarray([float(x) for x in texts]))

    codes = np.asarray([[[1.2]], [[-1.0]], [[2.9]]], np.float32)  # (n, 1, 1)
    np.testing.assert_array_equal(again(codes)[:, 0, 0], [1, -1, 3])
    np.testing.assert_array_equal(again(codes[1:2]), codes[1:2])
    fractions = np.linspace(0, 1, 4)
    ends = np.asarray([[0.4]], np.float32), np.asarray([[4.4]], np.float32)
    found = path_codes("denoised", *ends, fractions, again=again)[:, 0, 0]
    np.testing.assert_allclose(found, [0.4, 2, 3, 4.4], rtol=1e-6)
