"""Tokenizers of language models, with their chat templates."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxae.config.locate import user_path
from flaxae.data.text import check_unicode
from flaxae.errors import ConfigError, require

TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


class ChatTokenizer:
    """Texts <-> ids, and messages -> the text that a chat model was tuned on.

    Args:
        inner: a `tokenizers.Tokenizer`.
        bos: text of the token that begins a text; "": none.
        eos: text of the token that ends a text; "": none.
        template: Jinja source of the chat template; "": none.
    """

    def __init__(self, inner: Any, *, bos: str = "", eos: str = "", template: str = ""):
        inner.no_truncation()
        inner.no_padding()
        self._inner, self.bos, self.eos, self.template = inner, bos, eos, template

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self._inner.get_vocab_size()

    def id(self, token: str) -> int | None:
        """Return the id of a token, or None if there is no such token."""
        return self._inner.token_to_id(token)

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Return the ids of each text.

        Args:
            texts: the texts.
            special: add the tokens that the tokenizer puts around a text (Llama's BOS); the text
                of a chat template contains them already.

        Raises:
            ConfigError: if a text is not valid Unicode.
        """
        texts = list(texts)
        try:
            rows = self._inner.encode_batch(texts, add_special_tokens=special)
        except TypeError:
            check_unicode(texts)
            raise
        return [row.ids for row in rows]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ids.

        Args:
            ids: token ids; ids outside of the vocabulary are skipped.
            special: include the text of special tokens.
        """
        ids = [int(i) for i in ids if int(i) < self.vocab_size]
        return self._inner.decode(ids, skip_special_tokens=not special)

    def chat(self, messages: Sequence[dict[str, str]], *, answer: bool = True) -> str:
        """Return the text of a conversation.

        Args:
            messages: [{"role": "user", "content": "..."}, ...].
            answer: end the text with the start of the model's answer.

        Raises:
            ConfigError: if there is no template, or it rejects the messages.
        """
        require(bool(self.template), "this tokenizer has no chat template: use plain text")
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise ConfigError("chat templates need `pip install jinja2`") from None

        def refuse(reason: str) -> None:
            raise TemplateError(reason)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals |= {"raise_exception": refuse}
        environment.filters["tojson"] = lambda x, **kwargs: json.dumps(x, ensure_ascii=False)
        names = {"bos_token": self.bos, "eos_token": self.eos, "add_generation_prompt": answer}
        try:
            return environment.from_string(self.template).render(messages=messages, **names)
        except TemplateError as error:
            raise ConfigError(f"the chat template rejects the messages: {error}") from None

    def save(self, directory: str | Path) -> None:
        """Write the files that `open_tokenizer` and transformers read."""
        directory = user_path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._inner.save(str(directory / TOKENIZER))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
        settings |= {"bos_token": self.bos} if self.bos else {}
        settings |= {"eos_token": self.eos} if self.eos else {}
        text = json.dumps(settings, indent=2) + "\n"
        (directory / SETTINGS).write_text(text, encoding="utf-8")
        if self.template:
            (directory / TEMPLATE).write_text(self.template, encoding="utf-8")


def open_tokenizer(directory: str | Path) -> ChatTokenizer:
    """Open the tokenizer of a Hugging Face directory.

    Raises:
        ConfigError: if there is no tokenizer.json, or it cannot be read.
    """
    import tokenizers

    directory = user_path(directory)
    path = directory / TOKENIZER
    require(path.is_file(), f"{directory}: no {TOKENIZER}")
    try:
        inner = tokenizers.Tokenizer.from_file(str(path))
        settings = {}
        if (directory / SETTINGS).is_file():
            settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises plain Exceptions
        raise ConfigError(f"{directory}: its tokenizer cannot be read ({error})") from None
    template = settings.get("chat_template") or ""
    if isinstance(template, list):
        named = {t["name"]: t["template"] for t in template}
        template = named.get("default", "")
    if (directory / TEMPLATE).is_file():
        template = (directory / TEMPLATE).read_text(encoding="utf-8")
    bos, eos = (_text(settings.get(name)) for name in ("bos_token", "eos_token"))
    return ChatTokenizer(inner, bos=bos, eos=eos, template=template)


def _text(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else token or ""
