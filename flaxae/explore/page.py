"""The page: one per user, over one explorer that all users share."""

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
FINGERPRINT = 8  # characters of the model's fingerprint in a link


class AppState:
    """The state that all pages share.

    Attributes:
        explorer: answers every question.
        worker: runs device work, one job at a time.
    """

    def __init__(self, explorer: Explorer):
        """Start the worker of an explorer."""
        self.explorer, self.worker = explorer, Worker()
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="flaxae-slow")
        self._background: dict[str, Future] = {}

    def background(self, name: str, call: Callable[[], Any]) -> Future:
        """Start slow work once for all pages; failed work is started again on the next call."""
        found = self._background.get(name)
        if found is None or (found.done() and found.exception() is not None):
            found = self._background[name] = self._slow.submit(call)
        return found

    def close(self) -> None:
        """End the worker and the background thread."""
        self.worker.close()
        self._slow.shutdown(wait=False, cancel_futures=True)


class Page:
    """The page of one user.

    Attributes:
        state: the state that all pages share.
        views: name -> view, made when it is first opened.
        current: the view that is shown.
        layout: the page as a Panel object.
    """

    def __init__(self, state: AppState, query: Mapping[str, str] | None = None, dark: bool = False):
        """Build the page.

        Args:
            state: the state that all pages share.
            query: parameters of the address, which restore a view.
            dark: use colours for a dark page.
        """
        self.state, self.explorer, self.dark = state, state.explorer, dark
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
            button.on_click(partial(self._on_click, name))
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
        """True if the page has an address; in a notebook the address is the notebook's."""
        return self._doc is not None

    def show(self, name: str) -> None:
        """Show a view."""
        if name not in self.views:
            self.views[name] = VIEWS[name](self)
        self.current = self.views[name]
        for other, button in self._buttons.items():
            # Another button_type would replace the button, and it would lose the keyboard focus.
            color = ACTIVE if other == name else "transparent"
            button.styles = {"border-bottom": f"4px solid {color}"}
        self._body[:] = [self.current.layout]
        self.current.on_open()
        self.update_address()

    def request(
        self,
        call: Callable[[], Any],
        show: Callable[[Any], None],
        fail: Callable[[str], None],
        slot: str,
    ) -> None:
        """Run device work, and show its result unless a later request of the same slot exists.

        Args:
            call: the work.
            show: takes the result, on the page's own thread.
            fail: takes an error message, on the page's own thread.
            slot: name of the place on the page that shows the result.
        """
        number = self._latest[slot] = self._latest.get(slot, 0) + 1

        def if_latest(then: Callable[[Any], None]) -> Callable[[Any], None]:
            # Results may be delivered in another order than they were computed in.
            return lambda answer: then(answer) if self._latest[slot] == number else None

        try:
            future = self.state.worker.submit(call, (self.id, slot))
        except ConfigError as e:
            fail(str(e))
            return
        self.when_done(future, if_latest(show), if_latest(fail))

    def when_done(
        self, future: Future, show: Callable[[Any], None], fail: Callable[[str], None]
    ) -> None:
        """Pass a result to a callback on the page's thread.

        Without an event loop, as in a test, it waits for the result.

        Args:
            future: the result.
            show: takes the result.
            fail: takes an error message.
        """
        # JupyterLab handles a page's events in a thread with its own loop; its requests are
        # answered there, also while a cell runs.
        loop = _running_loop() or self._loop
        if loop is None:
            _deliver(future, show, fail)
        elif self._doc is not None:
            doc = self._doc

            def deliver() -> None:
                with set_curdoc(doc):
                    _deliver(future, show, fail)

            # The callback is added by the page's thread too, because two threads must not change a
            # document: on a busy machine answers were lost.
            future.add_done_callback(
                lambda _: loop.call_soon_threadsafe(doc.add_next_tick_callback, deliver)
            )
        else:
            later = partial(_deliver, future, show, fail)
            future.add_done_callback(lambda _: loop.call_soon_threadsafe(later))

    def next_tick(self, call: Callable[[], None]) -> None:
        """Run a change of Bokeh models, for which Panel's callbacks do not hold the lock."""
        if self._doc is not None:
            self._doc.add_next_tick_callback(call)
        else:
            call()
            pn.io.push_notebook(self.layout)  # Panel sends a notebook only its own models

    @property
    def query(self) -> dict[str, str]:
        """The address parameters that restore the current view."""
        return {"model": self._model, "view": self.current.name, **self.current.query}

    @property
    def link(self) -> str:
        """The end of an address that restores the current view."""
        return f"?{urlencode(self.query)}"

    def update_address(self) -> None:
        """Put the current view's link into the address bar."""
        location = pn.state.location if self.has_address else None
        if location is not None:
            theme = {"theme": "dark"} if self.dark else {}
            location.search = f"?{urlencode({**self.query, **theme})}"

    @property
    def _model(self) -> str:
        return str(self.explorer.model.fingerprint)[:FINGERPRINT]

    def _restore(self, query: dict[str, str]) -> None:
        """Set the view's inputs from a link, and show which of its parts could not be used."""
        messages = []
        model = query.get("model", self._model)
        if model != self._model:
            messages.append(
                f"This link was made with another model ({model[:40]}; this one is "
                f"{self._model}): the inputs are restored, the answers are of this model."
            )
        if query.get("view", self.current.name) not in VIEWS:
            messages.append(f"The link names a view {query['view'][:40]!r}, which does not exist.")
        wrong = self.current.restore(query)
        if wrong:
            messages.append(f"The link's {', '.join(wrong)} cannot be used here and is ignored.")
        self._notice.object = "".join(render.alert(text, "warning") for text in messages)
        self.update_address()

    def _on_click(self, name: str, event: Any) -> None:
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
            sizing_mode="stretch_width",
            stylesheets=[render.CSS],
        )

    def _strip(self) -> Any:
        items = "".join(
            f'<span title="{render.escape(f.meaning)}"><b>{render.escape(f.name)}</b> '
            f"{render.escape(f.value)}</span>"
            for f in self.explorer.about
        )
        return pn.pane.HTML(
            f'<div class="strip" role="note" aria-label="about this model">{items}</div>',
            sizing_mode="stretch_width",
            stylesheets=[render.CSS],
            css_classes=["honesty"],
            styles={
                "position": "sticky",
                "top": "0",
                "z-index": "5",
                "background": "var(--panel-background-color, #fff)",
            },
        )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of this thread, if it has one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _deliver(future: Future, show: Callable[[Any], None], fail: Callable[[str], None]) -> None:
    if future.cancelled():
        return  # a later move replaced this request
    try:
        answer = future.result()
    except ConfigError as e:
        fail(str(e))
    except Exception as e:  # the page must survive any error
        log.exception("a request failed")
        fail(f"internal error ({type(e).__name__}: {e}); the app keeps running")
    else:
        show(answer)
