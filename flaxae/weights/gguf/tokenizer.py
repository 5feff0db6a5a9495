"""Tokenizers from the vocabulary and merges in a GGUF header: byte-level BPE."""

from typing import Any

from flaxae.errors import ConfigError, require
from flaxae.weights.gguf import fields
from flaxae.weights.gguf.header import Header

KINDS = (("gpt2", "smollm"), ("gpt2", "gpt-2"))  # of tokenizer and of its splits of a text
CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
_START = "tokenizer.ggml."
WAY_OUT = "pass tokenizer=DIR (of a command --tokenizer=DIR), a directory with its tokenizer.json"


def tokens(header: Header) -> list[str]:
    """Return the texts of all tokens.

    Raises:
        ConfigError: if the header has none.
    """
    found = header.all(f"{_START}tokens", str)
    if not found:
        raise ConfigError(f"{header.path}: its header lacks {_START}tokens; {WAY_OUT}")
    return found


def build(header: Header, rows: int) -> Any:
    """Build a `tokenizers.Tokenizer`.

    Args:
        header: the header of a model.
        rows: rows of the model's embedding.

    Raises:
        ConfigError: if its kind is not supported, or its fields contradict each other.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    kind = (header.text(f"{_START}model"), header.text(f"{_START}pre"))
    require(
        kind in KINDS,
        f"{header.path}: a tokenizer of kind {kind} cannot be built from the file; {WAY_OUT}",
    )
    wrong = fields.unsupported_by_tokenizer(header.names, header.value)
    require(not wrong, f"{header.path}: {', '.join(wrong)}: not supported; {WAY_OUT}")
    texts = tokens(header)
    vocab = _vocab(header, texts, rows)
    inner: Any = tokenizers.Tokenizer(models.BPE(vocab, _merges(header, vocab)))
    level = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(header.flag(f"{_START}add_space_prefix"))
    )
    digits = [pre_tokenizers.Digits(individual_digits=True)] if kind[1] == "smollm" else []
    inner.pre_tokenizer = pre_tokenizers.Sequence([*digits, level])
    inner.decoder = decoders.ByteLevel()
    kinds = header.all(f"{_START}token_type", int) or []
    require(
        len(kinds) in (0, len(texts)),
        f"{header.path}: {len(kinds)} of {_START}token_type for {len(texts)} tokens; {WAY_OUT}",
    )
    named = {
        wanted: [t for t, kind in zip(texts, kinds, strict=False) if kind == wanted]
        for wanted in (CONTROL, USER_DEFINED)
    }
    inner.add_special_tokens(named[CONTROL])
    inner.add_tokens(named[USER_DEFINED])
    _add_ends(inner, header, texts)
    return inner


def _vocab(header: Header, texts: list[str], rows: int) -> dict[str, int]:
    require(
        len(texts) <= rows,
        f"{header.path}: {len(texts)} tokens, but its embedding has {rows} rows; {WAY_OUT}",
    )
    vocab: dict[str, int] = {}
    for i, text in enumerate(texts):
        first = vocab.setdefault(text, i)
        require(first == i, f"{header.path}: tokens {first} and {i} are both {text!r}; {WAY_OUT}")
    return vocab


def _merges(header: Header, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges, whose parts and results must be tokens."""
    name = f"{_START}merges"
    lines = header.all(name, str)
    if lines is None:
        raise ConfigError(f"{header.path}: its header lacks {name}; {WAY_OUT}")
    out = []
    for number, line in enumerate(lines):
        first, _, second = line.partition(" ")
        unknown = [x for x in (first, second, first + second) if x not in vocab]
        if not first or not second or unknown:
            reason = f"{unknown[0]!r} is not a token" if unknown else "not two tokens"
            raise ConfigError(
                f"{header.path}: {name}[{number}] is {line!r}: {reason} of the vocabulary; "
                f"{WAY_OUT}"
            )
        out.append((first, second))
    return out


def _add_ends(inner: Any, header: Header, texts: list[str]) -> None:
    """Put the tokens around each encoded text that the header asks for."""
    from tokenizers import processors

    before, after = (
        _end(header, texts, flag, name)
        for flag, name in (("add_bos_token", "bos_token_id"), ("add_eos_token", "eos_token_id"))
    )
    if before or after:
        template = [*(text for text, _ in before), "$A", *(text for text, _ in after)]
        special = list(dict.fromkeys(before + after))
        inner.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=special
        )


def _end(header: Header, texts: list[str], flag: str, name: str) -> list[tuple[str, int]]:
    """Return the token, with its id, that a flag asks for; [] if the flag is not set."""
    if not header.flag(f"{_START}{flag}"):
        return []
    id = header.integer(f"{_START}{name}")
    if id is None or not 0 <= id < len(texts):
        raise ConfigError(
            f"{header.path}: {_START}{flag} is true, but {_START}{name}={id} is not a token; "
            f"{WAY_OUT}"
        )
    return [(texts[id], id)]
