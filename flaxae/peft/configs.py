"""Configs of adapters, with PEFT's field names; they are hashable, so that a model can own them."""

import dataclasses
from typing import Annotated, Any, ClassVar

from flaxae.config.ranges import Range, Rate, check_ranges
from flaxae.errors import require
from flaxae.foreign_json import check_fields, check_regex

Names = tuple[str, ...] | str | None
NAMES = list[str] | str  # a list of names, or a regex
RANKS = Range(1, 2**16, "[]")  # no layer is wider; more memory than a machine has is not asked for
ALPHAS = Range(0, ends="()")
PATTERNS = {"rank_pattern": dict[str, int], "alpha_pattern": dict[str, float]}


def _names(value: Any) -> Names:
    return value if value is None or isinstance(value, str) else tuple(sorted(value))


def _as_dict(value: Any) -> Any:
    """Return a tuple of pairs, or None, as a dict; other values as they are."""
    pairs = isinstance(value, tuple) and all(isinstance(x, tuple) and len(x) == 2 for x in value)
    return {} if value is None else dict(value) if pairs else value


def saved_regex(name: str) -> str:
    """Return the regex of a module to save and of all below it."""
    return rf"(^|.*\.){name}($|\..*)"


def layer_regex(pattern: str) -> str:
    """Return the regex of a name below a list of layers; its last group is the layer's number."""
    return rf"(?:^|.*?\.){pattern}\.(\d+)\."


def key_regex(key: str) -> str:
    """Return the regex of the names that a key of `rank_pattern` or `alpha_pattern` matches."""
    return rf"(.*\.)?({key})$"


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """The modules that get an adapter. Lists and dicts are accepted and become tuples.

    Attributes:
        target_modules: names (each a module's name, or the end of one after a dot), or a regex of
            whole names, or "all-linear"; None: the defaults of the model's type.
        exclude_modules: modules without an adapter, by the same rules.
        modules_to_save: names of modules that the adapter trains in full, as a copy.
        layers_to_transform: numbers of the layers with an adapter; None: all of them.
        layers_pattern: names of the lists of layers to which these numbers apply.
    """

    target_modules: Any = None
    exclude_modules: Any = None
    modules_to_save: Any = None
    layers_to_transform: Any = None
    layers_pattern: Any = None

    kinds: ClassVar[dict[str, Any]] = {
        "target_modules": NAMES,
        "exclude_modules": NAMES,
        "modules_to_save": NAMES,
        "layers_to_transform": list[int] | int,
        "layers_pattern": NAMES,
    }

    def __post_init__(self) -> None:
        check_fields(vars(self), self.kinds)
        for name in ("target_modules", "exclude_modules", "modules_to_save"):
            object.__setattr__(self, name, _names(getattr(self, name)))
        if isinstance(self.modules_to_save, str):
            object.__setattr__(self, "modules_to_save", (self.modules_to_save,))
        layers, pattern = self.layers_to_transform, self.layers_pattern
        if isinstance(layers, int):
            layers = (layers,)
        object.__setattr__(self, "layers_to_transform", None if layers is None else tuple(layers))
        if isinstance(pattern, str) and pattern:
            pattern = (pattern,)
        object.__setattr__(self, "layers_pattern", tuple(pattern) if pattern else None)
        self._check_regexes()
        regex = isinstance(self.target_modules, str)
        require(
            not (regex and (self.layers_to_transform or self.layers_pattern)),
            "layers_to_transform and layers_pattern need a list of target_modules, not the regex "
            f"{self.target_modules!r}: put the layers into the regex",
        )
        require(
            not self.layers_pattern or self.layers_to_transform is not None,
            "layers_pattern needs layers_to_transform",
        )

    def _check_regexes(self) -> None:
        """Raise ConfigError for an invalid regex; PEFT makes some names part of one."""
        for field in ("target_modules", "exclude_modules", "feedforward_modules"):
            value = getattr(self, field, None)
            if isinstance(value, str):
                check_regex(value, field)
        for field, regex in (("modules_to_save", saved_regex), ("layers_pattern", layer_regex)):
            for one in getattr(self, field) or ():
                check_regex(one, field, regex(one))
        for field in PATTERNS:
            for key, _ in getattr(self, field, ()):
                check_regex(key, field, key_regex(key))


@dataclasses.dataclass(frozen=True)
class LoRAConfig(AdapterConfig):
    """LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023), DoRA (Liu et al. 2024).

    Attributes:
        r: rank.
        lora_alpha: the update is scaled by lora_alpha / r.
        lora_dropout: dropout rate of A's input, in training.
        use_rslora: the update is scaled by lora_alpha / sqrt(r).
        use_dora: the norm of each output's weights is trained separately from their direction.
        rank_pattern: {regex of the end of a name: r of these modules}.
        alpha_pattern: {regex of the end of a name: lora_alpha of these modules}.
    """

    r: Annotated[int, RANKS] = 8
    lora_alpha: Annotated[float, ALPHAS] = 8
    lora_dropout: Rate = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Any = ()
    alpha_pattern: Any = ()

    kinds: ClassVar[dict[str, Any]] = AdapterConfig.kinds | {
        "r": int,
        "lora_alpha": float,
        "lora_dropout": float,
        "use_rslora": bool,
        "use_dora": bool,
    }

    def __post_init__(self) -> None:
        patterns = {name: _as_dict(getattr(self, name)) for name in PATTERNS}
        check_fields(patterns, PATTERNS)
        for name, value in patterns.items():
            object.__setattr__(self, name, tuple(value.items()))
        super().__post_init__()
        check_ranges(self)
        for key, rank in self.rank_pattern:
            RANKS.check(f"rank_pattern[{key!r}]", rank, int)
        for key, alpha in self.alpha_pattern:
            ALPHAS.check(f"alpha_pattern[{key!r}]", alpha)

    def scaling(self, rank: int, alpha: float) -> float:
        """Return the factor of the update for a rank and an alpha."""
        return alpha / (rank**0.5 if self.use_rslora else rank)


@dataclasses.dataclass(frozen=True)
class IA3Config(AdapterConfig):
    """(IA)^3 (Liu et al. 2022): one factor per feature.

    Attributes:
        feedforward_modules: the targets whose input is scaled instead of their output; None: the
            defaults of the model's type.
    """

    feedforward_modules: Any = None

    kinds: ClassVar[dict[str, Any]] = AdapterConfig.kinds | {"feedforward_modules": NAMES}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "feedforward_modules", _names(self.feedforward_modules))
        targets, forward = self.target_modules, self.feedforward_modules
        if isinstance(targets, tuple) and isinstance(forward, tuple):
            extra = sorted(set(forward) - set(targets))
            require(not extra, f"feedforward_modules: {extra} are not in target_modules")
        require(
            self.layers_to_transform is None,
            "IA3 has no layers_to_transform: use a regex of target_modules",
        )


@dataclasses.dataclass(frozen=True)
class BiasConfig(AdapterConfig):
    """Bias-only tuning (BitFit, Ben Zaken et al. 2022): the model's own biases.

    Attributes:
        biases: train all biases.
        norms: train the norms: their scales, and their biases if they have any.
    """

    biases: bool = True
    norms: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.biases or self.norms, "a BiasConfig without biases and norms trains nothing")
        require(
            self.target_modules is None and self.modules_to_save is None,
            "a BiasConfig trains all biases: it has no target_modules and no modules_to_save",
        )
