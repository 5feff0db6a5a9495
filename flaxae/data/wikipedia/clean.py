"""From an article, in wiki markup or plain, to sentences worth training on."""

import collections
import re
from typing import Any

from flaxae.data.sentences import split_sentences, verdict
from flaxae.errors import ConfigError

# What follows these headings is lists of titles and links.
_LAST = re.compile(
    r"^={2,}\s*(see also|references|external links|notes|further reading|bibliography|sources|"
    r"citations|footnotes)\s*={2,}\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_NOT_TEXT = frozenset(
    "ref table gallery math score timeline syntaxhighlight source code pre nowiki imagemap"
    " templatestyles chem hiero graph mapframe".split()
)
_NAMESPACES = ("file:", "image:", "category:", "media:")
_LINE = "\ue000"  # stands for the mark of a list's line until the line is taken out
_LIST = re.compile(rf"^.*{_LINE}.*$|^\s*[|!{{].*$", re.MULTILINE)
_WRAP = re.compile(r"(?<!\n)\n(?!\n)")  # a single line break does not end a paragraph
_MAGIC = re.compile(r"__[A-Z]+__")
# What a removed template or reference leaves: "( )", "(, 1990)", a space before a comma.
_GAPS = ((re.compile(r"\(\s*[,;:\s]*\)"), ""), (re.compile(r"\(\s*[,;:]\s*"), "("))
_GAPS += ((re.compile(r"\s+([,.;:)])"), r"\1"), (re.compile(r"'{2,}"), ""))


def require_parser() -> None:
    """Raises ConfigError where the parser of wiki markup is not installed."""
    try:
        import mwparserfromhell  # noqa: F401
    except ImportError:
        raise ConfigError(
            "reading a dump's wiki markup needs mwparserfromhell, which is not installed:"
            " pip install 'flaxae[wikipedia]'"
        ) from None


def plain_text(markup: str) -> str:
    """The prose of an article in wiki markup.

    Tables, references, templates, files, categories, lists and headings go, as does all from "See
    also" or "References" on; a link leaves its text.
    """
    import mwparserfromhell

    if end := _LAST.search(markup):
        markup = markup[: end.start()]
    text = _prose(mwparserfromhell.parse(markup))
    text = _WRAP.sub(" ", _LIST.sub("\n", _MAGIC.sub("", text)))
    for pattern, by in _GAPS:
        text = pattern.sub(by, text)
    return text


def _prose(code: Any) -> str:
    """The text of parsed markup, in one walk: the library's own removal searches the tree anew."""
    return "".join(_node(node) for node in code.nodes)


def _node(node: Any) -> str:
    kind = type(node).__name__
    if kind == "Text":
        return node.value
    if kind == "Wikilink":
        title = str(node.title).strip().lower()
        return "" if title.startswith(_NAMESPACES) else _prose(node.text or node.title)
    if kind == "ExternalLink":
        return _prose(node.title) if node.title else ""
    if kind == "Heading":
        return "\n\n"
    if kind == "HTMLEntity":
        return node.normalize()
    if kind != "Tag":
        return ""  # a template, its argument, a comment
    name = str(node.tag).strip().lower()
    if node.self_closing and node.wiki_markup:
        return _LINE  # of a list: "*", "#", ":", ";"
    if name in _NOT_TEXT or node.contents is None:
        return "\n" if name == "br" else ""
    return _prose(node.contents)


def article_sentences(
    text: str, markup: bool, min_words: int, max_words: int
) -> tuple[list[str], dict[str, int]]:
    """The distinct sentences of an article that are kept, in order, and counts of what was not.

    Args:
        text: the article.
        markup: it is in wiki markup.
        min_words: a sentence's fewest.
        max_words: a sentence's most.

    Returns:
        The sentences, and how many were "kept", "short", "long", "not_a_sentence", "repeated".
    """
    counts: collections.Counter[str] = collections.Counter()
    kept: dict[str, None] = {}
    for sentence in split_sentences(plain_text(text) if markup else text):
        result = verdict(sentence, min_words, max_words)
        result = "repeated" if result == "kept" and sentence in kept else result
        counts[result] += 1
        if result == "kept":
            kept[sentence] = None
    return list(kept), dict(counts)
