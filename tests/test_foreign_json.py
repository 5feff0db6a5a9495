"""Typed fields of JSON files that other programs write."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxae.errors import ConfigError
from flaxae.foreign_json import check_fields, check_regex, read_fields

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=2), x, max_size=3),
    max_leaves=5,
)
KINDS = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "one or more": int | list[int],
    "names": list[str] | str,
    "pattern": dict[str, float],
    "nested": list[list[int]],
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("int", "4", 'int="4" is a string, not an integer'),
        ("int", True, "int=true is a boolean, not an integer"),
        ("int", 4.0, "int=4.0 is a number, not an integer"),
        ("bool", 1, "bool=1 is an integer, not a boolean"),
        ("float", float("nan"), "float=nan is not finite"),
        ("float", 10**400, "is an integer, not a number"),
        ("str", ["x"], r'str=\["x"\] is a list, not a string'),
        ("str", "\ud800", "lone surrogate"),
        ("one or more", [1, "2"], r'one or more\[1\]="2" is a string, not an integer'),
        ("one or more", {}, "={} is an object, not an integer or a list of integers"),
        ("pattern", {"up": "2"}, r'pattern\["up"\]="2" is a string, not a number'),
        ("nested", [[0], 1], r"nested\[1\]=1 is an integer, not a list of integers"),
    ],
)
def test_a_field_of_a_wrong_type_is_named_with_its_value(name, value, message):
    with pytest.raises(ConfigError, match=f"^a file: .*{message}"):
        check_fields({name: value}, KINDS, "a file: ")


def test_null_is_a_missing_field_and_unknown_fields_are_not_checked():
    check_fields({"int": None, "other": "x"}, KINDS)
    check_fields({"int": 3, "float": 3, "one or more": (1, 2), "pattern": {"up": 2}}, KINDS)


@given(st.sampled_from(sorted(KINDS)), VALUES)
def test_any_value_fits_or_is_one_message(name, value):
    try:
        check_fields({name: value}, KINDS)
    except ConfigError as error:
        assert str(error).count("\n") == 0 and name in str(error)
        assert value is not None


@given(st.dictionaries(st.sampled_from(sorted(KINDS)), VALUES) | VALUES)
def test_any_json_file_is_read_or_is_one_message(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(value))
    try:
        assert isinstance(read_fields(path, KINDS), dict)
    except ConfigError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "[" * 5000, "\ufeff[]", "{1: 2}"])
def test_files_without_a_json_object_raise_and_are_named(text, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="file.json: not (JSON|a JSON object)"):
        read_fields(path, {})
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ConfigError, match="file.json: not JSON"):
        read_fields(path, {})
    path.write_text('\ufeff{"a": 1}')  # Windows editors add a byte order mark
    assert read_fields(path, {"a": int}) == {"a": 1}


@pytest.mark.parametrize("pattern", ["(", "*x", "[a", "(?P<a>x)(?P<a>y)", "x{9,1}"])
def test_an_invalid_regular_expression_is_named(pattern):
    with pytest.raises(ConfigError, match="^target_modules: .* is not a regular expression"):
        check_regex(pattern, "target_modules")
