r"""TopK dictionaries that are split over the chips of a TPU slice, with sizes of published models.

    python -m flaxae.tpu_compile --config=configs/sae/wide.py:million --topology=v5e:4x4 --effort=-1
    python train.py --config=configs/sae/wide.py:llama_7b --workdir=runs/sae_7b \
        --config.task.sizes= --config.pretrained=LLAMA

| preset | states | latents | parameters |
|---|---|---|---|
| million | 2,048 features (TinyLlama), layer 11 | 2^20, 32 active | 4.3 G |
| llama_7b | 4,096 features (Llama 2 7B), layer 16 | 2^16, 64 active | 0.54 G |

The latents are split over 16 chips (`mesh.model`): each has its part of the dictionary and of the
moments, finds its own largest activations, and decodes its own latents by a dense product. The
language model is split over the same chips, layer by layer (FSDP).

Not measured; compiled, see docs/families/sae.md.
"""

from configs.sae import smollm2_topk
from flaxae.config import Config, copy_config
from flaxae.errors import ConfigError

PRESETS = {
    "million": {
        "task.sizes": "tinyllama-1.1b",
        "task.layer": 11,
        "task.d_sae": 2**20,
    },
    "llama_7b": {
        "task.sizes": "llama-2-7b",
        "task.layer": 16,
        "task.d_sae": 2**16,
        "task.k": 64.0,
    },
}


def get_config(preset: str = "million") -> Config:
    """Return the config of a preset: million or llama_7b."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    shared = {
        "pretrained": "",
        "task.model_weights": "bfloat16",
        "task.model_dtype": "bfloat16",
        "data.batch_size": 4096,
        "data.model_rows": 16,
        "mesh.fsdp": 1,
        "mesh.model": 16,
    }
    return copy_config(smollm2_topk.get_config(), shared | PRESETS[preset])
