"""Tokenizers between texts and ids, trained on a corpus; pretrained.py opens those of T5s."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from flaxae.data.config import TokenizerKind
from flaxae.data.text import check_unicode, digest
from flaxae.errors import ConfigError
from flaxae.pointers import require_content

PAD, EOS, UNK = 0, 1, 2  # T5's
SPECIALS = ("<pad>", "</s>", "<unk>")
MIN_VOCAB = 256 + len(SPECIALS)
MAX_TOKEN_LENGTH = 16  # characters; limits the memory of training on lines that are not cut
# Parts of the cache's keys: change one when its training below changes.
_RECIPES = {TokenizerKind.BPE: "byte-bpe-1", TokenizerKind.UNIGRAM: "byte-unigram-1"}


class Tokenizer:
    """Map between texts and ids; 0 is padding and the start of decoding, 1 EOS, 2 unknown.

    Attributes:
        vocab_size: the highest id + 1; ids may have gaps, so that there are fewer tokens.
        fingerprint: hash of the tokenizer.
    """

    def __init__(self, inner: tokenizers.Tokenizer):
        # Otherwise a line that contains "</s>" would be read as the end of a text.
        inner.encode_special_tokens = True
        inner.no_truncation()  # a stored tokenizer.json may truncate and pad by default
        inner.no_padding()
        self._inner = inner
        self.vocab_size = max(inner.get_vocab().values(), default=-1) + 1
        self.fingerprint = hashlib.sha256(inner.to_str().encode()).hexdigest()[:16]

    @property
    def vocab(self) -> dict[str, int]:
        """Id of each token."""
        return self._inner.get_vocab()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without EOS.

        Raises:
            ConfigError: if a text is not valid Unicode.
        """
        texts = list(texts)
        try:
            encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:
            check_unicode(texts)
            raise
        rows = [e.ids for e in encodings]
        for i, row in enumerate(rows):
            if EOS in row or PAD in row:  # a Unigram model has "</s>" among its pieces
                rows[i] = [UNK if token in (PAD, EOS) else token for token in row]
        return rows

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each row up to its EOS, without special and unknown ids."""
        rows = []
        for row in ids:
            row = [int(i) for i in row]
            row = row[: row.index(EOS)] if EOS in row else row
            rows.append([i for i in row if len(SPECIALS) <= i < self.vocab_size])
        return self._inner.decode_batch(rows, skip_special_tokens=True)

    def save(self, path: str | os.PathLike) -> None:
        """Write a tokenizer.json atomically."""
        path = os.fspath(path)
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
        """Read a tokenizer.json whose ids 0, 1 and 2 are those of a T5.

        Raises:
            ConfigError: if it is missing or unreadable, or has other ids.
        """
        path = os.fspath(path)
        if not os.path.isfile(path):
            raise ConfigError(f"there is no tokenizer at {path!r}")
        require_content(path)
        try:
            inner = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"{path!r} is not a readable tokenizer.json: {error}") from None
        return cls.checked(inner, path)

    @classmethod
    def checked(cls, inner: tokenizers.Tokenizer, path: str) -> "Tokenizer":
        """Wrap a tokenizer; raise ConfigError if its ids 0, 1 and 2 are not those of a T5."""
        found = tuple(inner.id_to_token(i) for i in range(len(SPECIALS)))
        if found != SPECIALS:
            raise ConfigError(
                f"{path!r}: its ids 0, 1, 2 are {found}, not {SPECIALS}, with which a T5 pads and"
                " ends texts: give a tokenizer of a T5, or none to train one"
            )
        return cls(inner)


def train(
    lines: Sequence[str], vocab_size: int, kind: TokenizerKind = TokenizerKind.BPE
) -> Tokenizer:
    """Train a byte-level tokenizer, which decodes every encoded text without a change.

    Args:
        lines: texts to train on.
        vocab_size: requested size, which includes special tokens and 256 bytes; a tokenizer of few
            lines may be smaller.
        kind: BPE, whose merges may cross words, or Unigram on words.

    Returns:
        The tokenizer, which depends only on the arguments.

    Raises:
        ConfigError: if vocab_size is below 259.
    """
    if vocab_size < MIN_VOCAB:
        raise ConfigError(
            f"data.vocab_size={vocab_size} is below {MIN_VOCAB} (256 bytes and {len(SPECIALS)}"
            " special tokens)"
        )
    cross_words = kind is TokenizerKind.BPE
    inner = tokenizers.Tokenizer(models.BPE() if cross_words else models.Unigram())
    # With use_regex=False a line is one piece, so that merges can cross words ("return self.").
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not cross_words)
    inner.pre_tokenizer = byte_level  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    common: Any = dict(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    if cross_words:
        trainer = trainers.BpeTrainer(**common, max_token_length=MAX_TOKEN_LENGTH, min_frequency=2)
    else:
        trainer = trainers.UnigramTrainer(
            **common, unk_token=SPECIALS[UNK], max_piece_length=MAX_TOKEN_LENGTH
        )
    inner.train_from_iterator(lines, trainer, length=len(lines))
    return Tokenizer(inner if cross_words else _reproducible(inner))


def _reproducible(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Round and sort the scores of a trained Unigram tokenizer, so that training is repeatable.

    Its trainer sums floats in an order that varies between runs, and gives bytes that no text
    contains scores that rise by 1e-4 in the order of a hash table.
    """
    data = json.loads(inner.to_str())
    vocab = data["model"]["vocab"]
    specials, pieces = vocab[: len(SPECIALS)], vocab[len(SPECIALS) :]
    least = round(min(score for _, score in pieces), 3)
    for piece in pieces:
        unused = len(piece[0]) == 1 and piece[1] < least + 256e-4
        piece[1] = least if unused else round(piece[1], 3)
    pieces.sort(key=lambda x: (-x[1], x[0]))
    data["model"]["vocab"] = specials + pieces
    return tokenizers.Tokenizer.from_str(json.dumps(data))


def load_or_train(
    lines: Sequence[str],
    vocab_size: int,
    cache_dir: str = "",
    kind: TokenizerKind = TokenizerKind.BPE,
) -> Tokenizer:
    """Return the tokenizer of lines, from the cache if it was trained before.

    Args:
        lines: texts to train on.
        vocab_size: see `train`.
        cache_dir: folder of the cache, with files named by the hash of the arguments; "": none.
        kind: see `train`.
    """
    if not cache_dir:
        return train(lines, vocab_size, kind)
    key = digest([_RECIPES[kind], str(vocab_size), str(MAX_TOKEN_LENGTH), *lines])
    path = os.path.join(cache_dir, "tokenizers", f"{key}.json")
    if os.path.isfile(path):
        try:
            return Tokenizer.load(path)
        except ConfigError:
            pass  # a damaged file: the tokenizer is trained again and the file replaced
    tokenizer = train(lines, vocab_size, kind)
    tokenizer.save(path)
    return tokenizer
