"""A small MediaWiki dump made by hand."""

from xml.sax.saxutils import escape

HEAD = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11">\n'
ALAN = """{{Infobox person|name=Alan}}
'''Alan Turing''' (born {{circa|1912}}) was an [[England|English]] mathematician.<ref>A book.</ref>
He worked at [[Bletchley Park]] in the war &mdash; see [[File:Alan.jpg|thumb|A [[photo]] of him.]].
[[Category:People]]
== Life ==
* a list item that is long enough to be one.
{| class="wikitable"
| A table cell that is long enough to be one.
|}
He ran very fast.  He also
broke codes [https://example.org with a machine] there.
== See also ==
This is not read any more at all.
"""


def page(title, text, ns=0, redirect=""):
    redirect = redirect and f'<redirect title="{redirect}" />'
    return (
        f"<page><title>{escape(title)}</title><ns>{ns}</ns><id>1</id>{redirect}<revision><id>2</id>"
        f"<text bytes='1' xml:space='preserve'>{escape(text)}</text></revision></page>\n"
    )


def dump(number=12, extra=()):
    pages = [page("Alan Turing", ALAN), page("AT", "#REDIRECT [[x]]", redirect="Alan Turing")]
    pages += [page("Talk:AT", "This is some talk about it.", ns=1)]
    pages += [
        page(f"Place {i}", f"Place {i} is a small village & a port. No.") for i in range(number)
    ]
    return HEAD + "".join([*pages, *extra]) + "</mediawiki>\n"
