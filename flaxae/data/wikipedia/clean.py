"""Sentences worth training on from articles in wiki markup or plain text."""

import collections
import re
from typing import Any

from flaxae.data.sentences import sentence_status, split_sentences
from flaxae.errors import ConfigError

# After these headings there are only lists of titles and links.
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
_LINE = "\ue000"  # replaces the mark of a list item until its line is removed
_LIST = re.compile(rf"^.*{_LINE}.*$|^\s*[|!{{].*$", re.MULTILINE)
_WRAP = re.compile(r"(?<!\n)\n(?!\n)")  # a single line break does not end a paragraph
_MAGIC = re.compile(r"__[A-Z]+__")
# Remains of removed templates and references: "( )", "(, 1990)", a space before a comma.
_GAPS = ((re.compile(r"\(\s*[,;:\s]*\)"), ""), (re.compile(r"\(\s*[,;:]\s*"), "("))
_GAPS += ((re.compile(r"\s+([,.;:)])"), r"\1"), (re.compile(r"'{2,}"), ""))


def require_parser() -> None:
    """Raise ConfigError if the parser of wiki markup is not installed."""
    try:
        import mwparserfromhell  # noqa: F401
    except ImportError:
        raise ConfigError(
            "reading a dump's wiki markup needs mwparserfromhell, which is not installed:"
            " pip install 'flaxae[wikipedia]'"
        ) from None


def plain_text(markup: str) -> str:
    """Return the prose of an article in wiki markup.

    Tables, references, templates, files, categories, lists, headings and everything after "See
    also" or "References" are removed; links are replaced by their text.
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
    """Return the text of parsed markup in one pass; removing nodes would search the tree again."""
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
        return _LINE  # mark of a list item: "*", "#", ":" or ";"
    if name in _NOT_TEXT or node.contents is None:
        return "\n" if name == "br" else ""
    return _prose(node.contents)


def article_sentences(
    text: str, markup: bool, min_words: int, max_words: int
) -> tuple[list[str], dict[str, int]]:
    """Return the distinct sentences of an article in order, and counts.

    Args:
        text: the article.
        markup: whether it is in wiki markup.
        min_words: fewest words of a sentence.
        max_words: most words of a sentence.

    Returns:
        The sentences, and the numbers of "kept", "short", "long", "not_a_sentence" and "repeated".
    """
    counts: collections.Counter[str] = collections.Counter()
    kept: dict[str, None] = {}
    for sentence in split_sentences(plain_text(text) if markup else text):
        result = sentence_status(sentence, min_words, max_words)
        result = "repeated" if result == "kept" and sentence in kept else result
        counts[result] += 1
        if result == "kept":
            kept[sentence] = None
    return list(kept), dict(counts)
