"""Headers of GGUF files: each field is used, harmless or refused; splits, types, damage."""

import math

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxae import lm
from flaxae.errors import ConfigError
from flaxae.lm.llama import params as llama
from flaxae.weights.gguf import GGUF, fields
from tests.weights import gguf_files
from tests.weights.gguf_files import TOKENS, tensors, write

pytest.importorskip("gguf")
ROPE = "llama.rope.scaling."


def config(tmp_path, changed=None, **options):
    """Return our config of a file with changed fields."""
    return llama.config_from_hf(GGUF(write(tmp_path / "x.gguf", changed, **options)).config())


def refused(tmp_path, message, changed=None, **options):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, changed, **options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return config(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    ("changed", "scaling"),
    [
        ({f"{ROPE}factor": 4.0}, ("linear", 4.0)),
        ({f"{ROPE}factor": 4.0, f"{ROPE}type": "linear"}, ("linear", 4.0)),
        ({"llama.rope.scale_linear": 2.0}, ("linear", 2.0)),  # the name in older files
        ({f"{ROPE}factor": 4.0, f"{ROPE}type": "none"}, ("default", 1.0)),
        ({f"{ROPE}factor": 0.0}, ("default", 1.0)),
        ({f"{ROPE}type": "none"}, ("default", 1.0)),
    ],
)
def test_a_factor_of_rotary_positions_without_a_type_is_linear_as_in_llama_cpp(
    changed, scaling, tmp_path
):
    found = config(tmp_path, changed)
    assert (found.rope_scaling.value, found.rope_factor) == scaling


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({f"{ROPE}type": "yarn", f"{ROPE}factor": 4.0}, "type='yarn' is not one of: none, linear"),
        ({f"{ROPE}type": "linear"}, "type='linear', but its header lacks"),
        ({f"{ROPE}factor": -4.0}, "factor=-4.0 must be positive"),
        ({f"{ROPE}factor": math.inf}, "factor is inf, not a finite number"),
        ({f"{ROPE}attn_factor": 1.2}, "attn_factor=1.2"),
        ({"llama.attention.sliding_window": 16}, "sliding_window=16 is shorter than .*=64"),
        ({"llama.final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0: not supported"),
        ({"llama.attention.value_length": 4}, "value_length=4, but there are 2 features per head"),
        ({"llama.rope.dimension_count": 4}, "dimension_count=4, but there are 2 features"),
        ({"llama.vocab_size": 30}, "vocab_size=30, but there are 20 rows of the embedding"),
        ({"llama.expert_count": 8}, "expert_count=8: not supported"),
        ({"llama.attention.causal": False}, "causal=False: not supported"),
        ({"llama.some_new_feature": 1}, "llama.some_new_feature=1: not supported"),
        ({"xielu.alpha_p": [0.5, 0.5]}, "xielu.alpha_p=.*: not supported"),
        ({"general.type": "adapter"}, "general.type='adapter': it contains no language model"),
        ({"llama.block_count": "two"}, "block_count is 'two', not an integer"),
        ({"llama.attention.head_count": [4, 2]}, r"head_count is \[4, 2\], not an integer"),
        ({"llama.attention.head_count": 0}, "head_count=0 does not fit"),
        ({"llama.context_length": None}, "its header lacks llama.context_length"),
        (
            {"llama.attention.layer_norm_rms_epsilon": None},
            "its header lacks llama.attention.layer_norm_rms_epsilon",
        ),
        ({"tokenizer.ggml.eos_token_id": None}, "its header lacks tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.eos_token_id": 20}, "eos_token_id=20 is not a token of the model"),
    ],
)
def test_a_field_that_changes_the_model_is_refused_by_name(changed, message, tmp_path):
    refused(tmp_path, message, changed)


def test_fields_that_change_nothing_are_accepted(tmp_path, plain):
    harmless = {
        "general.file_type": 1,
        "general.sampling.temp": 0.7,
        "llama.rope.dimension_count": 2,
        "llama.attention.value_length": 2,
        "llama.attention.sliding_window": 64,
        "llama.attention.head_count": [gguf_files.HEADS] * 2,
        "llama.tensor_data_layout": "Meta AI original pth",
        "llama.vocab_size": gguf_files.ROWS,
        "llama.expert_count": 0,
        "llama.logit_scale": 1.0,
        "quantize.imatrix.file": "x",
        f"{ROPE}original_context_length": 16,
    }
    assert config(tmp_path, harmless) == plain


def keys(group):
    """Yield all names of fields that the package knows."""
    for name, value in vars(group).items():
        if isinstance(value, type):
            yield from keys(value)
        elif isinstance(value, str) and not name.startswith("__"):
            yield value


