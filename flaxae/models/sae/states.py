"""The model and text whose hidden states a dictionary is trained on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxae.activations.stream import StateReader, StateStream, StreamSizes, Tap, token_rows
from flaxae.config.locate import user_path
from flaxae.data.hub import load_examples
from flaxae.data.pretrained import open_tokenizer
from flaxae.data.text import Splits, split_corpus
from flaxae.errors import ConfigError
from flaxae.foreign_json import read_json
from flaxae.lm import loading
from flaxae.lm.encoders import T5States
from flaxae.lm.t5 import params as t5
from flaxae.models.sae.config import SAEOptions, StateDataConfig
from flaxae.models.sae.options import TRANSCODERS
from flaxae.weights import hf


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


def open_model(source: str, weights: str, dtype: str) -> StateModel:
    """Open the model that `pretrained` names.

    Args:
        source: "smollm2-135m", a Hugging Face directory of a Llama, Phi or T5, a GGUF file, or a
            Hub id.
        weights: dtype of the weights.
        dtype: dtype of the computation.

    Raises:
        ConfigError: if there is no such model, or it has no tokenizer.
    """
    if _is_t5(source):
        return _open_t5(source)
    loaded = loading.load(source, weights=weights, dtype=dtype)
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


def _is_t5(source: str) -> bool:
    path = user_path(source) / hf.CONFIG
    return path.is_file() and read_json(path).get("model_type") in t5.MODELS


def _open_t5(source: str) -> StateModel:
    config, weights = t5.load(source)
    config = dataclasses.replace(config, dropout=0.0)
    tokenizer = open_tokenizer(str(user_path(source)))
    directory = user_path(source)
    files = [directory / hf.CONFIG, *sorted(directory.glob("*.safetensors"))]
    return StateModel(
        T5States(t5.build(config, weights)),
        tokenizer.encode,
        t5.EOS,
        (t5.PAD,),
        source,
        loading.files_fingerprint(files),
        tokenizer,
        False,
    )


def splits_of(data: StateDataConfig) -> Splits:
    """Return the texts of each split."""
    return split_corpus(load_examples(data), data.seed)


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
    rows = rows_of(source, texts, data)
    inputs, target = taps_of(options)
    block = min(data.block_rows, _up(len(rows.ids), data.model_rows))
    return StateStream(
        reader,
        rows,
        StreamSizes(data.batch_size, block, data.model_rows),
        inputs=inputs,
        target=target,
        model_fingerprint=source.fingerprint,
        seed=data.seed,
        train=split == "train",
        cache=Path(data.state_cache) / split if data.state_cache else "",
    )


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def rows_of(source: StateModel, texts: Sequence[str], data: StateDataConfig) -> Any:
    """Return the tokens of texts as rows."""
    return token_rows(
        source.encode(texts),
        data.max_length,
        source.separator,
        source.special,
        skip=data.skip_first,
    )


def taps_of(options: SAEOptions) -> tuple[list[Tap], Tap | None]:
    """Return the input's taps, and the target's or None."""
    layers = options.layers or (options.layer,)
    transcoder = options.architecture in TRANSCODERS
    inputs = [Tap(options.hook, layer) for layer in layers]
    return inputs, Tap(options.hook_out, options.layer) if transcoder else None
