"""Tokenizers of pretrained models: tokenizer.json, SentencePiece, WordPiece, bytes of byT5."""

import os
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from flaxae.data import wordpiece
from flaxae.data.tokenizer import SPECIALS, Tokenizer
from flaxae.errors import ConfigError
from flaxae.foreign_json import read_fields
from flaxae.pointers import require_content
from flaxae.weights import hf

BYT5 = "byt5"
_PADDED = 128  # T5s round their vocabulary sizes up to multiples of this


def open_tokenizer(name: str) -> Tokenizer:
    """Open the tokenizer that `data.tokenizer` names.

    Args:
        name: a tokenizer.json or SentencePiece .model file, a directory or Hub id with
            tokenizer.json, spiece.model, vocab.txt (WordPiece) or byT5's tokenizer_config.json, or
            "byt5".

    Returns:
        The tokenizer; all kinds are saved as a tokenizer.json.

    Raises:
        ConfigError: if there is no tokenizer, it cannot be downloaded or read, or its ids 0 and 1
            are not padding and end of text.
    """
    if name == BYT5:
        return byte_tokenizer()
    if os.path.isfile(name):
        return _of_file(name, {})
    missing = (
        f"data.tokenizer={name!r}: there is no tokenizer; give a tokenizer.json, a spiece.model,"
        f" a directory that contains one, its Hub id, or {BYT5!r}"
    )
    try:
        directory = hf.resolve(name)
    except ConfigError as error:
        raise ConfigError(f"{missing} ({error})") from None
    found = own_tokenizer(directory)
    if found is None:
        raise ConfigError(missing)
    return found


def own_tokenizer(directory: Path) -> Tokenizer | None:
    """Open the tokenizer of a local directory; return None if it contains no tokenizer.

    Raises:
        ConfigError: if it cannot be read, or its ids 0 and 1 are not padding and end of text.
    """
    settings = _settings(directory)
    for name in ("tokenizer.json", "spiece.model", wordpiece.VOCAB):
        if (path := directory / name).is_file():
            return _of_file(str(path), settings)
    return byte_tokenizer() if settings.get("tokenizer_class") == "ByT5Tokenizer" else None


def _of_file(path: str, settings: dict[str, Any]) -> Tokenizer:
    if path.endswith(".model"):
        return _sentencepiece(path, settings.get("extra_ids"))
    found = wordpiece.read(Path(path))
    return Tokenizer.load(path) if found is None else Tokenizer.checked(found.inner, path)


def byte_tokenizer() -> Tokenizer:
    """Make the tokenizer of byT5, in which the id of a byte is its value + 3."""
    # Byte-level BPE writes each byte as a character; without merges each character is a token.
    vocab = dict(zip(SPECIALS, range(len(SPECIALS)), strict=True))
    vocab |= {char: byte + len(SPECIALS) for byte, char in _byte_characters().items()}
    inner = tokenizers.Tokenizer(models.BPE(vocab, []))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = byte_level  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    inner.add_special_tokens(list(SPECIALS))
    return Tokenizer(inner)


def check_vocabulary(tokenizer: Tokenizer, size: int, pretrained: bool = False) -> None:
    """Check that the embedding of a model has the size of a tokenizer's vocabulary.

    Args:
        tokenizer: the tokenizer that makes the model's ids.
        size: rows of the model's embedding.
        pretrained: whether the model's weights are pretrained; its vocabulary is then that of its
            own tokenizer, rounded up (T5: 32100 to 32128, byT5: 259 to 384).

    Raises:
        ConfigError: if the embedding has too few rows, or more than rounding up explains.
    """
    found = tokenizer.vocab_size
    if found > size:
        raise ConfigError(
            f"the tokenizer has {found} tokens and the model an embedding of {size}: set"
            f" data.vocab_size, or the vocab_size of the task's model if that is set, to {found} or"
            " more, or give the model's tokenizer"
        )
    if pretrained and size - found >= _PADDED:
        raise ConfigError(
            f"the tokenizer has {found} tokens and the pretrained model {size}: it was"
            " trained with another; set data.tokenizer to the directory of the model"
        )


def check_own(tokenizer: Tokenizer, source: str) -> None:
    """Check that a tokenizer gives the ids that a pretrained model was trained with.

    Nothing is checked if the model's directory contains no tokenizer.

    Args:
        tokenizer: the tokenizer that makes the model's ids.
        source: the model's directory or Hub id.

    Raises:
        ConfigError: if an id is another token in the model's own tokenizer, or that cannot be read.
    """
    own = own_tokenizer(hf.resolve(source))
    if own is None:
        return
    theirs = {i: token for token, i in own.vocab.items()}
    # An id that only one of them has is allowed: sentinels may be left out.
    for token, i in sorted(tokenizer.vocab.items(), key=lambda x: x[1]):
        if theirs.get(i, token) != token:
            raise ConfigError(
                f"id {i} is {token!r} in the run's tokenizer and {theirs[i]!r} in that of"
                f" pretrained={source}, whose weights would be read wrongly: set"
                f" data.tokenizer={source}"
            )


def _byte_characters() -> dict[int, str]:
    """Return the character that byte-level BPE writes for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


def _settings(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer_config.json"
    if not path.is_file():
        return {}
    return read_fields(path, {"tokenizer_class": str, "extra_ids": int})


def _sentencepiece(path: str, extra_ids: int | None) -> Tokenizer:
    """Open a SentencePiece Unigram model and add T5's sentinels <extra_id_99> .. <extra_id_0>."""
    # Imported here because the generated protocol buffers are slow to import.
    from sentencepiece import sentencepiece_model_pb2

    require_content(path)
    proto: Any = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with open(path, "rb") as file:
            proto.ParseFromString(file.read())
    except Exception as error:  # errors of protobuf and of the file system
        raise ConfigError(f"{path!r} is not a readable SentencePiece model: {error}") from None
    if not proto.pieces or proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        raise ConfigError(f"{path!r} is not a SentencePiece Unigram model, which T5 needs")
    # Rounded, because writing and reading can change the last digit of a float.
    vocab = [(piece.piece, round(piece.score, 6)) for piece in proto.pieces]
    known = {piece for piece, _ in vocab}
    number = 100 if extra_ids is None else extra_ids
    extra = [x for i in reversed(range(number)) if (x := f"<extra_id_{i}>") not in known]
    inner = tokenizers.Tokenizer(
        models.Unigram(
            vocab + [(x, 0.0) for x in extra],
            unk_id=proto.trainer_spec.unk_id,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    steps: list[Any] = [pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")]
    if proto.normalizer_spec.remove_extra_whitespaces:
        steps.insert(0, pre_tokenizers.WhitespaceSplit())
    inner.pre_tokenizer = pre_tokenizers.Sequence(steps)  # pyright: ignore
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        inner.normalizer = normalizers.Precompiled(charsmap)  # pyright: ignore
    metaspace: Any = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    if proto.trainer_spec.byte_fallback:
        metaspace = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), metaspace])
    inner.decoder = metaspace
    inner.add_special_tokens([*SPECIALS, *extra])
    return Tokenizer.checked(inner, path)