def test_every_field_that_the_package_knows_is_used_harmless_or_refused():
    known = [key.replace("{arch}", "llama") for key in keys(gguf.Keys)]
    assert len(known) > 200
    ends = {k.removeprefix("llama.") for k in known if k.startswith("llama.")}
    groups = [fields.USED, fields.HARMLESS, fields.NEUTRAL.keys(), fields.OFF]
    assert sum(map(len, groups)) == len(set().union(*groups))  # no field is in two
    assert not (fields.OFF | fields.HARMLESS | fields.NEUTRAL.keys()) - ends
    assert fields.USED - ends == {"rope.scale_linear"}
    for end in ends:
        for value in (7, "x", [1]):
            found = fields.unsupported("llama", [f"llama.{end}"], lambda _, v=value: v)
            assert bool(found) is (end not in fields.USED | fields.HARMLESS), end
    tokens = {k.removeprefix("tokenizer.ggml.") for k in known if k.startswith("tokenizer.ggml.")}
    ours = fields.TOKENIZER_USED | fields.TOKENIZER_HARMLESS | fields.TOKENIZER_OFF
    assert tokens <= ours and ours - tokens == {"cls_token_id"}


def test_both_chat_templates_are_read(tmp_path):
    names = {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "tools"}
    path = write(tmp_path / "x.gguf", names | {"tokenizer.chat_template": "plain"})
    found = lm.load(path).tokenizer
    assert found and (found.template, found.tool_template) == ("plain", "tools")


def test_all_ends_of_texts_and_turns_are_read(tmp_path):
    ends = {"tokenizer.ggml.eot_token_id": 2, "tokenizer.ggml.eom_token_id": 1}
    assert config(tmp_path, ends).eos_ids == (1, 2)
    none = {"tokenizer.ggml.bos_token_id": 2**32 - 1}
    kinds = {"tokenizer.ggml.bos_token_id": gguf.GGUFValueType.UINT32}
    file = GGUF(write(tmp_path / "x.gguf", none, kinds=kinds.items()))
    assert file.token(file.config().get("bos_token_id")) == ""


def split(tmp_path, count=2, stem="model"):
    """Write a split model, whose head is in the last part; return the paths."""
    whole = sorted(tensors(head=True).items(), key=lambda item: item[0] == "output.weight")
    parts = [whole[:-1], whole[-1:]] if count == 2 else [whole]
    kind = {"split.no": gguf.GGUFValueType.UINT16, "split.count": gguf.GGUFValueType.UINT16}
    paths = []
    for i, part in enumerate(parts):
        path = tmp_path / f"{stem}-{i + 1:05d}-of-{count:05d}.gguf"
        own = {"split.no": i, "split.count": count, "split.tensors.count": len(whole)}
        fields = own if i == 0 else dict.fromkeys(gguf_files.FIELDS) | own
        paths.append(write(path, fields, dict(part), kinds=kind.items()))
    return paths


def test_a_split_model_is_read_from_all_of_its_parts(tmp_path):
    first, second = split(tmp_path)
    file = GGUF(first)
    assert not file.config()["tie_word_embeddings"] and file.files == (first, second)
    np.testing.assert_array_equal(file.read("lm_head.weight"), tensors(head=True)["output.weight"])
    with pytest.raises(ConfigError, match="name the first, model-00001-of-00002"):
        GGUF(second)
    second.rename(tmp_path / "other-00002-of-00002.gguf")
    with pytest.raises(ConfigError, match="model-00002-of-00002.gguf is missing: put all parts"):
        GGUF(first)
    first.rename(tmp_path / "model.gguf")
    with pytest.raises(ConfigError, match="one of 2 parts, and is not named NAME-00001-of-00002"):
        GGUF(tmp_path / "model.gguf")


def test_parts_of_another_model_are_refused(tmp_path):
    first, second = split(tmp_path)
    write(second, {"split.no": 1, "split.count": 2}, {"output.weight": np.ones((20, 8), "f4")})
    GGUF(first)
    write(second, {"split.no": 1, "split.count": 2}, {"a": np.ones(4, "f4"), "b": np.ones(4, "f4")})
    with pytest.raises(ConfigError, match="its parts have 22 tensors, its header says 21"):
        GGUF(first)
    write(second, {}, {"output.weight": np.ones((20, 8), np.float32)})
    with pytest.raises(ConfigError, match="its header says part None of None"):
        GGUF(first)


def test_types_without_a_dequantiser_and_integers_are_refused_by_name(tmp_path):
    table = tensors()
    table["token_embd.weight"] = table["token_embd.weight"].astype(np.float64)
    file = GGUF(write(tmp_path / "x.gguf", values=table))
    np.testing.assert_allclose(file.read("model.embed_tokens.weight"), table["token_embd.weight"])
    table["output_norm.weight"] = np.ones(8, np.int8)
    refused(tmp_path, "model.norm.weight is of type I8.*quantise the model", values=table)
    del table["output_norm.weight"]
    kind = gguf.GGMLQuantizationType.Q8_K
    blocks = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    more = [("output_norm.weight", blocks, kind)]
    refused(tmp_path, "model.norm.weight is of type Q8_K", values=table, raw=more)


