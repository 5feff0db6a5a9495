"""A byte-level BPE tokenizer trained on the corpus itself; its merges may cross words."""

import hashlib
import os
import tempfile
from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from flaxae.config import ConfigError
from flaxae.data.text import digest

PAD, EOS, UNK = 0, 1, 2
SPECIALS = ("<pad>", "</s>", "<unk>")
MIN_VOCAB = 256 + len(SPECIALS)
MAX_TOKEN_LENGTH = 16  # characters: bounds the memory of training on lines that are not cut
_RECIPE = "byte-bpe-1"  # part of the cache's key: change it with the training below


class Tokenizer:
    """Texts <-> ids: 0 pads and starts decoding, 1 ends a text, 2 is unknown."""

    def __init__(self, inner: tokenizers.Tokenizer):
        # Else a line that spells "</s>" would be read as the end of a text.
        inner.encode_special_tokens = True
        self._inner = inner
        self.vocab_size: int = inner.get_vocab_size()
        self.fingerprint = hashlib.sha256(inner.to_str().encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without EOS."""
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [e.ids for e in encodings]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row up to its EOS, without special ids and ids of no token."""
        rows = []
        for row in ids:
            row = [int(i) for i in row]
            row = row[: row.index(EOS)] if EOS in row else row
            rows.append([i for i in row if len(SPECIALS) <= i < self.vocab_size])
        return self._inner.decode_batch(rows, skip_special_tokens=True)

    def save(self, path: str) -> None:
        """Writes a tokenizer.json, whole or not at all."""
        folder = os.path.dirname(os.path.abspath(path))
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        os.close(handle)
        try:
            self._inner.save(temporary, pretty=False)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Reads a tokenizer.json. Raises ConfigError where it is missing or is none of ours."""
        path = os.fspath(path)
        if not os.path.isfile(path):
            raise ConfigError(f"there is no tokenizer at {path!r}")
        try:
            inner = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"{path!r} is not a readable tokenizer.json: {error}") from None
        found = tuple(inner.id_to_token(i) for i in range(len(SPECIALS)))
        if found != SPECIALS:
            raise ConfigError(f"{path!r}: its ids 0, 1, 2 are {found}, not {SPECIALS}")
        return cls(inner)


def train(lines: Sequence[str], vocab_size: int) -> Tokenizer:
    """Trains a tokenizer; the same lines give the same tokenizer.

    Args:
        lines: texts to train on.
        vocab_size: size wanted, specials and 256 bytes included; few lines may give fewer.
    Raises:
        ConfigError: vocab_size is below 259.
    """
    if vocab_size < MIN_VOCAB:
        raise ConfigError(
            f"data.vocab_size={vocab_size} is below {MIN_VOCAB} (256 bytes and {len(SPECIALS)}"
            " special tokens)"
        )
    inner = tokenizers.Tokenizer(models.BPE())
    # use_regex=False keeps a line in one piece, so that merges cross words ("return self.").
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = byte_level  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_LENGTH,
        min_frequency=2,
        show_progress=False,
    )
    inner.train_from_iterator(lines, trainer, length=len(lines))
    return Tokenizer(inner)


def load_or_train(lines: Sequence[str], vocab_size: int, cache_dir: str = "") -> Tokenizer:
    """The tokenizer of these lines, from the cache where it was trained before.

    Args:
        lines: texts to train on.
        vocab_size: see `train`.
        cache_dir: a folder for tokenizers, named by the hash of (lines, vocab_size); "": none.
    """
    if not cache_dir:
        return train(lines, vocab_size)
    key = digest([_RECIPE, str(vocab_size), str(MAX_TOKEN_LENGTH), *lines])
    path = os.path.join(cache_dir, "tokenizers", f"{key}.json")
    if os.path.isfile(path):
        try:
            return Tokenizer.load(path)
        except ConfigError:
            pass  # a torn file of an older run: it is trained again and replaced
    tokenizer = train(lines, vocab_size)
    tokenizer.save(path)
    return tokenizer
