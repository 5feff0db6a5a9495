"""Growth by blocks."""

import json
from pathlib import Path

import pytest

from flaxae.errors import ConfigError
from flaxae.models.funnel_ae import growth
from flaxae.models.funnel_ae.skips import Skip
from tests.models.funnel_ae.tiny import tiny_funnel, toy

THREE = {"task__funnel": tiny_funnel(block_sizes=(1, 1, 1)), "task__length": 8}


def test_a_stage_has_the_options_of_its_blocks() -> None:
    config = toy(
        **THREE,
        task__funnel__block_repeats=(1, 2, 1),
        task__skip__kind=Skip.LINEAR,
        task__skip__finish_by=(10, 20),
        task__latent__block_dims=(0, 3),
        steps=40,
    )
    one, whole = (growth.stage_config(config, n, source) for n, source in ((2, ""), (3, "before")))
    task = one.task
    assert (task.funnel.block_sizes, task.funnel.block_repeats) == ((1, 1), (1, 2))
    assert (task.skip.finish_by, task.latent.block_dims) == ((10,), (0,))
    assert one.optim.decay_steps == 40 and not one.resume_from
    assert whole.task.funnel.block_sizes == (1, 1, 1) and whole.resume_from == "before"
    for stage in (one, whole):
        stage.freeze()


def test_growth_that_cannot_be_decided_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="eval.every"):
        growth.grow(toy(**THREE, eval__every=0), tmp_path, 1.0)
    with pytest.raises(ConfigError, match="--first=4: the config has 3 blocks"):
        growth.grow(toy(**THREE), tmp_path, 1.0, first=4)
    with pytest.raises(ConfigError, match="--bar=0"):
        growth.grow(toy(**THREE), tmp_path, 0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_block_is_added_when_the_bar_is_passed(tmp_path: Path) -> None:
    config = toy(**THREE, eval__every=2, steps=4)
    rows = growth.grow(config, tmp_path, bar=100.0)
    assert [(row["blocks"], row["steps"], row["passed"]) for row in rows] == [
        (2, 2, True),
        (3, 2, True),
    ]
    stored = json.loads((tmp_path / "blocks_3" / "config.json").read_text())
    assert stored["resume_from"] == str(tmp_path / "blocks_2")
    assert growth.grow(config, tmp_path, bar=100.0) == rows  # nothing is trained again
    further = growth.grow(config, tmp_path / "other", bar=1e-6, first=3)
    assert [(row["steps"], row["passed"]) for row in further] == [(4, False)]
