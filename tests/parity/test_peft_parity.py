"""Adapters against HF peft (PyTorch): the same logits and the same files, read and written."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxae import peft
from flaxae.errors import ConfigError
from flaxae.lm import files
from flaxae.lm.llama import params as llama_params
from flaxae.lm.phi import params as phi_params
from flaxae.lm.t5 import params as t5_params
from flaxae.lm.t5.generation import encode
from flaxae.lm.t5.generation import logits as t5_logits
from flaxae.task import Context
from flaxae.weights import hf

pytestmark = pytest.mark.parity
IDS = np.asarray([[5, 9, 13, 1, 40, 41], [7, 8, 21, 10, 11, 30]])
TARGETS = np.asarray([[9, 8, 7, 6, 1], [20, 30, 12, 2, 1]])


def t5_case(tied=False):
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=64,
        d_model=24,
        d_kv=5,
        d_ff=40,
        num_layers=2,
        num_heads=3,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=tied,
    )
    model = T5ForConditionalGeneration(config)
    if tied:
        return model
    model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn_like(model.shared.weight))
    return model


def theirs_t5(model):
    import torch

    out = model(input_ids=torch.tensor(IDS), labels=torch.tensor(TARGETS))
    return out.logits.detach().numpy()


def load_t5(directory):
    return t5_params.build(*t5_params.load(directory))


def ours_t5(model, ctx):
    mask = jnp.ones(IDS.shape, jnp.float32)
    states = encode(model, jnp.asarray(IDS, jnp.int32), mask, ctx)
    return t5_logits(model, states, mask, jnp.asarray(TARGETS, jnp.int32), ctx)


def causal_case(name, tied=False):
    import transformers

    sizes = dict(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
    )
    if name == "llama":
        sizes |= {"num_key_value_heads": 2, "tie_word_embeddings": tied}
    config = getattr(transformers, f"{name.title()}Config")(**sizes)
    return getattr(transformers, f"{name.title()}ForCausalLM")(config)


def theirs_causal(model):
    import torch

    return model(input_ids=torch.tensor(IDS)).logits.detach().numpy()


def load_causal(directory):
    raw, tensors = hf.read_config(directory), hf.Tensors(directory)
    params = {"llama": llama_params, "phi": phi_params}[raw["model_type"]]
    config = params.config_from_hf(raw)
    table = params.table_of(config, tensors.names)
    values = files.read(params.MODEL, config, table, tensors)
    return files.build(params.MODEL, config, values)


def ours_causal(model, ctx):
    return model(jnp.asarray(IDS, jnp.int32), ctx)


CASES = {
    name: (functools.partial(causal_case, name), theirs_causal, load_causal, ours_causal)
    for name in ("llama", "phi")
}
CASES |= {"t5": (t5_case, theirs_t5, load_t5, ours_t5)}
CASES["tied llama"] = (functools.partial(causal_case, "llama", tied=True), *CASES["llama"][1:])
CASES["tied t5"] = (functools.partial(t5_case, tied=True), *CASES["t5"][1:])
# Fields of adapters of rank 4.
LORA = {"lora_alpha": 24, "r": 4}


def their_configs(family):
    """Return name -> (class in peft, its fields), with the modules of a family."""
    lists = {
        "t5": (["q", "v", "wo"], ["k", "wi_0", "wo"], ["wo"], {"block.1.layer.0.*.q": 2}),
        "llama": (
            ["q_proj", "v_proj", "up_proj"],
            ["k_proj", "up_proj", "down_proj"],
            ["down_proj"],
            {"layers.1.self_attn.q_proj": 2},
        ),
        "phi": (
            ["q_proj", "fc1", "dense"],
            ["q_proj", "v_proj", "fc1", "fc2"],
            ["fc2"],
            {"layers.1.self_attn.q_proj": 2},
        ),
    }
    lora, ia3, forward, pattern = lists[family.removeprefix("tied ")]
    alpha = {key: 3 for key in pattern}
    return {
        "lora": ("LoraConfig", {**LORA, "target_modules": lora}),
        "lora defaults": ("LoraConfig", {}),
        "all-linear": ("LoraConfig", {**LORA, "target_modules": "all-linear"}),
        "rslora": ("LoraConfig", {**LORA, "target_modules": lora, "use_rslora": True}),
        "patterns": (
            "LoraConfig",
            {**LORA, "target_modules": lora, "rank_pattern": pattern, "alpha_pattern": alpha},
        ),
        "one layer": ("LoraConfig", {**LORA, "target_modules": lora, "layers_to_transform": [1]}),
        "dora": ("LoraConfig", {**LORA, "target_modules": lora, "use_dora": True}),
        "dora one layer": (
            "LoraConfig",
            {
                **LORA,
                "target_modules": lora,
                "use_dora": True,
                "layers_to_transform": [1],
                "rank_pattern": pattern,
                "use_rslora": True,
            },
        ),
        "ia3": ("IA3Config", {"target_modules": ia3, "feedforward_modules": forward}),
        "ia3 defaults": ("IA3Config", {}),
        "saved": ("LoraConfig", {**LORA, "target_modules": lora, "modules_to_save": ["lm_head"]}),
        "embedding": (
            "LoraConfig",
            {**LORA, "target_modules": lora, "modules_to_save": ["embed_tokens"]},
        ),
        "both saved": (
            "LoraConfig",
            {**LORA, "target_modules": lora, "modules_to_save": ["lm_head", "embed_tokens"]},
        ),
        "head": ("LoraConfig", {**LORA, "target_modules": [*lora, "lm_head"]}),
        "dora head": ("LoraConfig", {**LORA, "target_modules": ["lm_head"], "use_dora": True}),
        "biases": ("LoraConfig", {"target_modules": "dummy-target-modules", "bias": "all"}),
    }


ALL = {
    "t5": ["lora", "all-linear", "dora one layer", "ia3", "saved"],
    "llama": [
        "lora defaults",
        "rslora",
        "patterns",
        "one layer",
        "dora",
        "ia3",
        "ia3 defaults",
        "head",
    ],
    "phi": ["lora", "patterns", "dora", "ia3", "ia3 defaults", "saved", "biases"],
    "tied llama": ["embedding", "saved", "both saved", "head", "dora head"],
    "tied t5": ["lora", "saved", "head"],
}
ALL = [(family, method) for family, methods in ALL.items() for method in methods]


def perturbed(model):
    """Move all parameters of the adapter, as training does."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                scale = 0.1 if "lora" in name or "ia3" in name else 0.05
                parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def base_of(family, tmp_path):
    import torch

    torch.manual_seed(0)
    model = CASES[family][0]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:  # 0 at first
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif not family.endswith("t5") and parameter.ndim == 2:
                parameter.mul_(8)  # so small at first that outputs would hardly differ
    model.save_pretrained(tmp_path / "base")
    return model


