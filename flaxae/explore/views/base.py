"""What all views share: inputs that a link restores, errors in words, copying and exporting."""

import io
from collections.abc import Callable
from typing import Any, ClassVar

import panel as pn

from flaxae.explore import render
from flaxae.explore.export import Table, as_csv, as_picture
from flaxae.explore.space import LONGEST
from flaxae.measures.text import is_valid

COPY = "navigator.clipboard.writeText(source.value)"
MONOSPACE = "input { font-family: ui-monospace, monospace }"
COPY_LINK = "navigator.clipboard.writeText(window.location.href)"


class View:
    """A view of one page.

    Attributes:
        name, title: in links and on its button.
        lesson: what to try and what to look out for.
        inputs: name in a link -> widget.
        layout: what Panel shows.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    lesson: ClassVar[str]

    def __init__(self, page: Any):
        """Makes the widgets; nothing is computed before `opened`.

        Args:
            page: whose view it is.
        """
        self.page, self.explorer = page, page.explorer
        self._restoring = self._open = False
        self._table: Table | None = None
        self._error = self.html("error-line")
        self.inputs: dict[str, Any] = self.make_inputs()
        self.body = self.make_body()
        for name, widget in self.inputs.items():
            widget.stylesheets = [*widget.stylesheets, render.WIDGETS]
            widget.param.watch(lambda event, name=name: self._moved(name), "value")
        self.layout = pn.Column(
            pn.pane.HTML(
                f"<h2>{render.escape(self.title)}</h2>{render.note(self.lesson)}",
                sizing_mode="stretch_width", stylesheets=[render.CSS],
            ),
            *self.body[:1], self._error, *self.body[1:], self._take_along(),
            sizing_mode="stretch_width", css_classes=[f"view-{self.name}"],
        )  # fmt: skip

    def make_inputs(self) -> dict[str, Any]:
        raise NotImplementedError

    def make_body(self) -> list[Any]:
        """What is shown: the inputs first."""
        raise NotImplementedError

    def update(self, name: str) -> None:
        """Asks for what the inputs say.

        Args:
            name: of the input that was moved; "": all of them.
        """
        raise NotImplementedError

    def call(self) -> str:
        """The line of Python that gives the same answer."""
        raise NotImplementedError

    def opened(self) -> None:
        """The page shows it."""
        if not self._open:
            self._open = True
            self.update("")

    @property
    def code(self) -> str:
        return f"{self.explorer.opening}{self.call()}\n"

    @property
    def query(self) -> dict[str, str]:
        return {name: str(widget.value) for name, widget in self.inputs.items()}

    def restore(self, query: dict[str, str]) -> list[str]:
        """Sets the inputs to what a link says.

        Returns:
            The names of those that do not fit.
        """
        wrong = []
        self._restoring = True
        for name, widget in self.inputs.items():
            if name in query and not _set(widget, query[name]):
                wrong.append(f"{name}={query[name][:40]!r}")
        self._restoring = False
        self.update("")
        return wrong

    def ask(self, call: Callable[[], Any], show: Callable[[Any], None], slot: str = "") -> None:
        """Has device work done and shows it; an error takes the answer's place in words."""

        def shown(answer: Any) -> None:
            self._error.object = ""
            show(answer)

        self.page.ask(call, shown, self.fail, f"{self.name}/{slot}")
        self._code.object = f"<pre>{render.escape(self.code)}</pre>"
        self._copied.value = self.code

    def fail(self, text: str) -> None:
        self._error.object = render.alert(text)

    def keep(self, table: Table) -> None:
        """What the export buttons give."""
        self._table = table

    def html(self, css_class: str) -> Any:
        """A pane for what `render` makes."""
        return pn.pane.HTML(
            "", sizing_mode="stretch_width", stylesheets=[render.CSS], css_classes=[css_class]
        )

    def text_input(self, label: str, value: str) -> Any:
        return pn.widgets.TextInput(
            label=label, value=value, max_length=LONGEST + 1, sizing_mode="stretch_width",
            css_classes=["input-text"], stylesheets=[MONOSPACE],
        )  # fmt: skip

    def example(self, number: int) -> str:
        """A text of the corpus that a view begins with: short ones first, always the same."""
        good = {t for t in self.explorer.texts if len(t) >= 8}
        if self.explorer.python:
            good = {t for t in good if is_valid(t) and t[0].isalpha()}
        order = sorted(good, key=lambda t: (len(t), t)) or self.explorer.texts
        return order[(number * 97 + len(order) // 8) % len(order)]

    def _moved(self, name: str) -> None:
        if not self._restoring:
            self.update(name)
            self.page.linked()

    def _take_along(self) -> Any:
        """Copy as code, export, link."""
        self._code = self.html("code")
        self._copied = pn.widgets.TextAreaInput(visible=False, max_length=10 * LONGEST)
        code, link = (
            pn.widgets.Button(label=text, css_classes=[css], margin=3)
            for text, css in (("Copy as code", "copy-code"), ("Copy link", "copy-link"))
        )
        shown = pn.Column(self._code, visible=False, sizing_mode="stretch_width")
        code.on_click(lambda event: setattr(shown, "visible", True))
        code.jscallback(clicks=COPY, args={"source": self._copied})
        link.jscallback(clicks=COPY_LINK)
        link.visible = self.page.has_address
        files = [
            pn.widgets.FileDownload(
                callback=lambda kind=kind: self._file(kind), filename=f"{self.name}.{kind}",
                label=kind.upper(), button_type="default", css_classes=[f"get-{kind}"], margin=3,
            )
            for kind in ("csv", "png", "svg")
        ]  # fmt: skip
        return pn.Column(
            pn.FlexBox(code, link, *files, sizing_mode="stretch_width"), shown, self._copied,
            sizing_mode="stretch_width",
        )  # fmt: skip

    def _file(self, kind: str) -> Any:
        table = self._table or Table((), [])
        if kind == "csv":
            return io.BytesIO(as_csv(table).encode("utf-8"))
        return io.BytesIO(as_picture(table, kind, self.title))


def _set(widget: Any, text: str) -> bool:
    """Gives a widget the value that a link spells, if it may have it."""
    old = widget.value
    try:
        if isinstance(old, bool):
            value: Any = {"True": True, "False": False}[text]
        elif isinstance(old, int):
            value = int(text)
        elif isinstance(old, float):
            value = float(text)
        else:
            value = text
        options = getattr(widget, "options", None)
        if options is not None and value not in (
            options.values() if isinstance(options, dict) else options
        ):
            return False
        for end, sign in (("start", -1), ("end", 1)):
            bound = getattr(widget, end, None)
            if bound is not None and (value - bound) * sign > 0:
                return False
        if isinstance(value, float) and value != value:
            return False
        if isinstance(value, str) and len(value) > LONGEST:
            return False
        widget.value = value
    except (ValueError, KeyError, OverflowError):
        return False
    return True
