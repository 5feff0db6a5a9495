"""The sizes of published language models, for programs that need shapes and no weights.

Touvron et al. 2023 (Llama 2), Zhang et al. 2024 (TinyLlama), Allal et al. 2025 (SmolLM2), Gunasekar
et al. 2023 and Li et al. 2023 (Phi). The two tiny ones are not published: they are for tests.
"""

from typing import Any

from flaxae.errors import require
from flaxae.lm.causal import CausalLM
from flaxae.lm.llama.modeling import Llama, LlamaConfig
from flaxae.lm.phi.modeling import Phi, PhiConfig

_FIELDS = ("d_model", "d_ff", "num_heads", "num_kv_heads", "head_dim", "num_layers", "vocab_size")
_PHI_ENDS: dict[str, Any] = {"bos_id": 50256, "eos_ids": (50256,)}
# Phi-2's published config has the dropout.
_PHI_2: dict[str, Any] = {"rotary_dim": 32, "residual_dropout": 0.1, **_PHI_ENDS}
_SMOLLM2: dict[str, Any] = {"tie_embeddings": True, "rope_theta": 1e5, "max_length": 8192}

# name -> (class, class of its config, values of _FIELDS, further fields)
SIZES: dict[str, tuple[type[CausalLM], Any, tuple[int, ...], dict[str, Any]]] = {
    "smollm2-135m": (Llama, LlamaConfig, (576, 1536, 9, 3, 64, 30, 49152), _SMOLLM2),
    "tinyllama-1.1b": (Llama, LlamaConfig, (2048, 5632, 32, 4, 64, 22, 32000), {}),
    "llama-2-7b": (Llama, LlamaConfig, (4096, 11008, 32, 32, 128, 32, 32000), {"max_length": 4096}),
    "phi-1": (Phi, PhiConfig, (2048, 8192, 32, 32, 64, 24, 51200), {"rotary_dim": 32, **_PHI_ENDS}),
    "phi-2": (Phi, PhiConfig, (2560, 10240, 32, 32, 80, 32, 51200), _PHI_2),
    "llama-tiny": (Llama, LlamaConfig, (32, 64, 4, 2, 8, 2, 256), {}),
    "phi-tiny": (Phi, PhiConfig, (32, 64, 4, 4, 8, 2, 256), {"rotary_dim": 4}),
}


def lm_size(name: str, **fields: Any) -> tuple[type[CausalLM], Any]:
    """Return the class and config of a published language model.

    Args:
        name: a key of SIZES, such as "phi-2" or "llama-2-7b".
        **fields: further fields of its config (dtype, remat), or other values.

    Raises:
        ConfigError: if the name is unknown.
    """
    require(name in SIZES, f"{name!r} is not a model whose sizes are known: {', '.join(SIZES)}")
    kind, config, sizes, more = SIZES[name]
    known: dict[str, Any] = dict(zip(_FIELDS, sizes, strict=True))
    out = config(**(known | more | fields))
    out.validate()
    return kind, out
