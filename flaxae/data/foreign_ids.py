"""Data sets that contain token ids of another tokenizer, decoded to text.

The published OPTIMUS Wikipedia files (wikipedia_json_64_filtered: JSON lists of {"bert_token",
"bert_token_length", "gpt2_token", "gpt2_token_length"}) contain ids of BERT and GPT-2 and no text.
"""

import os
from typing import Any

import tokenizers

from flaxae.errors import ConfigError
from flaxae.foreign_json import read_fields
from flaxae.pointers import require_content

_CHUNK = 10_000  # rows
_ADDED = 16  # ids just above a vocabulary are tokens added to it, such as OPTIMUS's <BOS>
_CHECKED = 200  # rows whose decoded text is encoded again
_AGREEING = 0.9  # share of rows that must give the same ids again


def id_columns(table: Any) -> list[str]:
    """Return the columns of a `datasets` table that contain lists of integers."""
    inner = {name: getattr(kind, "feature", None) for name, kind in table.features.items()}
    return [c for c, x in inner.items() if getattr(x, "dtype", "").startswith(("int", "uint"))]


def decode(table: Any, columns: list[str], folder: str, what: str) -> list[str]:
    """Decode a column of token ids to texts.

    Args:
        table: a `datasets` table.
        columns: its columns of ids; each is tried, and the one that the tokenizer made is used.
        folder: value of `data.ids_tokenizer`.
        what: name of the data set for messages.

    Raises:
        ConfigError: if no tokenizer is given, it cannot be read, or it made none of the columns.
    """
    if not folder:
        raise ConfigError(
            f"{what} contains token ids ({', '.join(columns)}) and no text: set data.ids_tokenizer"
            " to the directory of the tokenizer that made them (GPT-2: vocab.json and merges.txt;"
            " BERT: vocab.txt; or tokenizer.json); they are decoded and tokenised again"
        )
    tokenizer = open_ids_tokenizer(folder)
    shares = {}
    for column in columns:
        rows = table[:_CHECKED][column]
        shares[column] = _agreement(tokenizer, rows)
    # On short rows several may agree; then the name decides.
    kind = "bert" if tokenizer.token_to_id("[CLS]") is not None else "gpt"
    best = max(shares, key=lambda c: (shares[c], kind in c.lower()))
    if shares[best] < _AGREEING:
        found = ", ".join(f"{c} {share:.0%}" for c, share in shares.items())
        raise ConfigError(
            f"data.ids_tokenizer={folder!r} did not make the ids of {what}: the share of rows whose"
            f" text is encoded to the same ids is {found}"
        )
    texts = []
    for start in range(0, len(table), _CHUNK):
        texts += _texts(tokenizer, table[start : start + _CHUNK][best])
    return texts


def open_ids_tokenizer(folder: str) -> tokenizers.Tokenizer:
    """Open tokenizer.json, GPT-2's vocab.json and merges.txt, or BERT's vocab.txt.

    Raises:
        ConfigError: if the folder contains none of them, or it cannot be read.
    """
    paths = {
        name: path
        for name in ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")
        if os.path.isfile(path := os.path.join(folder, name))
    }
    for path in paths.values():
        require_content(path)
    try:
        if "tokenizer.json" in paths:
            return tokenizers.Tokenizer.from_file(paths["tokenizer.json"])
        if {"vocab.json", "merges.txt"} <= set(paths):
            made = tokenizers.ByteLevelBPETokenizer(paths["vocab.json"], paths["merges.txt"])
            return made._tokenizer
        if "vocab.txt" in paths:
            lower = _lowercase(folder)
            return tokenizers.BertWordPieceTokenizer(paths["vocab.txt"], lowercase=lower)._tokenizer
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"data.ids_tokenizer={folder!r} cannot be read: {error}") from None
    raise ConfigError(
        f"data.ids_tokenizer={folder!r} is not a directory with tokenizer.json, with vocab.json and"
        " merges.txt, or with vocab.txt"
    )


def _lowercase(folder: str) -> bool:
    """Return do_lower_case of BERT's tokenizer_config.json; without one, False as in OPTIMUS."""
    path = os.path.join(folder, "tokenizer_config.json")
    if not os.path.isfile(path):
        return False
    return bool(read_fields(path, {"do_lower_case": bool}).get("do_lower_case"))


def _size(tokenizer: tokenizers.Tokenizer) -> int:
    """Return the highest id + 1; ids may have gaps."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def _texts(tokenizer: tokenizers.Tokenizer, rows: list[list[int]]) -> list[str]:
    size = _size(tokenizer)
    rows = [[i for i in row if i < size] for row in rows]
    return [text.strip() for text in tokenizer.decode_batch(rows, skip_special_tokens=True)]


def _agreement(tokenizer: tokenizers.Tokenizer, rows: list[list[int]]) -> float:
    """Return the share of rows whose decoded text is encoded to the same ids."""
    size = _size(tokenizer)
    if any(not 0 <= i < size + _ADDED for row in rows for i in row):
        return 0.0
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for name in ("[CLS]", "[SEP]", "[PAD]", "<|endoftext|>"):
        if (found := tokenizer.token_to_id(name)) is not None:
            special.add(found)
    same = 0
    for row, text in zip(rows, _texts(tokenizer, rows), strict=True):
        ids = [i for i in row if i < size and i not in special]
        # GPT-2's sentences begin with a space (add_prefix_space), which the text has lost.
        tries = (tokenizer.encode(x, add_special_tokens=False).ids for x in (text, f" {text}"))
        same += any(ids == [i for i in x if i not in special] for x in tries)
    return same / max(len(rows), 1)
