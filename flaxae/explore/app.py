"""The page: one a person, over one explorer that all share."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlencode

from flaxae.errors import ConfigError
from flaxae.explore import render
from flaxae.explore.backend import Explorer
from flaxae.explore.worker import Worker

try:
    import panel as pn
    from panel.io.state import set_curdoc
except ModuleNotFoundError:
    raise ConfigError("the explorer's page needs packages: pip install panel bokeh") from None

from flaxae.explore.views import VIEWS

log = logging.getLogger(__name__)
_NUMBERS = itertools.count()
ACTIVE = "#0072B2"
MODEL = 8  # characters of a fingerprint in a link


class Hub:
    """What all pages share: the explorer, its worker, and slow work in the background."""

    def __init__(self, explorer: Explorer):
        self.explorer, self.worker = explorer, Worker()
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="flaxae-slow")
        self._background: dict[str, Future] = {}

    def background(self, name: str, call: Callable[[], Any]) -> Future:
        """Slow work that all pages wait for together; what failed is tried again when asked."""
        found = self._background.get(name)
        if found is None or (found.done() and found.exception() is not None):
            found = self._background[name] = self._slow.submit(call)
        return found

    def close(self) -> None:
        self.worker.close()
        self._slow.shutdown(wait=False, cancel_futures=True)


class Page:
    """One person's state.

    Attributes:
        hub: what is shared.
        views: name -> view, made when first opened.
        current: the view that is shown.
        layout: what Panel shows.
    """

    def __init__(self, hub: Hub, query: Mapping[str, str] | None = None, dark: bool = False):
        """Makes the page.

        Args:
            hub: what is shared.
            query: of the address: restores a view.
            dark: colours for a dark page.
        """
        self.hub, self.explorer, self.dark = hub, hub.explorer, dark
        self.id = next(_NUMBERS)
        doc: Any = pn.state.curdoc
        self._doc: Any = doc if doc is not None and doc.session_context else None
        self._loop = _running_loop()
        self.views: dict[str, Any] = {}
        self._latest: dict[str, int] = {}
        self._body = pn.Column(sizing_mode="stretch_width")
        self._notice = pn.pane.HTML(
            "", sizing_mode="stretch_width", stylesheets=[render.CSS], css_classes=["notice"]
        )
        self._buttons = {}
        for name, view in VIEWS.items():
            button = pn.widgets.Button(label=view.title, css_classes=[f"to-{name}"], margin=3)
            button.on_click(partial(self._clicked, name))
            self._buttons[name] = button
        self.layout = pn.Column(
            self._head(),
            self._strip(),
            pn.FlexBox(*self._buttons.values(), sizing_mode="stretch_width"),
            self._notice,
            self._body,
            sizing_mode="stretch_width",
            styles={"max-width": "1100px", "margin": "0 auto", "padding": "8px"},
            css_classes=["explorer"],
        )
        query = dict(query or {})
        view = query.get("view", "")
        self.show(view if view in VIEWS else next(iter(VIEWS)))
        if query.keys() - {"theme"}:
            self._restore(query)

    @property
    def has_address(self) -> bool:
        """Whether a link can restore it: in a notebook the address is the notebook's."""
        return self._doc is not None

    def show(self, name: str) -> None:
        """Opens a view."""
        if name not in self.views:
            self.views[name] = VIEWS[name](self)
        self.current = self.views[name]
        for other, button in self._buttons.items():
            # Another button_type would draw it anew, and take the keyboard's focus away.
            color = ACTIVE if other == name else "transparent"
            button.styles = {"border-bottom": f"4px solid {color}"}
        self._body[:] = [self.current.layout]
        self.current.opened()
        self.linked()

    def ask(self, call: Callable[[], Any], show: Callable[[Any], None],
            fail: Callable[[str], None], slot: str) -> None:  # fmt: skip
        """Has device work done, and shows its answer unless the same slot asked again meanwhile.

        Args:
            call: the work.
            show, fail: take the answer, or what went wrong in words; run on the page's own thread.
            slot: which of the page's questions it is.
        """
        number = self._latest[slot] = self._latest.get(slot, 0) + 1

        def if_latest(then: Callable[[Any], None]) -> Callable[[Any], None]:
            # Answers may be delivered in another order than they were found in.
            return lambda answer: then(answer) if self._latest[slot] == number else None

        try:
            future = self.hub.worker.submit(call, (self.id, slot))
        except ConfigError as e:
            fail(str(e))
            return
        self.when_done(future, if_latest(show), if_latest(fail))

    def when_done(
        self, future: Future, show: Callable[[Any], None], fail: Callable[[str], None]
    ) -> None:
        """Calls back on the page's thread; without an event loop (a test) waits right here."""
        # JupyterLab has a page's events handled beside the cells, by a thread with its own loop;
        # what an event asked for is answered there, also while a cell runs.
        loop = _running_loop() or self._loop
        if loop is None:
            _deliver(future, show, fail)
        elif self._doc is not None:
            doc = self._doc

            def next_tick() -> None:
                with set_curdoc(doc):
                    _deliver(future, show, fail)

            # Also by the page's thread: two are not to change a document. (On a busy machine two
            # browser tests had waited for an answer that never came.)
            future.add_done_callback(
                lambda _: loop.call_soon_threadsafe(doc.add_next_tick_callback, next_tick)
            )
        else:
            later = partial(_deliver, future, show, fail)
            future.add_done_callback(lambda _: loop.call_soon_threadsafe(later))

    def later(self, call: Callable[[], None]) -> None:
        """Changes Bokeh's own models, for which Panel's callbacks do not hold the lock."""
        if self._doc is not None:
            self._doc.add_next_tick_callback(call)
        else:
            call()
            pn.io.push_notebook(self.layout)  # Panel tells a notebook of its own models only

    @property
    def query(self) -> dict[str, str]:
        """What restores the current view."""
        model = str(self.explorer.model.fingerprint)[:MODEL]
        return {"model": model, "view": self.current.name, **self.current.query}

    @property
    def link(self) -> str:
        return f"?{urlencode(self.query)}"

    def linked(self) -> None:
        """Puts the current view's link into the address bar."""
        location = pn.state.location if self.has_address else None
        if location is not None:
            theme = {"theme": "dark"} if self.dark else {}
            location.search = f"?{urlencode({**self.query, **theme})}"

    def _restore(self, query: dict[str, str]) -> None:
        """Sets the view's inputs; what does not fit is told."""
        told = []
        model = str(self.explorer.model.fingerprint)[:MODEL]
        if query.get("model", model) != model:
            told.append(
                f"This link was made with another model ({query['model'][:40]}; this one is "
                f"{model}): the inputs are restored, the answers are this model's."
            )
        if query.get("view", self.current.name) not in VIEWS:
            told.append(f"The link asks for a view {query['view'][:40]!r}, which there is not.")
        wrong = self.current.restore(query)
        if wrong:
            told.append(f"The link's {', '.join(wrong)} cannot be used here and is left out.")
        self._notice.object = "".join(render.alert(text, "warning") for text in told)
        self.linked()

    def _clicked(self, name: str, event: Any) -> None:
        self._notice.object = ""
        self.show(name)

    def _head(self) -> Any:
        corpus = self.explorer.corpus
        notes = "; ".join([*corpus.notes, *filter(None, [self.explorer.cache.note])])
        source = self.explorer.source or type(self.explorer.model).__name__
        text = f"{source}, explored with {len(corpus.texts)} texts ({corpus.name})"
        text += f"; {notes}" if notes else ""
        return pn.pane.HTML(
            f"<h1>Latent-space explorer</h1>{render.note(text)}",
            sizing_mode="stretch_width", stylesheets=[render.CSS],
        )  # fmt: skip

    def _strip(self) -> Any:
        items = "".join(
            f'<span title="{render.escape(f.meaning)}"><b>{render.escape(f.name)}</b> '
            f"{render.escape(f.value)}</span>"
            for f in self.explorer.about
        )
        return pn.pane.HTML(
            f'<div class="strip" role="note" aria-label="about this model">{items}</div>',
            sizing_mode="stretch_width", stylesheets=[render.CSS], css_classes=["honesty"],
            styles={"position": "sticky", "top": "0", "z-index": "5",
                    "background": "var(--panel-background-color, #fff)"},
        )  # fmt: skip


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Of this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _deliver(future: Future, show: Callable[[Any], None], fail: Callable[[str], None]) -> None:
    if future.cancelled():
        return  # overtaken by a later move
    try:
        answer = future.result()
    except ConfigError as e:
        fail(str(e))
    except Exception as e:  # the page stays up, whatever it is
        log.exception("a request failed")
        fail(f"something inside failed ({type(e).__name__}: {e}); the app goes on")
    else:
        show(answer)
