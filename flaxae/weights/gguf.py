"""GGUF files of Llama-style models, read as if they were a Hugging Face directory.

The file's tensors get Hugging Face's names and row order and are dequantized to float32 as they are
read, so the strict tables of `weights.hf` serve both. The `gguf` package is needed.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from flaxae.errors import ConfigError, require
from flaxae.weights import hf

SUFFIX = ".gguf"
ARCHITECTURES = ("llama",)
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Fields of the header -> fields of config.json.
_FIELDS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
}
_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type


class GGUF(hf.TensorSource):
    """An open GGUF file.

    Args:
        path: the file.

    Raises:
        ConfigError: if the `gguf` package or the file is missing, or it is not a GGUF file of a
            Llama.
    """

    def __init__(self, path: str | Path):
        try:
            import gguf
        except ImportError:
            raise ConfigError(f"{path}: reading GGUF files needs `pip install gguf`") from None
        self.directory = Path(path)
        require(self.directory.is_file(), f"{path}: no such file")
        try:
            self._reader = gguf.GGUFReader(str(path))
        except (ValueError, OSError, IndexError, KeyError) as error:
            raise ConfigError(f"{path}: not a complete GGUF file ({error})") from None
        self._dequantize = gguf.dequantize
        self.architecture = self.field("general.architecture")
        require(
            self.architecture in ARCHITECTURES,
            f"{path}: general.architecture={self.architecture!r} is not one of: "
            f"{', '.join(ARCHITECTURES)}",
        )
        self._heads = int(self._model_field("attention.head_count"))
        self._kv_heads = int(self._model_field("attention.head_count_kv", self._heads))
        self._tensors = {_name(t.name): t for t in self._reader.tensors}

    def field(self, name: str, default: Any = None) -> Any:
        """Return the value of a header field, or the default if it is missing."""
        found = self._reader.get_field(name)
        return default if found is None else found.contents()

    def _model_field(self, name: str, default: Any = None) -> Any:
        value = self.field(f"{self.architecture}.{name}", default)
        require(value is not None, f"{self.directory}: its header lacks {name}")
        return value

    @property
    def names(self) -> set[str]:
        """Hugging Face names of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(int(n) for n in reversed(self._tensors[name].shape))

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Return a slice of a tensor, float32."""
        tensor = self._tensors[name]
        value = self._dequantize(tensor.data, tensor.tensor_type).reshape(self.shape(name))
        for part, heads in ((".q_proj.", self._heads), (".k_proj.", self._kv_heads)):
            if part in name:
                value = _half_split(value, heads)
        return value[index if index else ...]

    def config(self) -> dict[str, Any]:
        """Return the config.json that a Hugging Face directory of the model would contain.

        Raises:
            ConfigError: if the header lacks a field, or the model is one that is not supported.
        """
        raw: dict[str, Any] = {"model_type": "llama", "hidden_act": "silu"}
        for theirs, name in _FIELDS.items():
            value = self.field(f"{self.architecture}.{theirs}")
            if value is not None:
                raw[name] = value
        raw["vocab_size"] = self.shape("model.embed_tokens.weight")[0]
        raw["tie_word_embeddings"] = "lm_head.weight" not in self.names
        raw["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in self.names
        raw["mlp_bias"] = "model.layers.0.mlp.up_proj.bias" in self.names
        scaling = self.field(f"{self.architecture}.rope.scaling.type", "none")
        if scaling != "none":
            factor = self._model_field("rope.scaling.factor")
            raw["rope_scaling"] = {"rope_type": scaling, "factor": factor}
        require(
            "rope_freqs.weight" not in self.names,
            f"{self.directory}: it contains its own rotary frequencies (Llama 3's scaling), which "
            "are not read from GGUF files; use the Hugging Face directory",
        )
        width = raw.get("head_dim", raw["hidden_size"] // self._heads)
        rotated = self.field(f"{self.architecture}.rope.dimension_count", width)
        require(
            rotated == width,
            f"{self.directory}: {rotated} of {width} features per head are rotated, not all",
        )
        raw["bos_token_id"] = self.field("tokenizer.ggml.bos_token_id")
        raw["eos_token_id"] = self.field("tokenizer.ggml.eos_token_id")
        return raw

    def tokenizer(self) -> Any:
        """Build a `tokenizers.Tokenizer` from the file's vocabulary and merges.

        Raises:
            ConfigError: if its kind is not supported.
        """
        kind = (self.field("tokenizer.ggml.model"), self.field("tokenizer.ggml.pre"))
        require(
            kind in (("gpt2", "smollm"), ("gpt2", "gpt-2")),
            f"{self.directory}: a tokenizer of kind {kind} cannot be built from the file; pass "
            "tokenizer=DIR, a directory with its tokenizer.json",
        )
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers

        tokens = self.field("tokenizer.ggml.tokens")
        merges = [tuple(m.split(" ")) for m in self.field("tokenizer.ggml.merges")]
        vocab = {token: i for i, token in enumerate(tokens)}
        inner: Any = tokenizers.Tokenizer(models.BPE(vocab, merges))
        level = pre_tokenizers.ByteLevel(
            add_prefix_space=bool(self.field("tokenizer.ggml.add_space_prefix", False))
        )
        digits = [pre_tokenizers.Digits(individual_digits=True)] if kind[1] == "smollm" else []
        inner.pre_tokenizer = pre_tokenizers.Sequence([*digits, level])
        inner.decoder = decoders.ByteLevel()
        kinds = self.field("tokenizer.ggml.token_type", [])
        named = {
            wanted: [t for t, kind in zip(tokens, kinds, strict=False) if kind == wanted]
            for wanted in (_CONTROL, _USER_DEFINED)
        }
        inner.add_special_tokens(named[_CONTROL])
        inner.add_tokens(named[_USER_DEFINED])
        return inner

    def chat_template(self) -> str:
        """Return the Jinja source of the chat template, "" if there is none."""
        return self.field("tokenizer.chat_template", "")


def _name(name: str) -> str:
    """Return a tensor's Hugging Face name; unknown names stay, so that they are reported."""
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if match and match[2] in _BLOCK:
        return f"model.layers.{match[1]}.{_BLOCK[match[2]]}.{match[3]}"
    return _WHOLE.get(name, name)


def _half_split(rows: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of each head: llama.cpp's adjacent pairs become two halves."""
    return rearrange(rows, "(heads half two) ... -> (heads two half) ...", heads=heads, two=2)
