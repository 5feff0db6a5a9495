"""GGUF files as sources of tensors: one file, or all parts of a split model."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from flaxae.config.locate import user_path
from flaxae.errors import ConfigError, require
from flaxae.pointers import require_content
from flaxae.weights import hf
from flaxae.weights.gguf import header as header_lib
from flaxae.weights.gguf import tokenizer as tokenizer_lib

SUFFIX = ".gguf"
MAGIC = b"GGUF"
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})")  # llama.cpp's names
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
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
_FLOATS = ("F64", "F32", "F16")  # stored as numpy's types


class GGUF(hf.TensorSource):
    """An open GGUF file.

    Args:
        path: the file; of a split model, the first part.

    Attributes:
        header: the fields of the header.
        files: the file, or all parts of a split model.

    Raises:
        ConfigError: if the `gguf` package or a file is missing, or it is not a GGUF file of a
            Llama, or it has tensors or fields that are not supported.
    """

    def __init__(self, path: str | Path):
        self.directory = user_path(path)
        self._gguf = _package(path)
        reader = _open(self._gguf, self.directory)
        self.header = header_lib.Header(self.directory, reader)
        self.files, parts = (self.directory,), [reader]
        count = self.header.integer("split.count")
        if count is not None and count > 1:
            self.files, parts = _all_parts(self._gguf, self.header, count, reader)
        self._tensors = _by_name([t for part in parts for t in part.tensors], self.directory)
        kinds = {t.tensor_type for t in self._tensors.values()}
        self.header.check(quantised=any(kind.name not in _FLOATS for kind in kinds))
        self._check_kinds()
        start = f"{self.header.architecture}.attention.head_count"
        self._heads = self.header.integer(start) or 0
        self._kv_heads = self.header.integer(f"{start}_kv") or self._heads

    def _check_kinds(self) -> None:
        """Raise ConfigError for a tensor of a type that cannot be read as floats."""
        wrong = {}
        for name, tensor in self._tensors.items():
            kind = tensor.tensor_type
            if kind not in wrong:
                wrong[kind] = [] if _readable(self._gguf, kind) else None
            if wrong[kind] is None:
                raise ConfigError(
                    f"{self.directory}: {name} is of type {kind.name}, which the `gguf` package "
                    "cannot dequantise; quantise the model to another type, such as Q8_0 or Q4_K"
                )

    @property
    def names(self) -> set[str]:
        """Hugging Face names of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(int(n) for n in reversed(self._tensors[name].shape))

    def dtype(self, name: str) -> str:
        """Return the type that a tensor is read in."""
        return "F32"

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Return a slice of a tensor, float32."""
        value = self._dequantised(self._tensors[name]).reshape(self.shape(name))
        for part, heads in ((".q_proj.", self._heads), (".k_proj.", self._kv_heads)):
            if part in name:
                value = half_split(value, heads)
        return value[index if index else ...]

    def _dequantised(self, tensor: Any) -> np.ndarray:
        if tensor.tensor_type.name == "F64":
            return tensor.data.astype(np.float32)
        return self._gguf.dequantize(tensor.data, tensor.tensor_type)

    def config(self) -> dict[str, Any]:
        """Return the config.json that a Hugging Face directory of the model would contain.

        Raises:
            ConfigError: if the header lacks a field, or the model is one that is not supported.
        """
        require(
            "rope_freqs.weight" not in self.names,
            f"{self.directory}: it contains its own rotary frequencies (Llama 3's scaling), which "
            "are not read from GGUF files; use the Hugging Face directory",
        )
        table = "model.embed_tokens.weight"
        require(
            table in self.names and len(self.shape(table)) == 2,
            f"{self.directory}: it has no token_embd.weight, a matrix: not a whole language model",
        )
        return header_lib.config(self.header, self.shape(table)[0], self.names)

    def tokenizer(self) -> Any:
        """Build a `tokenizers.Tokenizer` from the file's vocabulary and merges.

        Raises:
            ConfigError: if its kind is not supported, or its fields contradict each other.
        """
        return tokenizer_lib.build(self.header, self.shape("model.embed_tokens.weight")[0])

    def token(self, id: int | None) -> str:
        """Return the text of a token, "" for None."""
        return "" if id is None else tokenizer_lib.tokens(self.header)[id]

    def chat_template(self, name: str = "") -> str:
        """Return the Jinja source of the chat template, or of one by name; "" if there is none."""
        return self.header.text(f"tokenizer.chat_template{f'.{name}' if name else ''}") or ""


def _package(path: str | Path) -> Any:
    try:
        import gguf
    except ImportError:
        raise ConfigError(f"{path}: reading GGUF files needs `pip install gguf`") from None
    return gguf


def _open(gguf: Any, path: Path) -> Any:
    """Return a reader of a file, which never reads past its end."""
    require(path.is_file(), f"{path}: no such file")
    require_content(path)
    with path.open("rb") as file:
        start = file.read(8)
    require(
        start[:4] == MAGIC,
        f"{path}: not a GGUF file: it begins with {start[:4]!r}, not {MAGIC!r}"
        f"{'' if start else ' (it is empty)'}",
    )

    class Reader(gguf.GGUFReader):
        def _get(self, offset: int, dtype: Any, count: Any = 1, *args: Any, **kwargs: Any) -> Any:
            end = int(offset) + np.dtype(dtype).itemsize * int(count)
            if end > self.data.size:
                raise ValueError(f"it ends at byte {self.data.size}, and {end} are needed")
            return super()._get(offset, dtype, count, *args, **kwargs)

    try:
        reader = Reader(str(path))
    except (ValueError, OSError, IndexError, KeyError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{path}: not a complete GGUF file ({error}); download or convert it again"
        ) from None
    require(
        reader.byte_order == "I",
        f"{path}: its numbers are big-endian; convert it with `gguf-convert-endian {path} little`",
    )
    return reader


def _all_parts(
    gguf: Any, header: header_lib.Header, count: int, first: Any
) -> tuple[tuple[Path, ...], list[Any]]:
    """Return the files and readers of a split model, whose first part is open."""
    path = header.path
    match = _PART.fullmatch(path.stem)
    if match is None or int(match["count"]) != count:
        raise ConfigError(
            f"{path}: it is one of {count} parts, and is not named NAME-00001-of-{count:05d}.gguf: "
            "restore the names of all parts, or merge them with `llama-gguf-split --merge`"
        )
    names = [f"{match['stem']}-{i + 1:05d}-of-{count:05d}{SUFFIX}" for i in range(count)]
    require(path.name == names[0], f"{path}: a part of a split model; name the first, {names[0]}")
    missing = [name for name in names if not (path.parent / name).is_file()]
    require(
        not missing,
        f"{path}: it is one of {count} parts; {', '.join(missing[:3])} "
        f"{'are' if len(missing) > 1 else 'is'} missing: put all parts into one folder",
    )
    files = tuple(path.parent / name for name in names)
    parts = [first, *(_open(gguf, file) for file in files[1:])]
    for i, (file, part) in enumerate(zip(files, parts, strict=True)):
        own = header_lib.Header(file, part)
        have = own.integer("split.no"), own.integer("split.count")
        require(
            have == (i, count),
            f"{file}: its header says part {have[0]} of {have[1]}, its name {i} of {count}",
        )
    total, wanted = sum(len(p.tensors) for p in parts), header.integer("split.tensors.count")
    require(
        wanted in (None, total),
        f"{path}: its parts have {total} tensors, its header says {wanted}: a part is of another "
        "model",
    )
    return files, parts


def _by_name(tensors: list[Any], path: Path) -> dict[str, Any]:
    """Return the tensors by Hugging Face's names; unknown names stay, so that they are reported."""
    out = {}
    for tensor in tensors:
        name = _name(tensor.name)
        # A file with Hugging Face's own names would have another order of rows.
        foreign = name == tensor.name and re.match(r"model\.|lm_head\.", name)
        require(not foreign, f"{path}: {tensor.name} is not a name of GGUF's tensors")
        require(name not in out, f"{path}: the tensor {tensor.name} is in it twice")
        out[name] = tensor
    return out


def _readable(gguf: Any, kind: Any) -> bool:
    """Return True if one block of a type of tensors can be dequantised."""
    if kind.name in _FLOATS:
        return True
    block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    try:
        gguf.dequantize(block, kind)
    except NotImplementedError:
        return False
    return True


def _name(name: str) -> str:
    """Return a tensor's Hugging Face name; unknown names stay."""
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if match and match[2] in _BLOCK:
        return f"model.layers.{match[1]}.{_BLOCK[match[2]]}.{match[3]}"
    if match and match[2] == "attn_rot_embd":  # of older files; not read
        return f"model.layers.{match[1]}.self_attn.rotary_emb.inv_freq"
    return _WHOLE.get(name, name)


def half_split(rows: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of each head: llama.cpp's adjacent pairs become two halves."""
    return rearrange(rows, "(heads half two) ... -> (heads two half) ...", heads=heads, two=2)
