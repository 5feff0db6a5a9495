"""Fitted probes on disk: probe.safetensors and probe.json, with the adapter beside them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flaxae.config.locate import user_path
from flaxae.errors import ConfigError, require
from flaxae.foreign_json import read_json
from flaxae.models.probes.fitting.base import Probe
from flaxae.models.probes.fitting.ccs import CCS
from flaxae.models.probes.fitting.linear import TTPD, Logistic, MassMean
from flaxae.models.probes.fitting.networks import MLP, LayerConv
from flaxae.models.probes.fitting.ranking import Ranking
from flaxae.pointers import require_content

WEIGHTS, CONFIG, ADAPTER = "probe.safetensors", "probe.json", "adapter"
KINDS: dict[str, Any] = {
    kind.kind: kind for kind in (Logistic, MassMean, TTPD, CCS, MLP, LayerConv, Ranking)
}


@dataclasses.dataclass(frozen=True)
class Shown:
    """The form of a data set's questions.

    Attributes:
        choices: the two answers.
        shots: (question, answer) of the examples in the prompt.
    """

    choices: tuple[str, str]
    shots: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, raw: Any) -> "Shown":
        """Build it from JSON."""
        shots = tuple((question, answer) for question, answer in raw["shots"])
        return cls((raw["choices"][0], raw["choices"][1]), shots)


@dataclasses.dataclass(frozen=True)
class Origin:
    """The states that a probe reads.

    Attributes:
        model: name or directory of the base model.
        base: fingerprint of its values.
        hook: name of the hidden states.
        layers: the layers; one, unless the probe reads several.
        arm: "base", "adapter", "both" or "diff", see `table.StateTable.features`.
        adapter: hash of the adapter.
        format: form of the prompts.
        system: their system message.
        sets: data set -> the form of its questions; the first one is the default.
        weights: dtype of the base's parameters.
        dtype: dtype of the computation.
        digest: hash of the names of the training examples.
        seed: seed of the run that trained the adapter.
    """

    model: str
    base: str
    hook: str
    layers: tuple[int, ...]
    arm: str
    adapter: str
    format: str
    system: str
    sets: dict[str, Shown]
    weights: str = "float32"
    dtype: str = "float32"
    digest: str = ""
    seed: int = 0

    def check(self, where: str, **expected: Any) -> None:
        """Check fields against what a caller expects.

        Args:
            where: name of the probe in messages.
            **expected: names of fields, and "layer" -> values.

        Raises:
            ConfigError: if a field differs, or there is no such field.
        """
        mine = dataclasses.asdict(self) | {"layer": self.layers[0]}
        for name, value in expected.items():
            require(name in mine, f"{name}: a probe has {', '.join(mine)}")
            value = tuple(value) if isinstance(value, list) else value
            require(
                mine[name] == value,
                f"{where} is a probe of {name} {mine[name]!r}, not {value!r}: open another "
                "probe, or fit one on these states",
            )


def save(directory: str | Path, probe: Probe, origin: Origin) -> None:
    """Write the two files of a probe.

    Args:
        directory: created if it does not exist.
        probe: the probe.
        origin: the states that it reads.

    Raises:
        ConfigError: if it is not one of KINDS.
    """
    require(probe.kind in KINDS, f"{type(probe).__name__} cannot be saved")
    folder = user_path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: np.ascontiguousarray(x, np.float32) for n, x in probe.tensors().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "np"})
    config = {"probe": probe.kind, **dataclasses.asdict(origin)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(directory: str | Path) -> tuple[Probe, Origin]:
    """Read the files of `save`.

    Raises:
        ConfigError: if a file is missing, broken or a pickle.
    """
    folder = user_path(directory)
    pickles = sorted([*folder.glob("*.pt"), *folder.glob("*.pkl")])
    if not (folder / CONFIG).is_file():
        hint = f"; {pickles[0].name} is a pickle, which is not read" if pickles else ""
        raise ConfigError(f"{folder}: no {CONFIG}{hint}")
    raw = read_json(folder / CONFIG)
    names = {field.name for field in dataclasses.fields(Origin)}
    missing = sorted((names | {"probe"}) - set(raw))
    require(not missing, f"{folder / CONFIG}: no field {', '.join(missing)}")
    kind = raw["probe"]
    require(kind in KINDS, f"{folder / CONFIG}: probe={kind!r} is not one of {', '.join(KINDS)}")
    fields: dict[str, Any] = {name: raw[name] for name in names}
    try:
        fields["layers"] = tuple(raw["layers"])
        fields["sets"] = {name: Shown.read(one) for name, one in raw["sets"].items()}
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder / CONFIG}: not the fields of a probe ({error!r})") from None
    origin = Origin(**fields)
    path = folder / WEIGHTS
    require(path.is_file(), f"{folder}: no {WEIGHTS}")
    require_content(path)
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in [*file.keys()]}
        return KINDS[kind].from_tensors(tensors), origin
    except (SafetensorError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not the tensors of a {kind} probe ({error})") from None
