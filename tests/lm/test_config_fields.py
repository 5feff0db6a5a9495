"""Fields of a wrong type in the JSON files of model directories: one message each."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxae import lm
from flaxae.errors import ConfigError
from flaxae.lm import files
from flaxae.lm.funnel import params as funnel
from flaxae.lm.funnel.config import FunnelConfig
from flaxae.lm.llama import params as llama
from flaxae.lm.phi import params as phi
from flaxae.lm.t5 import params as t5
from flaxae.lm.t5.blocks import T5Config
from tests.lm.test_loading import saved
from tests.test_foreign_json import VALUES
from tests.tiny.language_models import KINDS, LLAMA3, tiny

RAW = {
    "llama": llama.config_to_hf(tiny("llama", **LLAMA3).config) | {"rope_parameters": None},
    "phi": phi.config_to_hf(KINDS["phi"][1]),
    "phi-msft": {old: None for old in phi.OLD_FIELDS} | {"model_type": "phi-msft"},
    "t5": t5.config_to_hf(T5Config(vocab_size=32)),
    "funnel": funnel.config_to_hf(FunnelConfig(vocab_size=32)) | dict.fromkeys(funnel.OTHER_NAMES),
}
PARAMS = {"llama": llama, "phi": phi, "phi-msft": phi, "t5": t5, "funnel": funnel}
FIELDS = [(kind, field) for kind, raw in RAW.items() for field in raw]
INNER = [("llama", f"{part} {name}") for part in files.ROPE_FIELDS for name in files.ROPE_KINDS]


@given(st.sampled_from(FIELDS + INNER), VALUES)
def test_any_value_of_a_field_is_read_or_is_one_message(field, value):
    kind, name = field
    part, _, inner = name.partition(" ")
    changed = {"rope_type": "llama3", inner: value} if inner else value
    try:
        PARAMS[kind].config_from_hf(RAW[kind] | {part: changed})
    except ConfigError as error:
        assert str(error).count("\n") == 0


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    saved("llama", folder)
    return folder


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"hidden_size": "16"}, 'hidden_size="16" is a string, not an integer'),
        ("config.json", {"rope_theta": [1]}, r"rope_theta=\[1\] is a list, not a number"),
        ("config.json", {"rope_scaling": "linear"}, "rope_scaling=.* is a string, not an object"),
        (
            "config.json",
            {"rope_scaling": {"rope_type": "linear", "factor": "2"}},
            'rope_scaling: factor="2" is a string, not a number',
        ),
        ("config.json", {"tie_word_embeddings": "yes"}, "tie_word_embeddings=.*, not a boolean"),
        ("config.json", {"eos_token_id": ["2"]}, r'eos_token_id\[0\]="2" is a string'),
        ("config.json", {"eos_token_id": 2.0}, "eos_token_id=2.0 is a number, not an integer or"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is above 4096"),
        ("config.json", {"hidden_size": 10**30}, "is above 2147483647"),
        ("generation_config.json", {"eos_token_id": "2"}, 'eos_token_id="2" is a string'),
        ("generation_config.json", [], "not a JSON object, but a list"),
        ("model.safetensors.index.json", {"weight_map": ["a"]}, "weight_map=.* is a list, not an"),
        ("model.safetensors.index.json", {"weight_map": {"a": 1}}, r'weight_map\["a"\]=1 is an'),
        ("model.safetensors.index.json", {}, "it has no weight_map"),
    ],
)
def test_a_field_of_a_wrong_type_is_named_with_its_file(directory, tmp_path, file, change, message):
    folder = shutil.copytree(directory, tmp_path / "copy")
    raw = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(raw | change if isinstance(change, dict) else change))
    if "index" in file:
        (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=f"{file}: .*{message}"):
        lm.load(folder)
