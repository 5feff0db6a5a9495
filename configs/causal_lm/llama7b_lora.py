r"""A LoRA in float32 on a frozen Llama 2 of 6.74 G parameters in bfloat16, for eight chips.

    python train.py --config=configs/causal_lm/llama7b_lora.py --workdir=runs/llama7b_lora \
        --config.pretrained=LLAMA
    python -m flaxae.tpu_compile --config=configs/causal_lm/llama7b_lora.py:scratch \
        --topology=v5e:2x4

LLAMA is a directory with the model, or a Hub id. The preset `:scratch` has the model's shapes and
needs no files.

8.4 M trained parameters (rank 16 on q and v). Never trained. Compiled for v5e-8 (jax 0.10.2, libtpu
0.0.42.1, --effort=-1) with 64 rows of 512 tokens and a target at every position: it needs 3.64 of a
chip's 16 GiB. Per chip and step it computes 155 TFLOP, 1.39 times the task's count because blocks
are computed twice, and these bound the step (MFU .72 at best); it accesses 388 GB and sends 23.2
GB, the layers of the base one by one and twice, so that the whole base is never in one place. It
takes 28 s to compile.
"""

from configs.causal_lm.phi2_lora import sharded
from flaxae.config import Config


def get_config(preset: str = "pretrained") -> Config:
    """Return the config of a preset: pretrained or scratch."""
    return sharded("llama-2-7b", "meta-llama/Llama-2-7b-hf", preset, batch_size=64, lr=2e-4)
