"""Tiny GGUF files from a dict of header fields and a dict of tensors."""

import gguf
import numpy as np

LAYERS, HIDDEN, HEADS, KV_HEADS, FORWARD, ROWS = 2, 8, 4, 2, 12, 20
TOKENS = ["<s>", "</s>", "<end>", *"abcdefghij", "Ġ", "ab", "Ġc"]
FIELDS = {
    "general.type": "model",
    "llama.block_count": LAYERS,
    "llama.context_length": 64,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": FORWARD,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 100.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(TOKENS) - 3),
    "tokenizer.ggml.merges": ["a b", "Ġ c"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
}
SHAPES = {
    "attn_norm": (HIDDEN,),
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN * KV_HEADS // HEADS, HIDDEN),
    "attn_v": (HIDDEN * KV_HEADS // HEADS, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_norm": (HIDDEN,),
    "ffn_gate": (FORWARD, HIDDEN),
    "ffn_up": (FORWARD, HIDDEN),
    "ffn_down": (HIDDEN, FORWARD),
}


def tensors(head=False):
    """Return the tensors of a model, tied unless `head`."""
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (ROWS, HIDDEN), "output_norm.weight": (HIDDEN,)}
    shapes |= {"output.weight": (ROWS, HIDDEN)} if head else {}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in SHAPES.items()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(path, fields=None, values=None, raw=(), architecture="llama", kinds=()):
    """Write a file.

    Args:
        path: the file.
        fields: replaces or adds to FIELDS; None removes a field.
        values: the tensors.
        raw: (name, blocks as bytes, type) of quantised tensors.
        architecture: value of general.architecture.
        kinds: pairs of a field's name and its GGUFValueType, where the value does not decide it.
    """
    writer = gguf.GGUFWriter(str(path), architecture)
    kinds, kind_of = dict(kinds), gguf.GGUFValueType.get_type
    for name, value in (FIELDS | (fields or {})).items():
        if value is None:
            continue
        if isinstance(value, list):
            inner = kinds.get(name, kind_of(value[0]) if value else gguf.GGUFValueType.INT32)
            writer.add_key_value(name, value, gguf.GGUFValueType.ARRAY, inner)
        else:
            writer.add_key_value(name, value, kinds.get(name, kind_of(value)))
    for name, value in (tensors() if values is None else values).items():
        writer.add_tensor(name, value)
    for name, blocks, kind in raw:
        writer.add_tensor(name, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
