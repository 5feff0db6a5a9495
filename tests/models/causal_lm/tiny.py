"""A Llama and a Phi of toy size, with a tokenizer, and a config that trains one."""

import json

import jax
from flax import nnx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    OptimConfig,
    SaveConfig,
    set_field,
)
from flaxae.data.config import TextDataConfig
from flaxae.lm import files
from flaxae.lm.chat import ChatTokenizer
from flaxae.lm.llama import params as llama
from flaxae.lm.llama.modeling import Llama, LlamaConfig
from flaxae.lm.phi import params as phi
from flaxae.lm.phi.modeling import Phi, PhiConfig
from flaxae.models.causal_lm.task import CausalLMConfig


def tokenizer():
    """Make a tokenizer of bytes, with 0 to 2 as special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2} | {c: i + 3 for i, c in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<pad>", "<s>", "</s>"])
    return ChatTokenizer(inner, bos="<s>", eos="</s>")


def base(directory, seed=0):
    """Write a random Llama."""
    config = LlamaConfig(
        d_model=16, d_ff=24, num_heads=4, num_kv_heads=2, head_dim=4, num_layers=2, vocab_size=260
    )
    model = Llama(config, rngs=nnx.Rngs(seed))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    params = jax.tree.map(lambda x: x * 0.5, params)
    files.save(directory, llama.config_to_hf(config), llama.table(config), params)
    tokenizer().save(directory)
    return directory


def phi_base(directory):
    """Write a random Phi, whose Linears have biases."""
    config = PhiConfig(
        d_model=16,
        d_ff=24,
        num_heads=4,
        num_kv_heads=4,
        head_dim=4,
        rotary_dim=2,
        num_layers=2,
        vocab_size=260,
    )
    params = nnx.to_pure_dict(nnx.state(Phi(config, rngs=nnx.Rngs(0)), nnx.Param))
    files.save(directory, phi.config_to_hf(config), phi.table(config), params)
    tokenizer().save(directory)
    return directory


def pairs(path, count=40):
    """Write pairs that are easy enough to be learned in a few steps."""
    rows = [{"prompt": f"say {i % 7}", "completion": "ab" * (i % 7 + 1)} for i in range(count)]
    path.write_text(
        "\n".join(json.dumps(r | {"prompt": f"{r['prompt']} {i}"}) for i, r in enumerate(rows))
        + "\n"
    )
    return path


def tiny_config(folder, **overrides):
    """Make a config; overrides are dotted fields with "__" for the dot."""
    folder.mkdir(exist_ok=True)
    config = Config(
        task=CausalLMConfig(),
        data=TextDataConfig(path=str(pairs(folder / "pairs.jsonl")), batch_size=4, max_length=48),
        optim=OptimConfig(lr=1e-2, ema=0.5),
        log=LogConfig(every=1, tensorboard=False, progress=False),
        eval=EvalConfig(num_samples=1),
        save=SaveConfig(every=4),
        pretrained=str(base(folder / "base")),
        steps=8,
    )
    config.mesh.fsdp = 1
    for name, value in overrides.items():
        set_field(config, name.replace("__", "."), value)
    return config
