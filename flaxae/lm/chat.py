"""Tokenizers of language models, with their chat templates."""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxae.config.locate import user_path
from flaxae.data.text import check_unicode
from flaxae.errors import ConfigError, require
from flaxae.foreign_json import check_fields, read_json
from flaxae.pointers import require_content

TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
TOKENS = "special_tokens_map.json"  # in older directories
MORE = "additional_chat_templates"  # a folder of templates by name
TOOL_USE = "tool_use"  # name of the template that is used where tools are given
_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_ANSWER = "Zq7answerZq7"  # an answer that no template contains


class Turn(NamedTuple):
    """The form of a model's answer in a conversation.

    Attributes:
        before: text between the start of the answer that a prompt ends with and the answer.
        after: text between the answer and the token that ends the turn.
        end: id of the token that ends the turn.
    """

    before: str
    after: str
    end: int


class ChatTokenizer:
    """Texts <-> ids, and messages -> the text that a chat model was tuned on.

    Args:
        inner: a `tokenizers.Tokenizer`.
        bos: text of the token that begins a text; "": none.
        eos: text of the token that ends a text; "": none.
        template: Jinja source of the chat template; "": none.
        tokens: further special tokens that templates see by name: {"pad_token": "<pad>"}.
        tool_template: Jinja source of the template for conversations with tools; "": `template`.
    """

    def __init__(
        self,
        inner: Any,
        *,
        bos: str = "",
        eos: str = "",
        template: str = "",
        tokens: Mapping[str, str] | None = None,
        tool_template: str = "",
    ):
        inner.no_truncation()
        inner.no_padding()
        self._inner, self.bos, self.eos, self.template = inner, bos, eos, template
        self.tool_template = tool_template
        named = {"bos_token": bos, "eos_token": eos}
        self.tokens = {name: x for name, x in named.items() if x} | dict(tokens or {})

    @functools.cached_property
    def vocab_size(self) -> int:
        """The highest id + 1; ids may have gaps, so that there are fewer tokens."""
        return max(self._inner.get_vocab().values(), default=-1) + 1

    def id(self, token: str) -> int | None:
        """Return the id of a token, or None if there is no such token."""
        return self._inner.token_to_id(token)

    def token(self, index: int) -> str | None:
        """Return the token of an id, or None if there is no such id."""
        return self._inner.id_to_token(index)

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
            ids: token ids; ids without a token are skipped.
            special: include the text of special tokens.
        """
        ids = [int(i) for i in ids if 0 <= int(i) < self.vocab_size]
        return self._inner.decode(ids, skip_special_tokens=not special)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        answer: bool = True,
        tools: Sequence[Any] | None = None,
        documents: Sequence[dict[str, str]] | None = None,
        **variables: Any,
    ) -> str:
        """Return the text of a conversation, rendered as transformers does.

        Args:
            messages: [{"role": "user", "content": "..."}, ...].
            answer: end the text with the start of the model's answer.
            tools: JSON schemas, or functions with type hints and a docstring.
            documents: [{"title": "...", "text": "..."}, ...].
            **variables: further variables of the template, such as enable_thinking=False.

        Raises:
            ConfigError: if there is no template, or it rejects the messages.
        """
        require(bool(self.template), "this tokenizer has no chat template: use plain text")
        require(bool(messages), "a conversation needs at least one message")
        render = _renderer()
        messages = [{k: v for k, v in message.items() if v is not None} for message in messages]
        try:
            return render(
                [messages],
                tools=tools,
                documents=documents,
                chat_template=(self.tool_template if tools is not None else "") or self.template,
                add_generation_prompt=answer,
                **{**self.tokens, **variables},
            )[0][0]
        except ImportError as error:
            raise ConfigError(f"chat templates need another jinja2: {error}") from None
        except Exception as error:  # a template is a program, which can fail in any way
            raise ConfigError(f"the chat template rejects the messages: {error}") from None

    def turn(self, ends: Sequence[int], system: str = "") -> Turn:
        """Return the form of an answer: that of the chat template if there is one.

        The end is the first of `ends` that the template writes after an answer, or else the first
        special token. Without a template, or if it writes neither, it is the first of `ends`.

        Args:
            ends: the ids that end a text of the model.
            system: system message of the conversation.
        """
        plain = Turn("", "", ends[0])
        if not self.template:
            return plain
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": "question"}]
        prompt = self.chat(messages)
        try:
            whole = self.chat([*messages, {"role": "assistant", "content": _ANSWER}], answer=False)
        except ConfigError:  # a template for single questions
            return plain
        before, _, after = whole.rpartition(_ANSWER)
        row = self._inner.encode(after, add_special_tokens=False)
        special = {i for i, t in self._inner.get_added_tokens_decoder().items() if t.special}
        for wanted in (set(ends), special):
            for index, (begin, _) in zip(row.ids, row.offsets, strict=True):
                if index in wanted:
                    start = before[len(prompt) :] if before.startswith(prompt) else ""
                    return Turn(start, after[:begin], index)
        return plain

    def save(self, directory: str | Path) -> None:
        """Write the files that `open_tokenizer` and transformers read."""
        directory = user_path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._inner.save(str(directory / TOKENIZER))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | self.tokens
        text = json.dumps(settings, indent=2) + "\n"
        (directory / SETTINGS).write_text(text, encoding="utf-8")
        if self.template:
            (directory / TEMPLATE).write_text(self.template, encoding="utf-8")
        if self.tool_template:
            (directory / MORE).mkdir(exist_ok=True)
            path = directory / MORE / f"{TOOL_USE}.jinja"
            path.write_text(self.tool_template, encoding="utf-8")


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keep transformers from advising, as it is imported, to install PyTorch."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@functools.cache
def _renderer() -> Any:
    """Return transformers' own renderer of chat templates, which needs no PyTorch."""
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise ConfigError("chat templates need `pip install jinja2`") from None
    with _without_advice():
        from transformers.utils.chat_template_utils import render_jinja_template
    return render_jinja_template