def test_other_layouts_of_the_file_and_of_blocks_are_refused(tmp_path):
    kind = gguf.GGMLQuantizationType.Q8_0
    more = [("output.weight", gguf.quantize(np.ones((20, 32), np.float32), kind), kind)]
    refused(tmp_path, "quantization_version=1", {"general.quantization_version": 1}, raw=more)
    refused(
        tmp_path, "model.norm.weight is not a name of", values={"model.norm.weight": np.ones(8)}
    )
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(str(path), "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="big-endian; convert it with `gguf-convert-endian"):
        GGUF(path)


def test_cut_files_and_other_files_raise_one_clear_error(tmp_path):
    data = write(tmp_path / "x.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [*range(8, 400, 29), len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(ConfigError, match="cut.gguf: not a complete GGUF file"):
            GGUF(path)
    # An array of 2**40 numbers: the reader must not look for them.
    endless = data.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    path.write_bytes(data[:endless] + (2**40).to_bytes(8, "little") + data[endless + 8 :])
    with pytest.raises(ConfigError, match="not a complete GGUF file"):
        GGUF(path)
    for start in (b"", b"PK\x03\x04", b"FUGG" + data[4:]):
        path.write_bytes(start)
        with pytest.raises(ConfigError, match="not a GGUF file: it begins with"):
            GGUF(path)


TOKENIZER = "tokenizer.ggml."


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"merges": ["a b", "a z"]}, r"merges\[1\] is 'a z': 'z' is not a token"),
        ({"merges": ["a c"]}, r"merges\[0\] is 'a c': 'ac' is not a token"),
        ({"merges": ["ab"]}, r"merges\[0\] is 'ab': "),
        ({"merges": None}, "its header lacks tokenizer.ggml.merges; pass tokenizer=DIR"),
        ({"tokens": None}, "its header lacks tokenizer.ggml.tokens; pass tokenizer=DIR"),
        ({"tokens": [*TOKENS, "a"]}, "tokens 3 and 16 are both 'a'"),
        ({"tokens": [*TOKENS, *"ABCDEFGH"]}, "24 tokens, but its embedding has 20 rows"),
        ({"token_type": [3, 3]}, "2 of tokenizer.ggml.token_type for 16 tokens"),
        ({"add_sep_token": True}, "add_sep_token=True: not supported; pass tokenizer=DIR"),
        ({"normalizer.lowercase": True}, "normalizer.lowercase=True: not supported"),
        ({"add_eos_token": True, "eos_token_id": 17}, "eos_token_id=17 is not a token"),
    ],
)
def test_a_tokenizer_that_cannot_be_built_is_one_error_with_a_way_out(changed, message, tmp_path):
    changed = {f"{TOKENIZER}{name}": value for name, value in changed.items()}
    with pytest.raises(ConfigError, match=message):
        GGUF(write(tmp_path / "x.gguf", changed)).tokenizer()


def test_the_header_decides_which_tokens_stand_around_a_text(tmp_path):
    def ids(**flags):
        changed = {f"{TOKENIZER}{name}": value for name, value in flags.items()}
        return GGUF(write(tmp_path / "x.gguf", changed)).tokenizer().encode("ab").ids

    ab = TOKENS.index("ab")
    assert ids() == ids(add_bos_token=False) == [ab]
    assert ids(add_bos_token=True) == [0, ab]
    assert ids(add_bos_token=True, add_eos_token=True) == [0, ab, 1]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**31 - 1, -(2**31)]),
    st.floats(width=32),
    st.sampled_from(["", "llama", "linear", "none", "yarn"]),
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
)
NAMES = [
    *(name for name in gguf_files.FIELDS if name.startswith("llama.")),
    *(f"llama.{end}" for end in sorted(fields.USED | fields.OFF | fields.NEUTRAL.keys())),
    "llama.unknown",
    "tokenizer.ggml.eos_token_id",
    "split.count",
]


@settings(max_examples=30)
@given(changed=st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=3))
def test_any_header_opens_with_its_meaning_or_raises_one_error(changed, tmp_path_factory):
    try:
        found = config(tmp_path_factory.getbasetemp(), changed)
    except ConfigError as error:
        assert "\n" not in str(error)
        return
    expected = gguf_files.FIELDS | changed
    head_count = expected["llama.attention.head_count"]
    layers = expected["llama.block_count"]
    for have, want in ((found.num_heads, head_count), (found.num_layers, layers)):
        assert have == (want[0] if isinstance(want, list) else want)
    factor = expected.get(f"{ROPE}factor") or expected.get("llama.rope.scale_linear")
    scaled = factor if factor and expected.get(f"{ROPE}type") != "none" else 1
    assert found.rope_factor == scaled
    for end in fields.OFF:
        assert not expected.get(f"llama.{end}")
