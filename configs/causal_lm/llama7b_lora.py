"""Llama 2 of 6.74 G parameters, frozen, bfloat16, learns by a LoRA in float32 on eight chips.

    python train.py --config=configs/causal_lm/llama7b_lora.py --workdir=runs/llama7b_lora \\
        --config.pretrained=LLAMA
    python -m flaxae.tpu_compile --config=configs/causal_lm/llama7b_lora.py:scratch \\
        --topology=v5e:2x4

LLAMA: a directory with the model, or a Hub id. `:scratch` knows its shapes without any file.
8.4 M trained parameters (rank 16 on q, v). Never trained. Compiled for v5e-8 (jax 0.10.2, libtpu
0.0.42.1, --effort=-1), 64 rows of 512 tokens with a target at every place: 3.64 of a chip's 16 GiB;
155 T FLOPs a chip and step, 1.39 of the task's count (blocks are computed twice), which bound the
step (MFU .72 at best); 388 GB accessed; 23.2 GB sent, the base's layers one by one, twice, and
never all of it; 28 s to compile.
"""

from configs.causal_lm.phi2_lora import sharded
from flaxae.config import Config


def get_config(preset: str = "pretrained") -> Config:
    return sharded("llama-2-7b", "meta-llama/Llama-2-7b-hf", preset, batch_size=64, lr=2e-4)