def check_ids(rows: Sequence[Sequence[int]], size: int) -> None:
    """Raise ConfigError for an id that a model with an embedding of `size` rows does not have."""
    wrong = next((i for row in rows for i in row if not 0 <= i < size), None)
    require(
        wrong is None,
        f"the tokenizer makes id {wrong}, and the model's embedding has {size} rows: it is another "
        "model's tokenizer, or its added tokens were not added to the model",
    )


def open_tokenizer(directory: str | Path) -> ChatTokenizer:
    """Open the tokenizer of a Hugging Face directory.

    Raises:
        ConfigError: if there is no tokenizer.json, or it or its settings cannot be read.
    """
    import tokenizers

    directory = user_path(directory)
    path = directory / TOKENIZER
    require(path.is_file(), f"{directory}: no {TOKENIZER}")
    require_content(path)
    try:
        inner = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exceptions
        raise ConfigError(f"{directory}: its tokenizer cannot be read ({error})") from None
    settings = _settings(directory)
    tokens = _tokens(settings, directory / SETTINGS)
    templates = _templates(settings, directory)
    return ChatTokenizer(
        inner,
        bos=tokens.get("bos_token", ""),
        eos=tokens.get("eos_token", ""),
        template=templates.get("default", ""),
        tokens=tokens,
        tool_template=templates.get(TOOL_USE, ""),
    )


def _settings(directory: Path) -> dict[str, Any]:
    """Return the contents of tokenizer_config.json; as in transformers, older files add to it."""
    settings = read_json(directory / SETTINGS) if (directory / SETTINGS).is_file() else {}
    if "added_tokens_decoder" not in settings and (directory / TOKENS).is_file():
        settings |= read_json(directory / TOKENS)
    return settings


def _tokens(settings: dict[str, Any], path: Path) -> dict[str, str]:
    """Return the special tokens that have names; null is not a token."""
    extra = settings.get("extra_special_tokens")
    own = {k: x for k, x in settings.items() if k.endswith("_token") and isinstance(x, (str, dict))}
    named = own | {k: settings.get(k) for k in _NAMED} | (extra if isinstance(extra, dict) else {})
    check_fields(named, dict.fromkeys(named, str | dict), f"{path}: ")
    texts = {k: x.get("content") if isinstance(x, dict) else x for k, x in named.items()}
    check_fields(texts, dict.fromkeys(texts, str), f"{path}: content of ")
    return {name: text for name, text in texts.items() if text is not None}


def _templates(settings: dict[str, Any], directory: Path) -> dict[str, str]:
    """Return the chat templates by name; "default" is the one for plain conversations."""
    path = directory / SETTINGS
    check_fields(settings, {"chat_template": str | list[dict] | dict[str, str]}, f"{path}: ")
    found = settings.get("chat_template") or {}
    if isinstance(found, list):
        for one in found:
            check_fields(one, {"name": str, "template": str}, f"{path}: chat_template: ")
        found = {one.get("name") or "": one.get("template") or "" for one in found}
    named = {"default": found} if isinstance(found, str) else dict(found)
    if (directory / TEMPLATE).is_file():
        named = {"default": _read(directory / TEMPLATE)}
    for file in sorted((directory / MORE).glob("*.jinja")):
        named[file.stem] = _read(file)
    require(
        not named or "default" in named,
        f"{directory}: its chat templates are {', '.join(sorted(named))}, and none is the default: "
        f"write the one to use into {TEMPLATE}",
    )
    return named


def _read(path: Path) -> str:
    require_content(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error})") from None
