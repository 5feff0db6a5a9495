"""Names of adapters' tensors that `save_pretrained` of PEFT did not write."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from flaxae.errors import ConfigError
from flaxae.peft.hf_format import WEIGHTS, _read
from flaxae.peft.saved_names import with_saved_names

START = "base_model.model."
WANTED = {
    *(f"{START}model.layers.0.self_attn.q_proj.lora_{x}.weight" for x in "AB"),
    f"{START}model.layers.0.self_attn.q_proj.lora_magnitude_vector",
    f"{START}model.layers.0.mlp.down_proj.ia3_l",
    f"{START}lm_head.weight",
}


def in_state_dict(name):
    """Return the name in the state dict of a PEFT model with an adapter "default"."""
    for part in ("lora_A", "lora_B"):
        name = name.replace(f"{part}.", f"{part}.default.")
    name = name.replace("lora_magnitude_vector", "lora_magnitude_vector.default.weight")
    name = name.replace("ia3_l", "ia3_l.default")
    return name.replace("lm_head.", "lm_head.modules_to_save.default.")


CHANGES = {
    "none": lambda name: name,
    "state dict": in_state_dict,
    "compiled": lambda name: f"_orig_mod.{name}",
    "parallel and compiled": lambda name: f"module._orig_mod.{in_state_dict(name)}",
    "no prefix": lambda name: name.removeprefix(START),
    "half of the prefix": lambda name: name.replace(START, "base_model."),
    "of the inner model": lambda name: name.replace(f"{START}model.", START),
}


@pytest.mark.parametrize("change", CHANGES)
def test_names_that_fit_after_a_known_change_are_understood(change):
    tensors = {CHANGES[change](name): np.float32(i) for i, name in enumerate(sorted(WANTED))}
    found = with_saved_names(tensors, WANTED)
    assert [found[name] for name in sorted(WANTED)] == list(range(len(WANTED)))


def test_the_bases_copies_of_saved_modules_are_left_out():
    tensors = {in_state_dict(name): np.ones(1) for name in WANTED}
    tensors[f"{START}lm_head.original_module.weight"] = np.zeros(1)
    assert with_saved_names(tensors, WANTED) == {name: np.ones(1) for name in WANTED}


def test_names_stay_as_they_are_if_they_do_not_all_fit():
    tensors = {f"other.{name}": np.ones(1) for name in WANTED}
    assert with_saved_names(tensors, WANTED) is tensors
    more = {in_state_dict(name): np.ones(1) for name in WANTED} | {"x": np.ones(1)}
    assert with_saved_names(more, WANTED) is more
    two = {in_state_dict(name): np.ones(1) for name in WANTED} | dict.fromkeys(WANTED, np.ones(1))
    assert with_saved_names(two, WANTED) is two


def test_tensors_that_are_not_floats_are_refused_by_name(tmp_path):
    save_file({"a.lora_A.weight": np.ones(2, np.int8)}, tmp_path / WEIGHTS)
    with pytest.raises(ConfigError, match="a.lora_A.weight is stored as I8, not as one of"):
        _read(tmp_path)
