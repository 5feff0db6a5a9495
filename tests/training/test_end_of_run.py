"""The end of a run and the mistakes that are found before its beginning: no step is lost."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxae.errors import ConfigError
from flaxae.sweep import sweep
from flaxae.training.loop import run
from tests.helpers import arrays_of, assert_same, log_of
from tests.tiny.family import TinyTask, tiny_config

SHORT = {"steps": 4, "save__every": 4}
TRAIN_TOO = SHORT | {"eval__splits": ("dev", "train"), "eval__num_batches": 1}


@pytest.mark.parametrize("part, every", [("finalize", 0), ("finalize", 2), ("sample", 0)])
def test_what_fails_after_the_last_step_or_between_loses_none(
    part: str, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is saved, and the next start does what is missing."""
    config = tiny_config(**SHORT, eval__every=every, eval__sample_every=every)
    whole = run(config, tmp_path / "whole")

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(TinyTask, part, fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(config, tmp_path / "run")
    assert arrays_of(tmp_path / "run")["['step']"] == (every or 4)
    again = run(config, tmp_path / "run")
    assert again.status == "done" and again.metrics == whole.metrics
    assert_same(arrays_of(tmp_path / "run"), arrays_of(tmp_path / "whole"))
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")
    assert run(config, tmp_path / "run").status == "already_done"


@pytest.mark.parametrize("lanes", [None, [{}, {"data.seed": 1}]])
def test_a_best_metric_is_checked_though_its_task_needs_real_sums(
    lanes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finalize = TinyTask.finalize

    def strict(self: TinyTask, sums: Any) -> dict[str, Any]:
        weights = {float(weight) for _, weight in sums.values() if np.ndim(weight) == 0}
        if weights == {1.0}:
            raise ZeroDivisionError("not the sums of this data")
        return {"note": "text", **finalize(self, sums)}

    monkeypatch.setattr(TinyTask, "finalize", strict)
    for wrong in ("dev/losss", "dev/note", "test/loss", "loss"):
        with pytest.raises(ConfigError, match=f"'{wrong}' is not one of: dev/drift, dev/error"):
            run(tiny_config(**SHORT, save__best_metric=wrong), tmp_path, lanes)
    assert not any(f.stat().st_size for f in tmp_path.rglob("metrics.jsonl"))
    assert not list((tmp_path / "latest").iterdir())


def test_a_best_metric_without_evaluations_is_refused(tmp_path: Path) -> None:
    config = tiny_config(**SHORT, save__best_metric="dev/loss", eval__splits=())
    with pytest.raises(ConfigError, match="save.best_metric='dev/loss' needs evaluations"):
        run(config, tmp_path)


def test_an_evaluation_that_was_logged_in_part_is_repeated(tmp_path: Path) -> None:
    """A run may be killed between the lines of two splits; one of them may be the train split."""
    config = tiny_config(**TRAIN_TOO, save__best_metric="dev/loss")
    first = run(config, tmp_path)
    rows = log_of(tmp_path)
    assert [row["split"] for row in rows[-3:]] == ["dev", "train", "sample"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:-2]))
    assert run(config, tmp_path).status == "done"
    assert log_of(tmp_path) == rows
    last = run(config, tmp_path)
    assert last.status == "already_done" and last.metrics == first.metrics
    assert log_of(tmp_path) == rows


def test_lanes_that_a_killed_run_has_not_written_are_written_by_the_next_start(
    tmp_path: Path,
) -> None:
    config, lanes = tiny_config(**SHORT), [{}, {"seed": 1}]
    run(config, tmp_path, lanes)
    before = arrays_of(tmp_path / "lanes" / "01")
    shutil.rmtree(tmp_path / "lanes" / "01" / "latest")
    assert run(config, tmp_path, lanes).status == "already_done"
    assert_same(arrays_of(tmp_path / "lanes" / "01"), before)


def test_a_sweep_refuses_a_wrong_config_before_its_first_run(tmp_path: Path) -> None:
    grid = [{"seed": 1}, {"data.batch_size": -8}]
    with pytest.raises(ConfigError, match="data.batch_size=-8"):
        sweep(tiny_config(**SHORT), grid, tmp_path / "w")
    (tmp_path / "tables").write_text("")
    with pytest.raises(ConfigError, match="tables"):
        sweep(tiny_config(**SHORT), [{"seed": 1}], tmp_path / "w", tables=tmp_path / "tables")
    assert not (tmp_path / "w").exists()
