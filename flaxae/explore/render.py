"""HTML of answers; every text and every output of a model is escaped here, and only here."""

import html
from collections.abc import Sequence
from typing import Any

from flaxae.explore.texts import DiffPart

# The colours of Okabe & Ito, which colour-blind people can distinguish. A light page has their
# black, a dark page their yellow, and each has a grey that differs from all others.
_COMMON = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
PALETTE = (*_COMMON, "#000000", "#555555")
DARK_PALETTE = (*_COMMON, "#F0E442", "#BBBBBB")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "x", "asterisk")

CSS = """
:host { font-family: system-ui, sans-serif; font-size: 15px; line-height: 1.45; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; padding: 2px 10px 2px 0; }
td { padding: 2px 10px 2px 0; vertical-align: top; border-top: 1px solid rgba(128,128,128,.3); }
.scroll { overflow-x: auto; }
.t, pre { font-family: ui-monospace, monospace; font-size: 13.5px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.big { font-size: 19px; padding: 8px 10px; border-left: 4px solid #0072B2;
  background: rgba(128,128,128,.12); min-height: 1.4em; }
.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
.note { opacity: .85; font-size: 14px; }
.error { border-left: 4px solid #D55E00; padding: 6px 10px; background: rgba(213,94,0,.14); }
.warning { border-left: 4px solid #E69F00; padding: 6px 10px; background: rgba(230,159,0,.14); }
del { background: rgba(213,94,0,.30); text-decoration: line-through; }
ins { background: rgba(0,114,178,.30); text-decoration: underline; }
pre { margin: 0; padding: 8px 10px; background: rgba(128,128,128,.12); }
.strip { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 6px 10px;
  background: rgba(128,128,128,.12); }
.strip b { font-weight: 600; }
h1 { font-size: 20px; margin: 0; } h2 { font-size: 17px; margin: 0; }
.rest { opacity: .6; }
"""

# Parts of Panel's widgets that are otherwise black or white on every page.
WIDGETS = """
select.bk-input:not([multiple]) { background-image: url('data:image/svg+xml;utf8,\
<svg viewBox="0 0 25 20" xmlns="http://www.w3.org/2000/svg">\
<path d="M 0,0 25,0 12.5,20 Z" fill="gray"/></svg>'); }
.bk-spin-wrapper > .bk-spin-btn.bk-spin-btn-up:before { border-bottom-color: gray !important; }
.bk-spin-wrapper > .bk-spin-btn.bk-spin-btn-down:before { border-top-color: gray !important; }
.noUi-target { background: rgba(128,128,128,.35); }
.noUi-connect { background: #0072B2; }
"""


def palette(dark: bool) -> tuple[str, ...]:
    """Return the colours of groups on a page."""
    return DARK_PALETTE if dark else PALETTE


def escape(text: Any) -> str:
    """Escape a text for HTML."""
    return html.escape(str(text), quote=True)


def text_cell(text: str) -> str:
    """Return a text in the font of code; "(empty)" for an empty text."""
    if not text:
        return '<span class="note">(empty)</span>'
    return f'<span class="t">{escape(text)}</span>'


def big(text: str) -> str:
    """Return the main answer of a view, in large type."""
    return f'<div class="t big" role="status" aria-live="polite">{escape(text)}</div>'


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table.

    Args:
        headers: plain text.
        rows: cells of HTML, from the functions of this module.
    """
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in headers)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def number(value: float, digits: int = 3) -> str:
    """Return a number with fixed digits."""
    return f'<span class="n">{value:.{digits}f}</span>'


def note(text: str) -> str:
    """Return a text in small type."""
    return f'<div class="note">{escape(text)}</div>'


def alert(text: str, kind: str = "error") -> str:
    """Return a message, marked by a word and by colour."""
    word = {"error": "Error", "warning": "Careful"}[kind]
    return f'<div class="{kind}" role="alert"><b>{word}:</b> {escape(text)}</div>'


def diff(parts: Sequence[DiffPart]) -> str:
    """Return a text with deletions struck out and insertions underlined (not by colour alone)."""
    out = []
    for part in parts:
        if part.same:
            out.append(escape(part.old))
            continue
        out += [f"<del>{escape(part.old)}</del>"] if part.old else []
        out += [f"<ins>{escape(part.new)}</ins>"] if part.new else []
    return f'<div class="t big">{"".join(out)}</div>'
