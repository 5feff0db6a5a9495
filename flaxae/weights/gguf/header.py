"""Typed fields of a GGUF header, and the config.json that they stand for."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flaxae.errors import ConfigError, require
from flaxae.weights.gguf import fields

ARCHITECTURES = ("llama",)
SCALINGS = ("none", "linear")
# Fields of the header -> fields of config.json. llama.cpp needs those of the first table.
REQUIRED = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
OPTIONAL = {
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
}
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")  # of a text, a turn, a message
LAYOUT_VERSION = 2  # of the blocks of quantised tensors
NO_TOKEN = 2**32 - 1  # -1 as an unsigned integer
_NAMES = {int: "an integer", float: "a finite number", str: "a text", bool: "true or false"}


class Header:
    """The fields of a GGUF header, each read with the type that it must have.

    Args:
        path: the file, for messages.
        reader: a `gguf.GGUFReader`.
    """

    def __init__(self, path: Path, reader: Any):
        self.path, self._reader = path, reader
        self._values: dict[str, Any] = {}  # read before
        self.architecture = self.text("general.architecture") or ""
        self.kind = self.text("general.type") or "model"

    @property
    def names(self) -> list[str]:
        """Names of all fields."""
        return list(self._reader.fields)

    def value(self, name: str) -> Any:
        """Return the value of a field, None if there is none.

        Raises:
            ConfigError: if it is a text that is not UTF-8.
        """
        if name not in self._values:
            found = self._reader.get_field(name)
            try:
                self._values[name] = None if found is None else found.contents()
            except UnicodeDecodeError as error:
                raise ConfigError(f"{self.path}: {name} is not UTF-8 ({error})") from None
        return self._values[name]

    def text(self, name: str) -> str | None:
        """Return a field that is a text."""
        return self._typed(name, str)

    def flag(self, name: str) -> bool | None:
        """Return a field that is true or false."""
        return self._typed(name, bool)

    def integer(self, name: str) -> int | None:
        """Return a field that is an integer, also if it is given for each layer and the same."""
        value = self.value(name)
        if isinstance(value, list) and value and all(x == value[0] for x in value):
            return self._checked(name, value[0], int)
        return self._typed(name, int)

    def number(self, name: str) -> float | None:
        """Return a field that is a finite number."""
        return self._typed(name, float)

    def all(self, name: str, kind: type) -> list[Any] | None:
        """Return a field that is an array, all of one type."""
        values = self.value(name)
        if values is None:
            return None
        require(isinstance(values, list), f"{self.path}: {name} is {values!r}, not an array")
        return [self._checked(name, value, kind) for value in values]

    def _typed(self, name: str, kind: type) -> Any:
        value = self.value(name)
        return None if value is None else self._checked(name, value, kind)

    def _checked(self, name: str, value: Any, kind: type) -> Any:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        right = right and (kind is not float or math.isfinite(value))
        require(right, f"{self.path}: {name} is {fields.short(value)}, not {_NAMES[kind]}")
        return value

    def check(self, quantised: bool) -> None:
        """Raise ConfigError for a file of something else than a supported language model.

        Args:
            quantised: the file has quantised tensors.
        """
        require(
            self.kind == "model",
            f"{self.path}: general.type={self.kind!r}: it contains no language model of its own "
            "(an adapter, a projector or statistics); name the model's file",
        )
        require(
            self.architecture in ARCHITECTURES,
            f"{self.path}: general.architecture={self.architecture!r} is not one of: "
            f"{', '.join(ARCHITECTURES)}",
        )
        version = self.integer("general.quantization_version")
        require(
            not quantised or version in (None, LAYOUT_VERSION),
            f"{self.path}: general.quantization_version={version}: only the blocks of version "
            f"{LAYOUT_VERSION} are read; quantise the model again with a current llama.cpp",
        )
        wrong = fields.unsupported(self.architecture, self.names, self.value)
        require(
            not wrong,
            f"{self.path}: {', '.join(wrong)}: not supported, and the model would compute "
            "something else without; open the model that this file was converted from, if flaxae "
            "supports it",
        )


def config(header: Header, rows: int, names: Iterable[str]) -> dict[str, Any]:
    """Return the config.json that a Hugging Face directory of the model would contain.

    Args:
        header: the header, checked.
        rows: rows of the embedding.
        names: Hugging Face's names of all tensors.

    Raises:
        ConfigError: if the header lacks a field, or fields contradict each other.
    """
    path, names, start = header.path, set(names), f"{header.architecture}."
    raw: dict[str, Any] = {"model_type": "llama", "hidden_act": "silu"}
    for theirs, name in (REQUIRED | OPTIONAL).items():
        raw[name] = header.integer(f"{start}{theirs}")
    raw["rms_norm_eps"] = header.number(f"{start}attention.layer_norm_rms_epsilon")
    missing = [end for end, name in REQUIRED.items() if raw[name] is None]
    missing += ["attention.layer_norm_rms_epsilon"] if raw["rms_norm_eps"] is None else []
    require(not missing, f"{path}: its header lacks {', '.join(start + x for x in missing)}")
    heads, width = raw["num_attention_heads"], raw["head_dim"]
    require(
        min(heads, raw["hidden_size"]) > 0 and (width is not None or heads <= raw["hidden_size"]),
        f"{path}: {start}attention.head_count={heads} does not fit embedding_length="
        f"{raw['hidden_size']}",
    )
    raw["head_dim"] = raw["hidden_size"] // heads if width is None else width
    raw["vocab_size"] = rows
    _check_sizes(header, start, raw)
    raw |= _rope(header, start)
    raw["tie_word_embeddings"] = "lm_head.weight" not in names
    raw["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in names
    raw["mlp_bias"] = "model.layers.0.mlp.up_proj.bias" in names
    ids = {name: _token(header, f"tokenizer.ggml.{name}", rows) for name in ("bos_token_id", *ENDS)}
    raw["bos_token_id"] = ids["bos_token_id"]
    raw["eos_token_id"] = list(dict.fromkeys(ids[x] for x in ENDS if ids[x] is not None))
    require(
        bool(raw["eos_token_id"]),
        f"{path}: its header lacks tokenizer.ggml.eos_token_id, the token that ends a text; add it "
        "with `gguf-new-metadata`",
    )
    return {name: value for name, value in raw.items() if value is not None}


def _check_sizes(header: Header, start: str, raw: dict[str, Any]) -> None:
    """Raise ConfigError if a field contradicts the sizes, or a window is shorter than the text."""
    width, length = raw["head_dim"], raw["max_position_embeddings"]
    equal = {
        "rope.dimension_count": (width, "features per head"),
        "attention.value_length": (width, "features per head"),
        "vocab_size": (raw["vocab_size"], "rows of the embedding"),
    }
    for name, (right, what) in equal.items():
        value = header.integer(start + name)
        require(
            value is None or value == right,
            f"{header.path}: {start}{name}={value}, but there are {right} {what}: a Llama needs "
            "the same number",
        )
    window = header.integer(f"{start}attention.sliding_window")
    require(
        not window or window >= length,
        f"{header.path}: {start}attention.sliding_window={window} is shorter than "
        f"context_length={length}, and windows are not supported",
    )


def _rope(header: Header, start: str) -> dict[str, Any]:
    """Return rope_theta and rope_scaling. As in llama.cpp, a factor without a type is linear."""
    out: dict[str, Any] = {"rope_theta": header.number(f"{start}rope.freq_base")}
    kind = header.text(f"{start}rope.scaling.type")
    require(
        kind is None or kind in SCALINGS,
        f"{header.path}: {start}rope.scaling.type={kind!r} is not one of: {', '.join(SCALINGS)}",
    )
    found = [
        (name, header.number(start + name)) for name in ("rope.scaling.factor", "rope.scale_linear")
    ]
    given = [(name, value) for name, value in found if value]  # llama.cpp takes 0 for none
    for name, value in given:
        require(value > 0, f"{header.path}: {start}{name}={value} must be positive")
    if kind == "none":
        return out
    require(
        kind is None or bool(given),
        f"{header.path}: {start}rope.scaling.type={kind!r}, but its header lacks "
        f"{start}rope.scaling.factor",
    )
    if given:
        out["rope_scaling"] = {"rope_type": "linear", "factor": given[0][1]}
    return out


def _token(header: Header, name: str, rows: int) -> int | None:
    """Return a field that is a token's id, None for none."""
    value = header.integer(name)
    if value is None or value in (-1, NO_TOKEN):
        return None
    require(
        0 <= value < rows,
        f"{header.path}: {name}={value} is not a token of the model, which has {rows}; correct it "
        "with `gguf-set-metadata`",
    )
    return value
