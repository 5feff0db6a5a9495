"""Base class of the views: inputs that a link restores, error messages, copying and exporting."""

import io
from collections.abc import Callable
from typing import Any, ClassVar

import panel as pn

from flaxae.explore import render
from flaxae.explore.export import Table, as_csv, as_picture
from flaxae.explore.space import MAX_CHARACTERS
from flaxae.measures.text import is_valid

COPY = "navigator.clipboard.writeText(source.value)"
MONOSPACE = "input { font-family: ui-monospace, monospace }"
COPY_LINK = "navigator.clipboard.writeText(window.location.href)"


class View:
    """A view on the page of one user.

    Attributes:
        name: name in links.
        title: heading, and text of its button.
        hint: advice for using the view and reading its answer.
        inputs: name in a link -> widget.
        layout: the view as a Panel object.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    hint: ClassVar[str]

    def __init__(self, page: Any):
        """Make the widgets; nothing is computed before `on_open`.

        Args:
            page: the page that shows the view.
        """
        self.page, self.explorer = page, page.explorer
        self._restoring = self._open = False
        self._table: Table | None = None
        self._error = self.html("error-line")
        self.inputs: dict[str, Any] = self.make_inputs()
        self.body = self.make_body()
        for name, widget in self.inputs.items():
            widget.stylesheets = [*widget.stylesheets, render.WIDGETS]
            widget.param.watch(lambda event, name=name: self._on_change(name), "value")
        self.layout = pn.Column(
            pn.pane.HTML(
                f"<h2>{render.escape(self.title)}</h2>{render.note(self.hint)}",
                sizing_mode="stretch_width",
                stylesheets=[render.CSS],
            ),
            *self.body[:1],
            self._error,
            *self.body[1:],
            self._export_row(),
            sizing_mode="stretch_width",
            css_classes=[f"view-{self.name}"],
        )

    def make_inputs(self) -> dict[str, Any]:
        """Make the input widgets, by their names in a link."""
        raise NotImplementedError

    def make_body(self) -> list[Any]:
        """Arrange the view's parts: a box with the inputs, then the answers."""
        raise NotImplementedError

    def update(self, name: str) -> None:
        """Request the answers to the inputs.

        Args:
            name: name of the changed input; "": all inputs.
        """
        raise NotImplementedError

    def call(self) -> str:
        """Return lines of Python that print the same answers."""
        raise NotImplementedError

    def on_open(self) -> None:
        """Compute the first answers when the page shows the view for the first time."""
        if not self._open:
            self._open = True
            self.update("")

    @property
    def code(self) -> str:
        """A Python script that prints the view's answers."""
        return f"{self.explorer.opening}{self.call()}\n"

    @property
    def query(self) -> dict[str, str]:
        """The inputs as parameters of a link."""
        return {name: str(widget.value) for name, widget in self.inputs.items()}

    def restore(self, query: dict[str, str]) -> list[str]:
        """Set the inputs to the values of a link.

        Returns:
            The parameters that do not fit, as "name='value'".
        """
        wrong = []
        self._restoring = True
        for name, widget in self.inputs.items():
            if name in query and not _set(widget, query[name]):
                wrong.append(f"{name}={query[name][:40]!r}")
        self._restoring = False
        self.update("")
        return wrong

    def request(self, call: Callable[[], Any], show: Callable[[Any], None], slot: str = "") -> None:
        """Run device work and show its result, or an error message.

        Args:
            call: the work.
            show: takes the result.
            slot: name of the place in the view that shows the result.
        """

        def shown(answer: Any) -> None:
            self._error.object = ""
            show(answer)

        self.page.request(call, shown, self.show_error, f"{self.name}/{slot}")
        self._code.object = f"<pre>{render.escape(self.code)}</pre>"
        self._copied.value = self.code

    def show_error(self, text: str) -> None:
        """Show an error message."""
        self._error.object = render.alert(text)

    def set_export(self, table: Table) -> None:
        """Set the table that the export buttons write."""
        self._table = table

    def html(self, css_class: str) -> Any:
        """Make a pane for the HTML of `render`."""
        return pn.pane.HTML(
            "", sizing_mode="stretch_width", stylesheets=[render.CSS], css_classes=[css_class]
        )

    def text_input(self, label: str, value: str) -> Any:
        """Make a field for a text."""
        return pn.widgets.TextInput(
            label=label,
            value=value,
            max_length=MAX_CHARACTERS + 1,
            sizing_mode="stretch_width",
            css_classes=["input-text"],
            stylesheets=[MONOSPACE],
        )

    def example(self, number: int) -> str:
        """Return a short text of the corpus to start a view with; it depends only on the corpus."""
        good = {t for t in self.explorer.texts if len(t) >= 8}
        if self.explorer.python:
            good = {t for t in good if is_valid(t) and t[0].isalpha()}
        order = sorted(good, key=lambda t: (len(t), t)) or self.explorer.texts
        return order[(number * 97 + len(order) // 8) % len(order)]

    def _on_change(self, name: str) -> None:
        if not self._restoring:
            self.update(name)
            self.page.update_address()

    def _export_row(self) -> Any:
        """Make the buttons that copy the view's code or link, or export its answers."""
        self._code = self.html("code")
        self._copied = pn.widgets.TextAreaInput(visible=False, max_length=10 * MAX_CHARACTERS)
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
                callback=lambda kind=kind: self._file(kind),
                filename=f"{self.name}.{kind}",
                label=kind.upper(),
                button_type="default",
                css_classes=[f"get-{kind}"],
                margin=3,
            )
            for kind in ("csv", "png", "svg")
        ]
        return pn.Column(
            pn.FlexBox(code, link, *files, sizing_mode="stretch_width"),
            shown,
            self._copied,
            sizing_mode="stretch_width",
        )

    def _file(self, kind: str) -> Any:
        table = self._table or Table((), [])
        if kind == "csv":
            return io.BytesIO(as_csv(table).encode("utf-8"))
        return io.BytesIO(as_picture(table, kind, self.title))


def noise_slider(most: float) -> Any:
    """Return the slider of the sigma of the channel's noise."""
    return pn.widgets.FloatSlider(
        label="Noise of the channel (sigma)",
        start=0,
        end=most,
        step=0.01,
        value=0.0,
        sizing_mode="stretch_width",
        css_classes=["slider-noise"],
    )


def _set(widget: Any, text: str) -> bool:
    """Set a widget to the value of a link, and return whether the widget allows it."""
    try:
        value = _parse(text, type(widget.value))
    except (ValueError, KeyError, OverflowError):
        return False
    if not _allowed(widget, value):
        return False
    try:
        widget.value = value
    except ValueError:
        return False
    return True


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        return {"True": True, "False": False}[text]
    return kind(text) if kind in (int, float) else text


def _allowed(widget: Any, value: Any) -> bool:
    """Return True if a value is one of a widget's options and within its bounds."""
    if isinstance(value, float) and value != value:
        return False
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        return False
    options = getattr(widget, "options", None)
    if isinstance(options, dict):
        options = options.values()
    if options is not None and value not in options:
        return False
    start, end = getattr(widget, "start", None), getattr(widget, "end", None)
    return (start is None or value >= start) and (end is None or value <= end)
