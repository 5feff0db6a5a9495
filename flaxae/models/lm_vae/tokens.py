"""A language model's tokenizer with the special ids of text autoencoders.

These pad with 0, end texts with 1 and have 2 for unknown tokens (`flaxae.data.tokenizer`). The
language model's ids follow, so that its id i is SHIFT + i.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import tokenizers
from jaxtyping import Array, Float, Int

from flaxae.data.tokenizer import EOS, SPECIALS, Tokenizer
from flaxae.decoding import NEVER
from flaxae.errors import ConfigError
from flaxae.lm.chat import TOKENIZER, ChatTokenizer

SHIFT = len(SPECIALS)


def shifted(tokenizer: ChatTokenizer) -> Tokenizer:
    """Return a tokenizer that gives the ids of another one plus SHIFT.

    Args:
        tokenizer: the language model's.

    Raises:
        ConfigError: if its kind is neither BPE nor Unigram.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        data = json.loads((Path(folder) / TOKENIZER).read_text(encoding="utf-8"))
    model = data["model"]
    if model.get("type") == "BPE":
        vocab = {_renamed(token): i + SHIFT for token, i in model["vocab"].items()}
        model["vocab"] = dict(zip(SPECIALS, range(SHIFT), strict=True)) | vocab
        model["unk_token"] = model.get("unk_token") and _renamed(model["unk_token"])
    elif model.get("type") == "Unigram":
        vocab = [[_renamed(token), score] for token, score in model["vocab"]]
        model["vocab"] = [[token, 0.0] for token in SPECIALS] + vocab
        model["unk_id"] = None if model.get("unk_id") is None else model["unk_id"] + SHIFT
    else:
        raise ConfigError(
            f"a tokenizer of kind {model.get('type')} cannot be used by an autoencoder: name a "
            "language model whose tokenizer is BPE or Unigram"
        )
    own = [_special(token, i) for i, token in enumerate(SPECIALS)]
    added = [
        x | {"id": x["id"] + SHIFT, "content": _renamed(x["content"])} for x in data["added_tokens"]
    ]
    data["added_tokens"] = own + added
    data["post_processor"] = None  # adds special tokens, which autoencoders do themselves
    return Tokenizer.checked(tokenizers.Tokenizer.from_str(json.dumps(data)), "language model")


def _renamed(token: str) -> str:
    """Return another name for a token that has the name of one of ours."""
    return f"<lm {token}>" if token in SPECIALS else token


def _special(token: str, index: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": token, "special": True} | flags


def to_language_model(ids: Int[Array, "B S"], end: int) -> Int[Array, "B S"]:
    """Return the language model's ids; special ids become the one that ends its texts."""
    return jnp.where(ids >= SHIFT, ids - SHIFT, end)


def from_language_model(scores: Float[Array, "B V"], end: int) -> Float[Array, "B W"]:
    """Return scores of our ids: those of the language model, its end's as that of EOS.

    Args:
        scores: scores of the language model's ids.
        end: the language model's id that ends a text.
    """
    special = jnp.full((scores.shape[0], SHIFT), NEVER, scores.dtype).at[:, EOS].set(scores[:, end])
    return jnp.concatenate([special, scores.at[:, end].set(NEVER)], axis=1)