def run_ours(family, model, **ctx):
    at = Context(key=jax.random.key(0), step=jnp.int32(0), **ctx)
    graphdef, state = nnx.split(model)
    run = CASES[family][3]
    return np.asarray(jax.jit(lambda state: run(nnx.merge(graphdef, state), at))(state))


def rows(family, scale):
    """Return a scale per row; T5 has the tokens of all rows on one axis."""
    scale = jnp.asarray(scale, jnp.float32)
    if not family.endswith("t5"):
        return scale
    return peft.RowScale(scale, (IDS.shape,), (TARGETS.shape,))


@pytest.mark.parametrize(("family", "method"), ALL)
def test_adapters_of_peft_are_loaded_and_written_back(family, method, tmp_path):
    import peft as hf_peft
    from safetensors.numpy import load_file

    _, theirs, load, _ = CASES[family]
    kind, fields = their_configs(family)[method]
    base = base_of(family, tmp_path)
    plain = theirs(base.eval())
    model = perturbed(hf_peft.get_peft_model(base, getattr(hf_peft, kind)(**fields)))
    model.save_pretrained(tmp_path / "there")
    want = theirs(model)
    assert np.abs(want - plain).max() > 1e-2  # the adapter does something

    here = peft.load_adapter(load(tmp_path / "base"), tmp_path / "there")
    np.testing.assert_allclose(run_ours(family, here), want, atol=1e-4)
    np.testing.assert_allclose(run_ours(family, peft.merge(here)), want, atol=1e-4)
    off = {"adapter_scale": {"default": rows(family, [0, 0])}}
    np.testing.assert_array_equal(
        run_ours(family, here, **off), run_ours(family, load(tmp_path / "base"))
    )

    peft.save_adapter(here, tmp_path / "here")
    a, b = (load_file(tmp_path / d / "adapter_model.safetensors") for d in ("there", "here"))
    a = {k: v for k, v in a.items() if not k.endswith("base_layer.weight")}  # the base's own
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    fresh = type(base).from_pretrained(tmp_path / "base")
    opened = hf_peft.PeftModel.from_pretrained(fresh, tmp_path / "here").eval()
    np.testing.assert_allclose(theirs(opened), want, atol=1e-5)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Return a function from a family to (folder of its base, class in transformers, logits)."""

    @functools.cache
    def make(family):
        folder = tmp_path_factory.mktemp(family)
        model = base_of(family, folder)
        return folder / "base", type(model), CASES[family][1](model.eval())

    return make


TRAINED = [
    (family, method) for family in ("phi", "llama", "t5") for method in ("lora", "dora", "ia3")
]


@pytest.mark.parametrize(("family", "method"), [*TRAINED, ("llama", "rslora")])
def test_adapters_trained_here_are_opened_by_peft(family, method, bases, tmp_path):
    import peft as hf_peft

    _, theirs, load, ours = CASES[family]
    folder, kind, plain = bases(family)
    name, fields = their_configs(family)[method]
    config = {"LoraConfig": peft.LoRAConfig, "IA3Config": peft.IA3Config}[name](**fields)
    model = peft.add_adapter(load(folder), config)
    graphdef, params, rest = nnx.split(model, peft.trainable(), ...)
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))

    @jax.jit
    def step(params):
        def loss(params):
            logits = ours(nnx.merge(graphdef, params, rest), ctx)
            return jnp.mean(jnp.square(logits - 1)), logits

        grads, logits = jax.grad(loss, has_aux=True)(params)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        return jax.tree.map(lambda p, g: p - 0.3 * g / norm, params, grads), logits

    first = params
    for _ in range(3):
        params, _ = step(params)
    want = np.asarray(step(params)[1])
    assert np.abs(want - plain).max() > 1e-2
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(params), strict=True)
    assert all(np.any(a != b) for a, b in pairs)
    peft.save_adapter(nnx.merge(graphdef, params, rest), tmp_path / "here")
    opened = hf_peft.PeftModel.from_pretrained(kind.from_pretrained(folder), tmp_path / "here")
    np.testing.assert_allclose(theirs(opened.eval()), want, atol=1e-4)


def test_saving_a_t5s_shared_embedding_raises_because_peft_never_reads_the_copy(tmp_path):
    import peft as hf_peft

    base = base_of("tied t5", tmp_path)
    plain = theirs_t5(base.eval())
    fields = {"target_modules": ["q"], "modules_to_save": ["shared"]}
    model = hf_peft.get_peft_model(base, hf_peft.LoraConfig(**fields)).eval()
    base.shared.modules_to_save["default"].weight.data += 1
    np.testing.assert_allclose(theirs_t5(model), plain, atol=1e-4)
    model.save_pretrained(tmp_path / "there")
    here = load_t5(tmp_path / "base")
    with pytest.raises(ConfigError, match="there: modules_to_save: 'shared' changes nothing"):
        peft.load_adapter(here, tmp_path / "there")
    with pytest.raises(ConfigError, match="modules_to_save: 'shared' changes nothing"):
        peft.add_adapter(here, peft.LoRAConfig(**fields))


@pytest.mark.parametrize(("family", "biases"), [("llama", False), ("phi", False), ("phi", True)])
def test_norms_trained_here_are_opened_by_peft(family, biases, tmp_path):
    """Check that a norms-only adapter is written as a LoRA on no module that saves the norms."""
    import peft as hf_peft

    _, theirs, load, _ = CASES[family]
    base = base_of(family, tmp_path)
    config = peft.BiasConfig(biases=biases, norms=True)
    model = peft.add_adapter(load(tmp_path / "base"), config)
    graphdef, mine, rest = nnx.split(model, peft.trainable(), ...)
    mine = jax.tree.map(lambda x: x * 1.3, mine)
    model = nnx.merge(graphdef, mine, rest)
    want = run_ours(family, model)
    assert np.abs(want - theirs(base.eval())).max() > 1e-2
    peft.save_adapter(model, tmp_path / "here")
    opened = hf_peft.PeftModel.from_pretrained(base, tmp_path / "here").eval()
    np.testing.assert_allclose(theirs(opened), want, atol=1e-4)
    again = peft.load_adapter(load(tmp_path / "base"), tmp_path / "here")
    np.testing.assert_array_equal(run_ours(family, again), want)


def test_lora_factors_are_drawn_as_in_peft(tmp_path):
    import peft as hf_peft

    base = base_of("llama", tmp_path)
    fields = {"r": 256, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]}
    there = hf_peft.get_peft_model(base, hf_peft.LoraConfig(**fields))
    here = peft.add_adapter(load_causal(tmp_path / "base"), peft.LoRAConfig(**fields))
    blocks = here.blocks
    for name, ours in (("q_proj", blocks.self_attn.q_proj), ("down_proj", blocks.mlp.down_proj)):
        draws = [p for n, p in there.named_parameters() if f"{name}.lora_A" in n]
        a = np.stack([p.detach().numpy() for p in draws])
        b = np.asarray(ours.adapters["default"].A[...])
        np.testing.assert_allclose(a.std(), b.std(), rtol=0.03)
        np.testing.assert_allclose(np.abs(a).max(), np.abs(b).max(), rtol=0.01)
        zeros = [p for n, p in there.named_parameters() if f"{name}.lora_B" in n]
        assert not any(p.detach().numpy().any() for p in zeros)
        assert not np.any(ours.adapters["default"].B[...])
