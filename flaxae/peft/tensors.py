"""Where an adapter's numbers lie in PEFT's files, and how they are turned there."""

import dataclasses
import enum
import re
from typing import Any

import numpy as np

from flaxae.errors import require
from flaxae.peft.bitfit import Bias, SavedLinear
from flaxae.peft.ia3 import IA3
from flaxae.peft.layers import AdapterParam, Saved
from flaxae.peft.lora import LoRA

WEIGHT = {"kernel": "weight", "table": "weight", "scale": "weight", "bias": "bias"}
# Phi's first published code: names of modules, and the fused projection.
OLD = re.compile(
    r"^(?P<start>.*\.)transformer\.h\.(?P<n>\d+)\.(?P<module>[\w.]+?)"
    r"\.(?P<end>lora_A\.weight|lora_B\.weight|lora_magnitude_vector|ia3_l)$"
)
OLD_MODULES = {"mixer.out_proj": "self_attn.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
FUSED = "mixer.Wqkv"


class Form(enum.Enum):
    """How a layer's values stand in a file."""

    PLAIN = "plain"
    MATRIX = "matrix"  # (in, out) is (out, in) there
    ROW = "row"  # (n,) is (1, n)
    COLUMN = "column"  # (n,) is (n, 1)

    def turned(self, x: np.ndarray) -> np.ndarray:
        if self is Form.MATRIX:
            return x.T
        return x[None] if self is Form.ROW else x[:, None] if self is Form.COLUMN else x

    def back(self, x: np.ndarray) -> np.ndarray:
        if self is Form.MATRIX:
            return x.T
        return x if self is Form.PLAIN else x.reshape(-1)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor of a file.

    Attributes:
        key: its name there.
        variable: of the adapter.
        values: the variable's, on the host; all layers' entries share it.
        index: of the layer; None: in no stack.
        part: what of a layer's values is written: ranks are cut here.
        form: how it is turned.
    """

    key: str
    variable: AdapterParam
    values: np.ndarray
    index: int | None
    part: tuple[slice, ...]
    form: Form

    def _own(self) -> np.ndarray:
        return self.values if self.index is None else self.values[self.index]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.form.turned(self._own()[self.part]).shape

    def to_disk(self) -> np.ndarray:
        own = self._own()
        kept = own[self.part]
        padding = np.count_nonzero(own) - np.count_nonzero(kept)
        require(not padding, f"{self.key}: the padding of its rank is not 0")
        return np.ascontiguousarray(self.form.turned(kept), np.float32)

    def from_disk(self, value: np.ndarray) -> None:
        own = self._own()
        own[...] = 0
        own[self.part] = self.form.back(value)


def entries(adapter: Any, name: str, index: int | None, host: dict[int, np.ndarray]) -> list[Entry]:
    """The tensors of one layer of an adapter.

    Args:
        adapter: of one module.
        name: the module's, in the file.
        index: of the layer; None: the module is in no stack.
        host: the variables' values by id, filled as they are met.
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
        saved: Saved = adapter.saved if linear else adapter
        for own, variable in saved.values.items():
            add(WEIGHT[own], variable, Form.MATRIX if own == "kernel" else Form.PLAIN)
    return out


def today(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A phi adapter's tensors by today's names: an adapter of the fused q, k, v becomes three."""
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
        # What is of the input (A, and IA3's factors of it) is the same for all three.
        shared = end == "lora_A.weight" or (end == "ia3_l" and len(value) == 1)
        require(
            shared or len(value) % 3 == 0,
            f"{key} is {value.shape}: no adapter of queries, keys and values in one",
        )
        parts = [value] * 3 if shared else np.split(value, 3)
        for one, part in zip("qkv", parts, strict=True):
            out[f"{start}self_attn.{one}_proj.{end}"] = part
    return out
