"""The app in a notebook cell; everything that it shows comes through the notebook's own channel.

Two behaviours of Panel are changed for this, see `_send_styles_inline` and `_send_one_by_one`.
"""

import functools
import sys
import threading
from typing import Any

from flaxae.explore.backend import Explorer, check_explorer
from flaxae.explore.page import AppState, Page, pn


def notebook_app(explorer: Explorer, dark: bool = False) -> Any:
    """Return the app for a notebook: `flaxae.explore.app(explorer)` as a cell's last line shows it.

    Args:
        explorer: the model and its texts.
        dark: use colours for a dark notebook.

    Raises:
        ConfigError: if it is not given an `Explorer`.
    """
    check_explorer(explorer)
    comms = "colab" if "google.colab" in sys.modules else "default"
    pn.extension(comms=comms, inline=True, theme="dark" if dark else "default")
    _send_styles_inline()
    _send_one_by_one()
    explorer.warm_up()
    return Page(AppState(explorer), dark=dark).layout


def _send_styles_inline() -> None:
    """Make Panel include style sheets in the messages that it sends to a notebook.

    Panel's `inline=True` does this only for the first display. For later changes Panel sends
    addresses of its own web site, which the browser would load with each answer; without a
    connection the styles would be lost.
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
                _content(sheet.url) or sheet if isinstance(sheet, ImportedStyleSheet) else sheet
                for sheet in out["stylesheets"]
            ]
        return out

    Syncable._process_param_change = processed


def _send_one_by_one() -> None:
    """Make Panel send the parts of a message without a break.

    JupyterLab runs cells and the page's events in different threads. Both may send at a time, and
    the page joins parts in the order in which they arrive.
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
def _content(url: str) -> str:
    """Return the content of one of Panel's own style sheets; "" for any other address."""
    from panel.io.resources import CDN_DIST, DIST_DIR, LOCAL_DIST

    for start in (CDN_DIST, LOCAL_DIST):
        path = DIST_DIR / url.removeprefix(start).split("?")[0]
        if url.startswith(start) and path.is_file():
            return path.read_text(encoding="utf-8")
    return ""
