"""The traced steps; the profiler is faked here, and really runs in test_paths.py."""

from pathlib import Path

import jax
import pytest

from flaxae.training.loop import run
from flaxae.training.profiling import Trace
from tests.tiny.family import tiny_config


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the calls of a fake profiler, which refuses the same calls as JAX's."""
    out: list[str] = []

    def start(folder: str) -> None:
        assert out[-1:] != ["start"], "a trace runs already"
        assert Path(folder).name == "profile"
        out.append("start")

    def stop() -> None:
        assert out[-1:] == ["start"], "no trace runs"
        out.append("stop")

    monkeypatch.setattr(jax.profiler, "start_trace", start)
    monkeypatch.setattr(jax.profiler, "stop_trace", stop)
    return out


@pytest.mark.parametrize(
    ("window", "begin", "each", "traced"),
    [
        ((10, 13), 0, 1, [11, 12, 13]),
        ((10, 13), 0, 5, [15]),  # steps 11 to 13 are inside a call
        ((10, 13), 0, 4, [12, 16]),
        ((10, 13), 11, 1, [12, 13]),  # resumed inside the window
        ((10, 13), 13, 1, []),
        ((0, 1), 0, 2, [2]),
        ((), 0, 1, []),
    ],
)
def test_the_calls_with_a_step_of_the_window_are_traced(
    tmp_path: Path, calls: list[str], window: tuple, begin: int, each: int, traced: list[int]
) -> None:
    trace, found = Trace(window, tmp_path), []
    for start in range(begin, 20, each):
        trace.before(start, start + each)
        if trace.on:
            found.append(start + each)
        trace.after(start + each, None)
    trace.stop()
    assert found == traced
    assert calls == ["start", "stop"] * bool(traced)


def test_a_run_that_ends_and_continues_inside_the_window(tmp_path: Path, calls: list[str]) -> None:
    plain = {"save__every": 3, "eval__every": 3, "optim__decay_steps": 6, "profile": (2, 5)}
    run(tiny_config(steps=3, **plain), tmp_path / "w")
    assert calls == ["start", "stop"]
    assert run(tiny_config(steps=6, **plain), tmp_path / "w").status == "done"
    assert calls == ["start", "stop"] * 2
