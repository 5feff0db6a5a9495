"""Pretrained weights of a T5-VAE: those of a T5. All other parameters are initialised."""

from typing import Any

from flaxae.errors import require
from flaxae.lm.t5 import params as t5_params
from flaxae.lm.t5.blocks import T5Config
from flaxae.weights import hf


def load_pretrained(
    source: str, t5: T5Config, abstract: dict[str, Any], shardings: dict[str, Any]
) -> dict[str, Any]:
    """Read the parameters under `t5/` from a Hugging Face T5.

    Args:
        source: a directory, or a Hub id.
        t5: the sizes of the run's config, `vocab_size` included.
        abstract: {"params", "frozen"} of the whole model.
        shardings: the same tree of NamedShardings; each process reads only its own slices.

    Returns:
        {"params": {"t5": ...}, "frozen": {}}.

    Raises:
        ConfigError: if the directory is not a T5, or its sizes are not those of the config.
    """
    theirs, tensors = t5_params.open_directory(source)
    wrong = t5_params.differences(t5, theirs)
    require(
        not wrong,
        f"pretrained={source}: the config's task.t5 is another T5 ({'; '.join(wrong)}); "
        "set these fields, or take them from flaxae.lm.t5.sizes",
    )
    params = hf.read_params(
        tensors,
        t5_params.table(t5),
        abstract["params"]["t5"],
        shardings["params"]["t5"],
    )
    return {"params": {"t5": params}, "frozen": {}}
