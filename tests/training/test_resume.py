"""A killed and resumed run equals an uninterrupted one; SIGTERM saves and exits with 75."""

import signal
import time
from pathlib import Path

import pytest

from tests.helpers import arrays_of, assert_same, log_of, start_pair, start_tiny

HARD = {"steps": 40, "save__every": 4, "accumulate": 2, "optim__ema": 0.9, "data__prefetch": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train 40 steps without interruption."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    child = start_tiny({"workdir": str(workdir), "overrides": HARD})
    assert child.wait(180) == 0, child.communicate()
    return workdir


BETWEEN = (1, 6, 10, 17, 22, 27, 34)  # steps
IN_SAVES = ((2, 8), (15, 20), (0, 28), (40, 36))  # (file, from step)


@pytest.mark.parametrize(
    "between, in_saves",
    [
        ((1, 17), ((2, 8),)),
        pytest.param(BETWEEN, IN_SAVES, marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_sigkill_anywhere_then_resume_is_bit_exact(
    whole: Path, tmp_path: Path, between: tuple, in_saves: tuple
) -> None:
    workdir = tmp_path / "run"
    deaths: list[dict] = [{"die_at": k} for k in between]
    deaths += [{"die_in_save": file, "die_from": step} for file, step in in_saves]
    deaths.sort(key=lambda d: d.get("die_at", d.get("die_from", 0)))
    killed = 0
    for death in deaths:
        child = start_tiny({"workdir": str(workdir), "overrides": HARD, **death})
        killed += child.wait(180) == -signal.SIGKILL
    child = start_tiny({"workdir": str(workdir), "overrides": HARD})
    out, err = child.communicate(timeout=180)
    assert child.returncode == 0, err
    assert killed >= len(deaths) - 1
    assert_same(arrays_of(workdir), arrays_of(whole))
    assert log_of(workdir) == log_of(whole)


def wait_for_log(workdir: Path, lines: int) -> None:
    path, deadline = workdir / "metrics.jsonl", time.monotonic() + 120
    while not (path.exists() and path.read_text().count("\n") >= lines):
        assert time.monotonic() < deadline, "the run never began"
        time.sleep(0.05)


def test_sigterm_saves_exits_75_and_resumes(whole: Path, tmp_path: Path) -> None:
    options = {"workdir": str(tmp_path / "run"), "overrides": HARD, "slow": 0.05}
    child = start_tiny(options)
    wait_for_log(tmp_path / "run", 6)
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 75
    rows = log_of(tmp_path / "run")
    assert 6 <= rows[-1]["step"] < 40
    child = start_tiny(options | {"slow": 0})
    assert child.wait(180) == 0
    assert_same(arrays_of(tmp_path / "run"), arrays_of(whole))
    assert log_of(tmp_path / "run") == log_of(whole)


def test_ctrl_c_saves_and_exits_130(tmp_path: Path) -> None:
    child = start_tiny({"workdir": str(tmp_path / "run"), "overrides": HARD, "slow": 0.05})
    wait_for_log(tmp_path / "run", 3)
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == 130
    assert any((tmp_path / "run" / "latest").iterdir())


@pytest.mark.slow
def test_two_processes_sigterm_and_resume(whole: Path, tmp_path: Path) -> None:
    options = {"workdir": str(tmp_path / "run"), "overrides": HARD, "slow": 0.05}
    pair = start_pair(options)
    wait_for_log(tmp_path / "run", 6)
    pair[1].send_signal(signal.SIGTERM)
    codes = [child.wait(30) for child in pair]
    assert codes == [75, 75], [child.communicate()[1][-2000:] for child in pair]
    pair = start_pair(options | {"slow": 0})
    assert [child.wait(180) for child in pair] == [0, 0]
    assert_same(arrays_of(tmp_path / "run"), arrays_of(whole), atol=1e-5)


def test_an_evaluation_that_a_signal_stopped_is_done_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    from flaxae.training.loop import run
    from tests.tiny.family import Problems, tiny_config

    whole = tmp_path / "whole"
    run(tiny_config(), whole)
    original = Problems.batch

    def signalling(self: Problems, step: int) -> object:
        if self.num_batches is not None and step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, step)

    monkeypatch.setattr(Problems, "batch", signalling)
    assert run(tiny_config(), tmp_path / "w").status == "sigterm"
    assert [r["split"] for r in log_of(tmp_path / "w")] == ["train"] * 10
    monkeypatch.setattr(Problems, "batch", original)
    assert run(tiny_config(), tmp_path / "w").status == "done"
    assert run(tiny_config(), tmp_path / "w").status == "already_done"
    assert_same(arrays_of(tmp_path / "w"), arrays_of(whole))
    assert log_of(tmp_path / "w") == log_of(whole)
