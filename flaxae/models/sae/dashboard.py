"""A run's dictionary with its model and text, for the dashboard."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flaxae.errors import require
from flaxae.models.sae import states
from flaxae.models.sae.evaluation import exported
from flaxae.sparse_autoencoder.dashboard.inputs import (
    DashboardInput,
    check,
    first_rows,
    shortened,
)


def dashboard_input(loaded: Any, tokens: int, texts: Sequence[str] = ()) -> DashboardInput:
    """Return what the dashboard of a run shows.

    Args:
        loaded: the opened run.
        tokens: number of tokens to read.
        texts: texts to read; (): those of its train split.

    Raises:
        ConfigError: if the run's model is not a dictionary of one layer, or its data or the model
            that it reads have changed since it was trained.
    """
    task, options = loaded.task, loaded.task.options
    require(
        not options.several,
        f"{loaded.workdir}: a dashboard shows the features of a dictionary; a run of "
        f"{options.architecture.value} has none",
    )
    loaded.check_data()
    sae, origin = exported(loaded)
    origin = dataclasses.replace(origin, skip_first=task.data_config.skip_first)
    source = task.source
    check(loaded.workdir, sae, origin, source.model)
    tokenizer = source.tokenizer

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids) if source.causal else tokenizer.decode([ids])[0]

    if texts:
        rows = first_rows(
            texts, tokens, lambda part: states.rows_of(source, part, task.data_config)
        )
    else:
        rows = shortened(task.data("train").rows, tokens)
    return DashboardInput(
        str(loaded.workdir),
        sae,
        origin,
        source.model,
        tokenizer,
        decode,
        source.causal,
        rows,
        task.data_config.model_rows,
    )
