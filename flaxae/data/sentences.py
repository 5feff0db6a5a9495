"""Sentences of running English text, and rules for those worth training on."""

import re

MIN_WORDS, MAX_WORDS = 4, 64  # OPTIMUS keeps sentences of at most 64 words (Li et al. 2020, 4.1)
MAX_CHARACTERS = 1000
_END = re.compile(r"([.!?]+)[\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]*[A-Z0-9\u00c0-\u00de])")
_INITIALS = re.compile(r"(?:[A-Za-z]\.)*[A-Z]")
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st jr sr vs no nos vol pp ed eds fig figs approx inc ltd co corp gen col lt"
    " sgt capt cmdr maj rev hon gov sen rep pres e.g i.e cf ca c fl b d r ft mt al op".split()
)
_MARKUP = re.compile(r"\{\{|\}\}|\[\[|\]\]|\|\||https?://|<\w|\w>")


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences.

    A sentence ends at a line break, and at a full stop that white space and a capital or digit
    follow, except after abbreviations and initials ("Dr.", "J. R. R.", "U.S.").
    """
    out = []
    for line in text.splitlines():
        line = " ".join(line.split())
        start = 0
        for match in _END.finditer(line):
            if match[1] == "." and _abbreviated(line[start : match.start()]):
                continue
            out.append(line[start : match.end()].rstrip())
            start = match.end()
        if rest := line[start:].strip():
            out.append(rest)
    return out


def _abbreviated(before: str) -> bool:
    word = before.rpartition(" ")[2].lstrip("(\"'[\u201c\u2018")
    return word.lower() in _ABBREVIATIONS or _INITIALS.fullmatch(word) is not None


def sentence_status(sentence: str, min_words: int = MIN_WORDS, max_words: int = MAX_WORDS) -> str:
    """Return "kept", or why a sentence is left out: "short", "long" or "not_a_sentence"."""
    words = len(sentence.split())
    if words < min_words:
        return "short"
    if words > max_words or len(sentence) > MAX_CHARACTERS:
        return "long"
    letters = sum(c.isalpha() or c == " " for c in sentence)
    whole = sentence.rstrip("\"'\u201d\u2019)]")[-1:] in {".", "!", "?"}
    if not whole or letters < 0.75 * len(sentence) or _MARKUP.search(sentence):
        return "not_a_sentence"
    first = sentence.lstrip("\"'\u201c\u2018([")[:1]
    return "kept" if first.isupper() or first.isdigit() else "not_a_sentence"
