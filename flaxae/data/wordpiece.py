"""WordPiece tokenizers, as BERT and the Funnel Transformer have them, with our special ids.

Our ids 0, 1 and 2 are padding, the end of a text and unknown tokens. In these vocabularies they are
elsewhere, and the end of a text is the separator. The tokens are renumbered by a few exchanges, and
the rows of a pretrained embedding with them.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import decoders, models, normalizers, pre_tokenizers

from flaxae.data.tokenizer import SPECIALS
from flaxae.errors import ConfigError
from flaxae.foreign_json import read_fields
from flaxae.pointers import require_content

NAMES = (("<pad>", "[PAD]"), ("<sep>", "[SEP]"), ("<unk>", "[UNK]"))  # in the order of SPECIALS
VOCAB = "vocab.txt"


class WordPiece(NamedTuple):
    """A renumbered tokenizer.

    Attributes:
        inner: the tokenizer, with our ids.
        rows: the id in the original vocabulary of each of our ids.
    """

    inner: tokenizers.Tokenizer
    rows: Int[np.ndarray, "V"]


def find(directory: Path) -> WordPiece | None:
    """Open the WordPiece tokenizer of a directory; return None if it contains no such tokenizer.

    Raises:
        ConfigError: if a file cannot be read.
    """
    for name in ("tokenizer.json", VOCAB):
        if (directory / name).is_file():
            return read(directory / name)
    return None


def read(path: Path) -> WordPiece | None:
    """Read a tokenizer.json or vocab.txt; return None if it is of another kind, or has our ids.

    Raises:
        ConfigError: if it cannot be read.
    """
    require_content(path)
    try:
        made = _of_vocab(path) if path.name == VOCAB else tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"{str(path)!r} is not a readable tokenizer: {error}") from None
    raw = json.loads(made.to_str())
    ids = raw["model"].get("vocab")
    if raw["model"].get("type") != "WordPiece" or not isinstance(ids, dict):
        return None
    return None if [ids.get(x) for x in SPECIALS] == [0, 1, 2] else _renumbered(raw, ids)


def _of_vocab(path: Path) -> tokenizers.Tokenizer:
    """Make BERT's tokenizer of a vocab.txt."""
    vocab = models.WordPiece.read_file(str(path))
    unknown = next((name for name in NAMES[2] if name in vocab), NAMES[2][0])
    made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=unknown))
    settings = path.parent / "tokenizer_config.json"
    fields = read_fields(settings, {"do_lower_case": bool}) if settings.is_file() else {}
    lower = fields.get("do_lower_case", True)
    made.normalizer = normalizers.BertNormalizer(lowercase=lower)  # pyright: ignore
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore
    made.decoder = decoders.WordPiece()  # pyright: ignore
    return made


def _renumbered(raw: dict[str, Any], ids: dict[str, int]) -> WordPiece | None:
    """Return a tokenizer with our special ids; None if the vocabulary lacks one of them."""
    theirs = [next((name for name in names if name in ids), "") for names in NAMES]
    if "" in theirs:
        return None
    order = list(range(max(ids.values()) + 1))
    for ours, name in enumerate(theirs):
        at = order.index(ids[name])
        order[ours], order[at] = order[at], order[ours]
    place = {old: new for new, old in enumerate(order)}
    names = dict(zip(theirs, SPECIALS, strict=True))
    # A token that has one of our names takes the name of the token that gets it.
    names |= {ours: old for old, ours in names.items() if ours in ids and ours not in names}
    raw["model"]["vocab"] = {names.get(token, token): place[i] for token, i in ids.items()}
    raw["model"]["unk_token"] = SPECIALS[2]
    for token in raw["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
        token["id"] = place[token["id"]]
    raw["added_tokens"].sort(key=lambda token: token["id"])
    raw["post_processor"] = None  # we add no special tokens but the end
    inner = tokenizers.Tokenizer.from_str(json.dumps(raw))
    inner.add_special_tokens(list(SPECIALS))
    return WordPiece(inner, np.asarray(order))
