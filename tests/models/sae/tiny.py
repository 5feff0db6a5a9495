"""The published config of dictionaries at toy size."""

from flaxae.config import flags
from flaxae.config.serialize import set_field
from tests.helpers import ROOT

STEPS = 6
TINY = {
    "task.layer": 1,
    "task.d_sae": 128,  # so many that steps compute with the few active ones
    "task.k": 4.0,
    "task.dead_after": 60,
    "task.hidden": 8,
    "task.tokens": 2,
    "task.codes": 16,
    "task.code_width": 4,
    "task.cross_entropy_rows": 1,
    "data.batch_size": 32,
    "data.max_length": 32,
    "data.block_rows": 4,
    "data.model_rows": 2,
    "optim.warmup": 0,
    "log.every": 1,
    "log.tensorboard": False,
    "save.every": 3,
    "eval.every": 0,
    "eval.num_batches": 2,
    "mesh.fsdp": 1,
}


def config_of(folder, architecture="topk", steps=STEPS, **fields):
    """Return the published config at toy size."""
    config = flags.load_config(str(ROOT / f"configs/sae/smollm2_topk.py:{architecture}"))
    values = TINY | {"pretrained": str(folder / "model"), "data.path": str(folder / "text.txt")}
    values |= {"steps": steps, "optim.decay_steps": STEPS}
    if config.task.several:
        values["task.layers"] = (0, 1)
    if config.task.loss.widths:
        values["task.loss.widths"] = (8, 16, 32)
    for name, value in (values | fields).items():
        set_field(config, name, value)
    return config
