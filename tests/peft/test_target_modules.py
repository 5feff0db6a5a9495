"""PEFT's rules of matching names."""

import jax
import pytest
from flax import nnx

from flaxae import peft
from flaxae.errors import ConfigError
from flaxae.lm.phi.modeling import Phi, PhiConfig
from flaxae.peft import target_modules as targets
from flaxae.peft.names import model_type, sites
from tests.peft.tiny import Net, t5

Q = "model.layers.10.self_attn.q_proj"


@pytest.mark.parametrize(
    ("names", "name", "matches"),
    [
        (("q_proj",), Q, True),
        (("self_attn.q_proj",), Q, True),
        ((Q,), Q, True),
        (("_proj",), Q, False),  # an end must follow a dot
        (("10.self_attn.q_proj",), Q, True),
        (("0.self_attn.q_proj",), Q, False),
        ("q_proj", Q, False),  # a string is a regex of the whole name
        (r".*q_proj", Q, True),
        (r".*layers\.1\..*", Q, False),
        (None, Q, False),
    ],
)
def test_names_are_matched_as_in_peft(names, name, matches):
    assert targets.matches(names, name) is matches


def test_all_linear_excludes_the_head():
    config = peft.LoRAConfig(target_modules="all-linear", exclude_modules=["v_proj"])
    assert targets.is_target(config, Q)
    assert not targets.is_target(config, "lm_head")
    assert not targets.is_target(config, Q.replace("q_", "v_"))
    assert not targets.is_target(config, "model.norm", linear=False)


def test_layers_are_selected_by_the_first_number_of_a_name():
    config = peft.LoRAConfig(target_modules=["q_proj", "w1"], layers_to_transform=[10, 3])
    assert targets.is_target(config, Q)
    assert not targets.is_target(config, Q.replace("10", "1"))
    assert targets.is_target(config, "model.layers.3.experts.7.w1")
    assert not targets.is_target(config, "model.layers.7.experts.3.w1")
    assert not targets.is_target(config, "q_proj")  # in no list of layers
    other = peft.LoRAConfig(
        target_modules="q_proj".split(), layers_to_transform=10, layers_pattern="blocks"
    )
    assert not targets.is_target(other, Q)
    assert targets.is_target(other, "blocks.10.q_proj")


def test_a_module_to_save_gets_no_adapter():
    config = peft.LoRAConfig(target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head"])
    assert not targets.is_target(config, "lm_head") and targets.is_saved(config, "lm_head")
    assert targets.is_target(config, Q) and not targets.is_saved(config, Q)


def test_the_first_pattern_that_matches_the_end_of_a_name_is_used():
    pattern = ((r"layers\.1[0-9].*\.q_proj", 4), ("q_proj", 2))
    assert targets.pattern_value(pattern, Q, 8) == 4
    assert targets.pattern_value(pattern, Q.replace("10", "1"), 8) == 2
    assert targets.pattern_value(pattern, Q.replace("q_", "v_"), 8) == 8
    assert targets.pattern_value((("proj", 2),), Q, 8) == 8


def test_default_targets_depend_on_the_model_type():
    assert model_type(t5()) == "t5" and model_type(Net()) == ""
    lora = targets.with_defaults(peft.LoRAConfig(), "phi")
    assert set(lora.target_modules) == {"q_proj", "v_proj", "fc1", "fc2"}
    ia3 = targets.with_defaults(peft.IA3Config(), "llama")
    assert set(ia3.target_modules) == {"k_proj", "v_proj", "down_proj"}
    assert ia3.feedforward_modules == ("down_proj",)
    # As in PEFT, feedforward_modules default to the type's also if targets are set.
    given = targets.with_defaults(peft.IA3Config(target_modules=["fc1", "fc2"]), "phi")
    assert given.feedforward_modules == ("fc2",)


def test_names_are_hugging_faces_or_the_modules_paths():
    names = {site.path: site.names for site in sites(t5())}
    assert names[("decoder", "blocks", "cross", "q")] == tuple(
        f"decoder.block.{i}.layer.1.EncDecAttention.q" for i in range(2)
    )
    own = {site.path: site.names for site in sites(Net())}
    assert own[("blocks", "up")] == tuple(f"blocks.{i}.up" for i in range(3))
    assert own[("head",)] == ("head",)


def test_a_t5_inside_another_model_keeps_its_names():
    class Outer(nnx.Module):
        def __init__(self):
            self.t5, self.net = t5(), Net()

    names = {site.path: site.names for site in sites(Outer())}
    assert names[("t5", "encoder", "blocks", "mlp", "wo")][1] == (
        "t5.encoder.block.1.layer.1.DenseReluDense.wo"
    )
    assert names[("net", "blocks", "up")][0] == "net.blocks.0.up"
    model = peft.add_adapter(Outer(), peft.LoRAConfig(target_modules=["DenseReluDense.wo"]))
    assert "adapters" in vars(model.t5.decoder.blocks.mlp.wo)


def phi(**sizes):
    return nnx.eval_shape(lambda: Phi(PhiConfig(**sizes), rngs=nnx.Rngs(0)))


def test_ia3_of_phi_2_has_573_440_parameters():
    """Count by phi's original names, on an abstract model."""
    sizes = dict(
        d_model=2560,
        d_ff=10240,
        num_heads=32,
        num_kv_heads=32,
        head_dim=80,
        num_layers=32,
        vocab_size=51200,
        rotary_dim=32,
    )
    config = peft.IA3Config(target_modules=["fc1", "Wqkv"], feedforward_modules=[])
    graphdef, state = nnx.split(phi(**sizes))
    made = []

    def add(state):
        made.append(peft.add_adapter(nnx.merge(graphdef, state), config))
        return nnx.state(made[-1], peft.AdapterParam)

    shapes = jax.eval_shape(add, state)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 573_440
    assert peft.count_params(made[-1]) == 573_440
    assert set(peft.adapter_configs(made[-1])["default"].target_modules) == {
        "fc1",
        "q_proj",
        "k_proj",
        "v_proj",
    }


def test_phis_original_names_are_only_known_for_phi():
    with pytest.raises(ConfigError, match="'Wqkv' is not a module"):
        peft.add_adapter(Net(), peft.LoRAConfig(target_modules=["Wqkv"]))


def test_an_empty_pattern_of_layers_is_none_as_in_peft():
    for empty in ("", [], None):
        assert peft.LoRAConfig(target_modules=["up"], layers_pattern=empty).layers_pattern is None


def test_targets_are_left_out_if_neither_the_model_nor_the_file_has_them():
    names = ["model.layers.0.mlp.fc1", Q]

    def kept(config, *found):
        keys = [f"base_model.model.{name}.lora_A.weight" for name in found]
        return targets.without_unknown(config, names, keys)

    both = peft.LoRAConfig(target_modules=["Wqkv", "fc1"])  # on current files PEFT finds only fc1
    assert kept(both, names[0]).target_modules == ("fc1",)
    assert kept(both, *names) is both
    assert kept(both, names[0], "transformer.h.0.mixer.Wqkv") is both
    missing = peft.LoRAConfig(target_modules=["q_proj", "fc1"])
    assert kept(missing, names[0]) is missing
    nothing = peft.LoRAConfig(target_modules=["gate"])
    assert kept(nothing) is nothing
    ia3 = kept(peft.IA3Config(target_modules=["wo", "fc1"], feedforward_modules=["wo", "fc1"]))
    assert ia3.target_modules == ia3.feedforward_modules == ("fc1",)
