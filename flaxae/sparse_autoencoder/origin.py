"""The states that a dictionary was trained on: model, hook, layer, normalisation."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from flaxae.errors import ConfigError, require

# Names of hooks in TransformerLens -> ours.
LENS = {
    "hook_resid_pre": "resid_in",
    "hook_resid_post": "resid_out",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_in": "mlp_in",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_post": "mlp_post",
}
# Names with several meanings -> ours that they may have. In models that TransformerLens implements
# itself, hook_mlp_in is before the norm; in its bridge and in SAELens' files of Gemma Scope 2 it is
# the MLP's input, after it.
UNCLEAR = {"hook_mlp_in": ("mlp_in",)}
# Names of modules in transformers' Llama and Phi, whose outputs are the states -> ours.
HUGGING_FACE = {"": "resid_out", "self_attn": "attn_out", "mlp": "mlp_out"}
# Norms before and after Gemma's MLP, whose outputs Gemma Scope 2 names.
GEMMA = {"pre_feedforward_layernorm": "mlp_in", "post_feedforward_layernorm": "mlp_out"}
_LENS = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<name>.+)")
_HF = re.compile(r"(?:model\.|transformer\.)?(?:layers|h)\.(?P<layer>\d+)\.?(?P<name>.*)")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The states that a dictionary reads, and those that it writes.

    Attributes:
        model: name of the language model; "": unknown, as everywhere.
        fingerprint: fingerprint of its files.
        hook: name of the hook; a name that is not one of ours stays as it is in the file.
        layer: the layer; None: unknown.
        hook_out: a transcoder's target.
        layer_out: its layer.
        factor: the constant factor of normalisation that is folded into the weights; None: unknown.
        factor_out: that of a transcoder's target.
        normaliser: name of the normalisation; "none" is a known one, without any effect.
        context_size: tokens per text; 0: unknown.
        prepend_bos: whether texts began with the token of their beginning.
        skip_first: number of first tokens of each text that were left out; None: unknown.
        other: further fields of the file.
    """

    model: str = ""
    fingerprint: str = ""
    hook: str = ""
    layer: int | None = None
    hook_out: str = ""
    layer_out: int | None = None
    factor: float | None = None
    factor_out: float | None = None
    normaliser: str = ""
    context_size: int = 0
    prepend_bos: bool | None = None
    skip_first: int | None = None
    other: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def expected(self, where: str, **wanted: Any) -> "Origin":
        """Return the origin, completed by what a user expects of it.

        Args:
            where: the file, for messages.
            **wanted: fields with the expected values; None: any.

        Raises:
            ConfigError: if the file contradicts one of them.
        """
        fields = {f.name: f.default for f in dataclasses.fields(self)}
        changes = {}
        for name, value in wanted.items():
            require(name in fields, f"{name} is not one of: {', '.join(fields)}")
            if value is None:
                continue
            have = getattr(self, name)
            if have not in (fields[name], value) and value not in UNCLEAR.get(have, ()):
                raise ConfigError(
                    f"{where}: this dictionary was trained with {name} {have!r}, not {value!r}: "
                    f"use the states that it was trained on, or another dictionary"
                )
            changes[name] = value
        return dataclasses.replace(self, **changes)

    def check_model(self, where: str, lm: Any) -> None:
        """Raise ConfigError if a model is not the one that the dictionary was trained on.

        Args:
            where: the file, for messages.
            lm: a model with a `fingerprint`; it is not read if the file names none.
        """
        if self.fingerprint and self.fingerprint != lm.fingerprint:
            raise ConfigError(
                f"{where}: it was trained on the states of {self.model or 'another model'} with "
                f"fingerprint {self.fingerprint}, and this model's is {lm.fingerprint}: open that "
                "model, or allow another one by --other-model (other_model=True)"
            )


def parse_hook(name: str, module: str = "") -> tuple[str, int | None]:
    """Return our name and the layer of a hook of TransformerLens or a module of transformers.

    Args:
        name: such as "blocks.3.hook_resid_post", "model.layers.3.mlp" or "layers.3.mlp.output".
        module: the same state's name in transformers, which decides between meanings of `name`.

    Returns:
        The hook and the layer; an unknown name, or one of `UNCLEAR` without `module`, as it is.
    """
    if match := _LENS.fullmatch(name):
        hook = LENS.get(match["name"], match["name"])
        other = parse_hook(module)[0] if hook in UNCLEAR else hook
        return other if other in UNCLEAR.get(hook, ()) else hook, int(match["layer"])
    if match := _HF.fullmatch(name):
        module = match["name"].removesuffix("output").rstrip(".")
        return (HUGGING_FACE | GEMMA).get(module, match["name"]), int(match["layer"])
    return name, None


def lens_name(hook: str, layer: int | None) -> str:
    """Return a hook's name in TransformerLens; one that it does not have stays as it is."""
    names = {ours: theirs for theirs, ours in LENS.items()}
    if layer is None or not hook:
        return hook
    return f"blocks.{layer}.{names.get(hook, hook)}"


def hugging_face_name(hook: str, layer: int | None) -> str:
    """Return the module of transformers whose output a hook's states are; "" if there is none."""
    modules = {ours: theirs for theirs, ours in HUGGING_FACE.items()}
    if layer is None or hook not in modules:
        return ""
    return f"model.layers.{layer}.{modules[hook]}".rstrip(".")
