"""The demo's decoder without codes: a reference for the demo's samples and losses.

    python train.py --config=configs/t5_vae/ignored_codes.py --workdir=runs/t5_vae_ignored

The decoder, its data and its steps are those of configs/t5_vae/python_lines.py:copy, or of
`:copy_quick` for `:quick`, but it reads 1 instead of every code (`task.latent.ignored`): it is a
language model of lines. The encoder is as small as possible and learns nothing. Texts must be drawn
at random, because greedy decoding always returns the same line:

    vae.sample(1000, decode_temperature=1.0)

Measured with `:quick` (2,000 steps, seed 0): 5.24 nats per token on dev, exact match 0; of 1,000
texts .276 are valid Python at decode_temperature 1 and .372 at .8, all distinct; of real dev lines
.57 are. It took about 12 minutes on 2 cores at 110 GFLOP/s while tests ran too. Not measured: the
full 9,600 steps.
"""

from configs.t5_vae import python_lines
from flaxae.config import Config, copy_config
from flaxae.errors import ConfigError

PRESETS = {"full": "copy", "quick": "copy_quick"}  # ours -> that of python_lines


def get_config(preset: str = "full") -> Config:
    """Return the config of a preset: full or quick."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    return copy_config(
        python_lines.get_config(PRESETS[preset]),
        {
            "task.latent.ignored": True,
            "task.latent.dim": 1,
            "task.latent.noise_start": 0.0,
            "task.latent.noise_end": 0.0,
            "task.t5.num_layers": 1,
            "task.mmd_weight": 0.0,
        },
    )
