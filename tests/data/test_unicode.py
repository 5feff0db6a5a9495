"""Tests of texts that are not valid Unicode: halves of surrogate pairs."""

import io
import sys

import pytest

from flaxae import generate
from flaxae.data.pretrained import byte_tokenizer
from flaxae.data.tokenizer import train
from flaxae.errors import ConfigError
from tests.models.causal_lm.tiny import tokenizer as chat_tokenizer

BROKEN = "caf\udce9"  # "café" in Latin-1, as Python reads it from the command line


@pytest.mark.parametrize(
    "make",
    [lambda: train(["a", "b"], 300), byte_tokenizer, chat_tokenizer],
    ids=["trained", "bytes", "chat"],
)
def test_tokenizers_name_the_text(make):
    tokenizer = make()
    assert tokenizer.encode(["caf\u00e9", "\U0001f600"])
    with pytest.raises(ConfigError, match=r"^text 2 of 2: .*'\\udce9' after 'caf', half of a surr"):
        tokenizer.encode(["a", BROKEN])
    with pytest.raises(ConfigError, match="^the text contains"):
        tokenizer.encode([BROKEN])


@pytest.mark.parametrize(
    ("arguments", "name"), [([BROKEN], "the prompt"), (["a", "--system", BROKEN], "--system")]
)
def test_generate_names_the_argument(arguments, name):
    with pytest.raises(ConfigError, match=f"{name}: the text contains .*UTF-8"):
        generate.main(["generate", *arguments])


def test_generate_reads_only_utf8_from_standard_input(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    with pytest.raises(ConfigError, match=r"standard input is not UTF-8 \(byte 3\)"):
        generate.main(["generate", "-"])
