"""The app in a notebook's cell: all that it shows comes through the notebook's own channel."""

import functools
import sys
import threading
from typing import Any

from flaxae.explore.app import Hub, Page, pn
from flaxae.explore.backend import Explorer


def notebook_app(explorer: Explorer, dark: bool = False) -> Any:
    """The app for a notebook's cell: `flaxae.explore.app(explorer)` as the last line shows it.

    Args:
        explorer: what is explored.
        dark: colours for a dark notebook.
    """
    comms = "colab" if "google.colab" in sys.modules else "default"
    pn.extension(comms=comms, inline=True, theme="dark" if dark else "default")
    _send_styles_along()
    _send_one_by_one()
    explorer.warm_up()
    return Page(Hub(explorer), dark=dark).layout


def _send_styles_along() -> None:
    """Puts style sheets into what is sent to a notebook's page.

    Panel's `inline=True` does so for what is shown first; for what changes later it names addresses
    at its makers' site, which would be asked at each answer, and where that fails the styles go.
    """
    from bokeh.models import ImportedStyleSheet
    from panel.reactive import Syncable

    process = Syncable._process_param_change
    if hasattr(process, "__wrapped__"):
        return

    @functools.wraps(process)
    def processed(self: Any, params: dict[str, Any]) -> dict[str, Any]:
        out = process(self, params)
        doc: Any = pn.state.curdoc
        if "stylesheets" in out and not (doc and doc.session_context):
            out["stylesheets"] = [
                _text_of(sheet.url) or sheet if isinstance(sheet, ImportedStyleSheet) else sheet
                for sheet in out["stylesheets"]
            ]
        return out

    Syncable._process_param_change = processed


def _send_one_by_one() -> None:
    """Keeps a message's parts together.

    JupyterLab has a cell and the page's events run in threads of their own. Both may send, and the
    page puts the parts that come in together, whoever sent them.
    """
    from panel.io import notebook

    send = notebook.send
    if hasattr(send, "__wrapped__"):
        return
    lock = threading.RLock()

    @functools.wraps(send)
    def sent(*args: Any, **kwargs: Any) -> None:
        with lock:
            send(*args, **kwargs)

    notebook.send = sent


@functools.cache
def _text_of(url: str) -> str:
    """What stands in one of Panel's own style sheets; "" where it is none of them."""
    from panel.io.resources import CDN_DIST, DIST_DIR, LOCAL_DIST

    for start in (CDN_DIST, LOCAL_DIST):
        path = DIST_DIR / url.removeprefix(start).split("?")[0]
        if url.startswith(start) and path.is_file():
            return path.read_text(encoding="utf-8")
    return ""
