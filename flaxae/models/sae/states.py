"""The model and text whose hidden states a dictionary is trained on."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from jax.sharding import Mesh

from flaxae.activations.cache import Tap
from flaxae.activations.stream import StateReader, StateStream, StreamSizes
from flaxae.activations.token_rows import TokenRows, token_rows
from flaxae.config.locate import user_path
from flaxae.data.hub import load_examples
from flaxae.data.pretrained import open_tokenizer
from flaxae.data.text import Splits, digest, split_corpus
from flaxae.errors import ConfigError, require
from flaxae.foreign_json import read_json
from flaxae.lm import loading
from flaxae.lm.encoders import T5States
from flaxae.lm.t5 import params as t5
from flaxae.lm.t5.modeling import T5
from flaxae.models.sae.config import SAEOptions, StateDataConfig
from flaxae.models.sae.options import TRANSCODERS
from flaxae.storage.fingerprint import fingerprint
from flaxae.training.load import load as load_run
from flaxae.weights import hf

# Kind -> (key, value): the last model, texts and tokens, which the runs of a process share.
_KEPT: dict[str, tuple[str, Any]] = {}


@dataclasses.dataclass
class StateModel:
    """A model whose states are read.

    Attributes:
        model: a language model, or an encoder of `lm.encoders`.
        encode: texts -> token ids.
        separator: id that is put after each text.
        special: further ids whose states are not used.
        name: name of the model.
        fingerprint: hash of its files.
        tokenizer: its tokenizer.
        causal: whether it predicts the next token, so that cross entropy can be measured.
    """

    model: Any
    encode: Any
    separator: int
    special: tuple[int, ...]
    name: str
    fingerprint: str
    tokenizer: Any
    causal: bool


def _kept(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """Return the value of a key; it is made unless the last call of this kind had the same key."""
    if kind not in _KEPT or _KEPT[kind][0] != key:
        _KEPT.pop(kind, None)  # the old value is freed before the new one is made
        _KEPT[kind] = key, make()
    return _KEPT[kind][1]


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of the files that a path names."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [(str(file), file.stat()) for file in files if file.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def kept_model(source: str, weights: str, dtype: str, mesh: Mesh | None = None) -> StateModel:
    """Return `open_model(...)` of the same arguments, opened once for runs after one another."""
    key = repr((source, weights, dtype, mesh, _stamp(user_path(source))))
    return _kept("model", key, lambda: open_model(source, weights, dtype, mesh))


def open_model(source: str, weights: str, dtype: str, mesh: Mesh | None = None) -> StateModel:
    """Open the model that `pretrained` names.

    Args:
        source: "smollm2-135m", a Hugging Face directory of a Llama, Phi or T5, the workdir of a
            T5-VAE, a GGUF file, or a Hub id.
        weights: dtype of the weights.
        dtype: dtype of the computation.
        mesh: devices that a language model is read onto; None: the default device.

    Raises:
        ConfigError: if there is no such model, or it has no tokenizer.
    """
    path = user_path(source)
    if (path / "latest").is_dir():
        return _open_run(path)
    if _is_t5(path):
        return _open_t5(path)
    loaded = loading.load(source, weights=weights, dtype=dtype, mesh=mesh)
    config, chat = loaded.config, loaded.tokenizer
    if chat is None:
        raise ConfigError(
            f"pretrained={source} has no tokenizer.json: put that of the model into the folder"
        )
    ids = [chat.id(token) for token in chat.tokens.values()]
    special = {i for i in (*ids, *config.eos_ids) if i is not None}
    return StateModel(
        loaded.model,
        lambda texts: chat.encode(texts, special=False),
        config.eos_ids[0],
        tuple(sorted(special)),
        source,
        loaded.fingerprint,
        chat,
        True,
    )


def _is_t5(path: Path) -> bool:
    config = path / hf.CONFIG
    return config.is_file() and read_json(config).get("model_type") in t5.MODELS


def _open_t5(path: Path) -> StateModel:
    """Open the encoder of a T5 in a Hugging Face directory."""
    config, weights = t5.load(path)
    model = t5.build(dataclasses.replace(config, dropout=0.0), weights)
    files = [path / hf.CONFIG, *sorted(path.glob("*.safetensors"))]
    mark = loading.files_fingerprint(files)
    return _encoder(model, open_tokenizer(str(path)), str(path), mark)


def _open_run(path: Path) -> StateModel:
    """Open the encoder of a T5-VAE's workdir.

    Raises:
        ConfigError: if the run's model has no T5, or adds positions to its embeddings.
    """
    loaded = load_run(path)
    model = getattr(loaded.model, "t5", None)
    if model is None:
        raise ConfigError(f"pretrained={path}: a run of {type(loaded.model).__name__} has no T5")
    require(
        getattr(loaded.model, "encoder_positions", None) is None,
        f"pretrained={path}: states of a model with added positions are not supported",
    )
    mark = fingerprint(nnx.to_pure_dict(nnx.state(model, nnx.Param)))  # pyright: ignore
    return _encoder(model, loaded.task.text.tokenizer, str(path), mark)


def _encoder(model: T5, tokenizer: Any, name: str, mark: str) -> StateModel:
    special = (t5.PAD,)
    return StateModel(
        T5States(model), tokenizer.encode, t5.EOS, special, name, mark, tokenizer, False
    )


def splits_of(data: StateDataConfig) -> Splits:
    """Return the texts of each split, read once for runs after one another."""
    key = repr((_texts_of(data), _stamp(user_path(data.path)) if data.path else None))
    return _kept("splits", key, lambda: split_corpus(load_examples(data), data.seed))


def _texts_of(data: StateDataConfig) -> StateDataConfig:
    """Return the data without the field that does not change texts and tokens."""
    return dataclasses.replace(data, state_cache="")


def make_stream(
    source: StateModel,
    texts: Sequence[str],
    options: SAEOptions,
    data: StateDataConfig,
    split: str,
    reader: StateReader,
) -> StateStream:
    """Return the batches of a split.

    Args:
        source: the model.
        texts: the split's texts.
        options: hooks and layers.
        data: sizes.
        split: name of the split.
        reader: reader of the taps.
    """
    rows = _kept(
        f"rows of {split}",
        repr((source.fingerprint, _texts_of(data), digest(texts))),
        lambda: rows_of(source, texts, data),
    )
    inputs, target = taps_of(options)
    block = min(data.block_rows, _up(len(rows.ids), data.model_rows))
    return StateStream(
        reader,
        rows,
        StreamSizes(data.batch_size, block, data.model_rows),
        inputs=inputs,
        target=target,
        model_fingerprint=mark_of(source, options),
        seed=data.seed,
        train=split == "train",
        cache=user_path(data.state_cache) if data.state_cache else "",
    )


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def rows_of(source: StateModel, texts: Sequence[str], data: StateDataConfig) -> TokenRows:
    """Return the tokens of texts as rows; a row of a model that is not causal has one text."""
    rows = token_rows(
        source.encode(texts),
        data.max_length,
        source.separator,
        source.special,
        skip=data.skip_first,
        packed=source.causal,
    )
    return TokenRows(*(x[: data.max_rows or None] for x in rows))


def mark_of(source: StateModel, options: SAEOptions) -> str:
    """Return what identifies the states of a model: its files, and the types it runs in."""
    return f"{source.fingerprint}/{options.model_weights}/{options.model_dtype}"


def taps_of(options: SAEOptions) -> tuple[list[Tap], Tap | None]:
    """Return the input's taps, and the target's or None."""
    layers = options.layers or (options.layer,)
    transcoder = options.architecture in TRANSCODERS
    inputs = [Tap(options.hook, layer) for layer in layers]
    return inputs, Tap(options.hook_out, options.layer) if transcoder else None
