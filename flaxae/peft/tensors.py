"""The tensors of PEFT's files: their names, and how they are laid out compared with ours."""

import dataclasses
import enum
import re
from typing import Any

import numpy as np

from flaxae.errors import require
from flaxae.peft.bitfit import Bias, SavedLinear
from flaxae.peft.ia3 import IA3
from flaxae.peft.layers import AdapterParam, ReplacedParams
from flaxae.peft.lora import LoRA

WEIGHT = {"kernel": "weight", "table": "weight", "scale": "weight", "bias": "bias"}
# Names in the code that Microsoft first published for Phi, with a fused projection.
OLD = re.compile(
    r"^(?P<start>.*\.)transformer\.h\.(?P<n>\d+)\.(?P<module>[\w.]+?)"
    r"\.(?P<end>lora_A\.weight|lora_B\.weight|lora_magnitude_vector|ia3_l)$"
)
OLD_MODULES = {"mixer.out_proj": "self_attn.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
FUSED = "mixer.Wqkv"


class Form(enum.Enum):
    """The layout of a layer's values in a file."""

    PLAIN = "plain"
    MATRIX = "matrix"  # our (in, out) is (out, in) in the file
    ROW = "row"  # our (n,) is (1, n)
    COLUMN = "column"  # our (n,) is (n, 1)

    def to_file(self, x: np.ndarray) -> np.ndarray:
        """Return our values in the file's layout."""
        if self is Form.MATRIX:
            return x.T
        return x[None] if self is Form.ROW else x[:, None] if self is Form.COLUMN else x

    def from_file(self, x: np.ndarray) -> np.ndarray:
        """Return a file's values in our layout."""
        if self is Form.MATRIX:
            return x.T
        return x if self is Form.PLAIN else x.reshape(-1)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor of a file.

    Attributes:
        key: name of the tensor.
        variable: variable of the adapter.
        values: values of the variable, on the host; the entries of all layers share them.
        index: index of the layer; None: the module is in no stack.
        part: the part of a layer's values without the padding of its rank.
        form: layout in the file.
    """

    key: str
    variable: AdapterParam
    values: np.ndarray
    index: int | None
    part: tuple[slice, ...]
    form: Form

    def _layer(self) -> np.ndarray:
        return self.values if self.index is None else self.values[self.index]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the file."""
        return self.form.to_file(self._layer()[self.part]).shape

    def to_disk(self) -> np.ndarray:
        """Return the tensor to write, float32."""
        layer = self._layer()
        kept = layer[self.part]
        padding = np.count_nonzero(layer) - np.count_nonzero(kept)
        require(not padding, f"{self.key}: the padding of its rank is not 0")
        return np.ascontiguousarray(self.form.to_file(kept), np.float32)

    def from_disk(self, value: np.ndarray) -> None:
        """Set the layer's values to those of a tensor."""
        layer = self._layer()
        layer[...] = 0
        layer[self.part] = self.form.from_file(value)


def entries(adapter: Any, name: str, index: int | None, host: dict[int, np.ndarray]) -> list[Entry]:
    """Return the tensors of one layer of an adapter.

    Args:
        adapter: adapter of one module.
        name: name of the module in the file.
        index: index of the layer; None: the module is in no stack.
        host: values of variables on the host, by the variable's id; missing ones are added.
    """
    out = []

    def add(end: str, variable: Any, form: Form, part: tuple[slice, ...] = (slice(None),)) -> None:
        values = host.setdefault(id(variable), np.array(variable[...], np.float32))
        out.append(Entry(f"{name}.{end}", variable, values, index, part, form))

    if isinstance(adapter, LoRA):
        rank = adapter.ranks[index or 0]
        add("lora_A.weight", adapter.A, Form.MATRIX, (slice(None), slice(rank)))
        add("lora_B.weight", adapter.B, Form.MATRIX, (slice(rank), slice(None)))
        if adapter.magnitude is not None:
            add("lora_magnitude_vector", adapter.magnitude, Form.PLAIN)
    elif isinstance(adapter, IA3):
        add("ia3_l", adapter.factors, Form.ROW if adapter.feedforward else Form.COLUMN)
    else:
        linear = isinstance(adapter, (Bias, SavedLinear))
        saved: ReplacedParams = adapter.saved if linear else adapter
        for ours, variable in saved.values.items():
            add(WEIGHT[ours], variable, Form.MATRIX if ours == "kernel" else Form.PLAIN)
    return out


def with_current_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a phi adapter's tensors by current names; a fused q, k, v adapter becomes three.

    Raises:
        ConfigError: if a tensor of the fused projection cannot be divided by three.
    """
    out = {}
    for key, value in tensors.items():
        match = OLD.match(key)
        if match is None or match["module"] not in (FUSED, *OLD_MODULES):
            out[key] = value
            continue
        start, end = f"{match['start']}model.layers.{match['n']}.", match["end"]
        if match["module"] != FUSED:
            out[f"{start}{OLD_MODULES[match['module']]}.{end}"] = value
            continue
        # Tensors of the input (A, and IA3's factors of the input) are shared by all three.
        shared = end == "lora_A.weight" or (end == "ia3_l" and len(value) == 1)
        require(
            shared or len(value) % 3 == 0,
            f"{key} is {value.shape}: not an adapter of queries, keys and values in one",
        )
        parts = [value] * 3 if shared else np.split(value, 3)
        for one, part in zip("qkv", parts, strict=True):
            out[f"{start}self_attn.{one}_proj.{end}"] = part
    return out
