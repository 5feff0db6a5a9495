"""GGUF files that the `gguf` package writes: names, row order, quantisation, tokenizer."""

import sys

import jax
import numpy as np
import pytest
from flax import nnx

from flaxae import lm
from flaxae.errors import ConfigError
from flaxae.lm.llama import params as llama
from flaxae.weights.gguf import GGUF
from flaxae.weights.gguf.reading import half_split
from tests.tiny.language_models import tiny

gguf = pytest.importorskip("gguf")
BLOCK = {
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
TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}:{{ m['content'] }}</s>{% endfor %}"


def as_hf(model):
    """Return a model's tensors by Hugging Face's names."""
    ours, out = nnx.to_pure_dict(nnx.state(model)), {}
    for path, weight in llama.table(model.config).weights.items():
        value = ours
        for part in path.split("/"):
            value = value[part]
        for layer, name in enumerate(weight.names):
            one = np.asarray(value[layer] if weight.stacked else value)
            out[name] = np.ascontiguousarray(one.T if weight.transpose else one)
    return out


def interleaved(rows, heads):
    """Reorder rows of queries and keys as llama.cpp's converter does."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def write(path, model, *, quantize=False, pre="smollm", more=(), extra=(), architecture="llama"):
    config, tensors = model.config, as_hf(model)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    for name, value in extra:
        getattr(writer, name)(value)
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789") | {"Ġ", "Ã", "©"})
    tokens = ["<s>", "</s>", "<extra>", *letters, "ab", "Ġc", "12"]
    tokens += [f"<unused{i}>" for i in range(config.vocab_size - len(tokens))]
    kinds = [3, 3, 4] + [1] * (len(tokens) - 3)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b", "Ġ c", "1 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "lm_head.weight": "output.weight",
        "model.norm.weight": "output_norm.weight",
    }
    for i in range(config.num_layers):
        names |= {f"model.layers.{i}.{v}.weight": f"blk.{i}.{k}.weight" for k, v in BLOCK.items()}
    for name, value in tensors.items():
        if "q_proj" in name:
            value = interleaved(value, config.num_heads)
        if "k_proj" in name:
            value = interleaved(value, config.num_kv_heads)
        if quantize and value.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(names[name], gguf.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(names[name], value)
    for name in more:
        writer.add_tensor(name, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def leaves(model):
    return nnx.to_pure_dict(nnx.state(model))


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_is_loaded_as_the_same_model(tied, tmp_path):
    model = tiny("llama", tie_embeddings=tied, vocab_size=64)
    loaded = lm.load(write(tmp_path / "x.gguf", model))
    assert loaded.config.tie_embeddings is tied and loaded.config.eos_ids == (1,)
    jax.tree.map(np.testing.assert_array_equal, leaves(loaded.model), leaves(model))


def test_quantised_weights_are_dequantised_in_the_right_row_order(tmp_path):
    model = tiny("llama", d_model=32, d_ff=64, head_dim=8, vocab_size=64)
    loaded = lm.load(write(tmp_path / "x.gguf", model, quantize=True))
    for a, b in zip(
        jax.tree.leaves(leaves(loaded.model)), jax.tree.leaves(leaves(model)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=float(abs(b).max()) / 127)


def test_llama_cpps_row_order_is_undone():
    rows = np.arange(24.0).reshape(12, 2)
    np.testing.assert_array_equal(half_split(interleaved(rows, 3), 3), rows)
    assert not np.array_equal(half_split(rows, 3), rows)


def test_the_tokenizer_is_built_from_the_file(tmp_path):
    path = write(tmp_path / "x.gguf", tiny("llama", vocab_size=64))
    tokenizer = lm.load(path).tokenizer
    tokens = [
        tokenizer.decode([i], special=True) for i in tokenizer.encode(["<s>ab c12<extra>"])[0]
    ]
    assert tokens == ["<s>", "ab", " c", "1", "2", "<extra>"]  # digits stay apart
    assert tokenizer.decode(tokenizer.encode(["<s>ab é c</s>"])[0]) == "ab é c"
    assert tokenizer.chat([{"role": "user", "content": "ab"}]) == "<s>user:ab</s>"
    assert (tokenizer.bos, tokenizer.eos) == ("<s>", "</s>")
    plain = lm.load(write(tmp_path / "y.gguf", tiny("llama", vocab_size=64), pre="gpt-2")).tokenizer
    assert plain.decode(plain.encode(["c12"])[0][1:]) == "12"  # one token


def test_the_tokenizer_is_saved_with_the_model(tmp_path):
    loaded = lm.load(write(tmp_path / "x.gguf", tiny("llama", vocab_size=64)))
    loaded.save(tmp_path / "hf")
    again = lm.load(tmp_path / "hf")
    text = again.tokenizer.chat([{"role": "user", "content": "ab c12"}])
    assert text == "<s>user:ab c12</s>"
    assert again.tokenizer.encode([text]) == loaded.tokenizer.encode([text])
    assert again.tokenizer.decode(again.tokenizer.encode([text])[0]) == "userab c12"


def test_linear_rope_scaling_is_read_and_llama3s_raises(tmp_path):
    scaling = (
        ("add_rope_scaling_type", gguf.RopeScalingType.LINEAR),
        ("add_rope_scaling_factor", 4.0),
    )
    model = tiny("llama", vocab_size=64)
    config = lm.load(write(tmp_path / "x.gguf", model, extra=scaling)).config
    assert (config.rope_scaling.value, config.rope_factor) == ("linear", 4.0)
    with pytest.raises(ConfigError, match="its own rotary frequencies"):
        lm.load(write(tmp_path / "y.gguf", model, more=["rope_freqs.weight"]))


def test_unknown_tensors_tokenizers_and_architectures_raise(tmp_path, monkeypatch):
    model = tiny("llama", vocab_size=64)
    with pytest.raises(ConfigError, match="blk.0.attn_sinks.weight is not a weight"):
        lm.load(write(tmp_path / "x.gguf", model, more=["blk.0.attn_sinks.weight"]))
    with pytest.raises(ConfigError, match=r"kind \('gpt2', 'llama-bpe'\).*tokenizer=DIR"):
        lm.load(write(tmp_path / "y.gguf", model, pre="llama-bpe"))
    with pytest.raises(ConfigError, match="general.architecture='phi2' is not one of: llama"):
        lm.load(write(tmp_path / "z.gguf", model, architecture="phi2"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF what is this")
    with pytest.raises(ConfigError, match="broken.gguf: not a complete GGUF file"):
        lm.load(tmp_path / "broken.gguf")
    with pytest.raises(ConfigError, match="no such file"):
        lm.load(tmp_path / "nothing.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match="pip install gguf"):
        GGUF(tmp_path / "x.gguf")
