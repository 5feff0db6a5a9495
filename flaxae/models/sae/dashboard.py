"""A run's dictionary with its model and text, for the dashboard."""

from collections.abc import Sequence
from typing import Any

from flaxae.errors import require
from flaxae.models.sae import states
from flaxae.models.sae.evaluation import exported
from flaxae.sparse_autoencoder.dashboard.subject import Subject, check


def subject(loaded: Any, texts: Sequence[str] = ()) -> Subject:
    """Return what the dashboard of a run shows.

    Args:
        loaded: the opened run.
        texts: texts to read; (): those of its train split.

    Raises:
        ConfigError: if the run's model is not a dictionary of one layer.
    """
    task, options = loaded.task, loaded.task.options
    require(
        not options.several,
        f"{loaded.workdir}: a dashboard shows the features of a dictionary; a run of "
        f"{options.architecture.value} has none",
    )
    sae, origin = exported(loaded)
    source = task.source
    check(loaded.workdir, sae, origin, source.model)
    tokenizer = source.tokenizer

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids) if source.causal else tokenizer.decode([ids])[0]

    rows = states.rows_of(source, texts or task.splits["train"], task.data_config)
    return Subject(
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
