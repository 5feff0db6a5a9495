"""Figures have units and normalisation on their axes, a mark at b, and two formats."""

import numpy as np

from flaxae.models.looped import figures

LOOPS = [
    {"by_loop": [1.0, 0.5, 0.4, 0.45], "loops": 3},
    {"by_loop": [1.0, 0.6, 0.2, 0.3], "loops": 3},
]
CURVE = [{"steps": list(range(10, 110, 10)), "error": [1.0] * 5 + [0.1] * 5}] * 2


def texts(path):
    return path.with_suffix(".svg").read_text()


def test_errors_by_loop_have_a_mark_and_a_band(tmp_path):
    files = figures.by_loop({"b=3": LOOPS, "other": LOOPS}, tmp_path / "f", "QUICK")
    assert [f.suffix for f in files] == [".png", ".svg"]
    image = figures.pixels(files[0])
    assert image.dtype == np.uint8 and image.shape[2] == 3 and image.std() > 5
    for words in ("variance of y", "b, the loops of training", "b=3", "other", "QUICK"):
        assert f"<!-- {words}" in texts(tmp_path / "f") or words in texts(tmp_path / "f")


def test_every_figure_draws(tmp_path):
    kinds = ("first", "last", "first_and_query")
    masks = {kind: {"error": [1.0, 0.5], "error_3b": [1.0, 0.6]} for kind in kinds}
    samples = {
        "loops": LOOPS,
        "curve": CURVE,
        "masks": [masks | {"counts": [0, 7], "one_loop": 1.0}] * 2,
        "probes": [{"by_depth": [1.0, 0.5], "unit": "layer"}] * 2,
        "halting": [{"rows": [[0.1, 0.5, 3.0], [0.2, 0.6, 2.0]], "loops": 4, "whole": 0.4}] * 2,
    }
    for name, (make, measure) in figures.FIGURES.items():
        make({"a run": samples[measure]}, tmp_path / name)
        assert "a run" in texts(tmp_path / name), name


def test_sixteen_lines_have_different_styles():
    styles = {(s["color"], s["linestyle"]) for s in map(figures._style, range(16))}
    assert len(styles) == 16
