"""The view of the corpus in two dimensions."""

from collections import Counter
from typing import Any

import numpy as np
import panel as pn

from flaxae.explore import answers, render
from flaxae.explore.export import Table
from flaxae.explore.views.base import View

MAX_SHOWN = 20  # selected texts in the table
MAX_HOVERED = 8  # texts in the tooltip of overlapping dots
CLICK_RADIUS = 0.015  # a click within this share of the map's width chooses the dot


class Map(View):
    """A scatter plot of the corpus; a dot or a place is decoded when it is chosen."""

    name, title = "map", "Map"
    hint = (
        "Every dot is a real text: hover to read it. Click a dot or an empty place to decode it, "
        "drag to select texts. The map has two of many dimensions: dots that touch on the map may "
        "have very different codes."
    )

    def make_inputs(self) -> dict[str, Any]:
        """Make the choices of layout and colour, the number and place fields and the search."""
        colours = ["length", "kind", "cluster"]
        if self.explorer.corpus.labels:
            colours.append("label")
        return {
            "method": pn.widgets.Select(
                label="Layout", options={"PCA": "pca", "UMAP": "umap"}, value="pca", width=130
            ),
            "colour": pn.widgets.Select(label="Colour", options=colours, value="kind", width=130),
            "point": pn.widgets.IntInput(
                label="Text number",
                start=-1,
                end=len(self.explorer.texts) - 1,
                value=-1,
                width=130,
            ),
            "x": pn.widgets.FloatInput(label="Place x", value=0.0, step=0.25, width=110),
            "y": pn.widgets.FloatInput(label="Place y", value=0.0, step=0.25, width=110),
            "find": pn.widgets.TextInput(label="Select texts with", value="", width=200),
        }

    def make_body(self) -> list[Any]:
        """Arrange the inputs, the plot, its legend, the answer and the selected texts."""
        self._points = self.explorer.pca()  # (n, 2)
        self._progress = pn.indicators.Progress(
            active=True, visible=False, sizing_mode="stretch_width", css_classes=["progress"]
        )
        self._answer, self._selected = self.html("answer"), self.html("selected")
        self._legend = self.html("legend")
        inputs = pn.Column(
            pn.FlexBox(*self.inputs.values()), self._progress, sizing_mode="stretch_width"
        )
        self._make_figure()
        plot = pn.pane.Bokeh(self._figure, sizing_mode="stretch_width", css_classes=["map"])
        return [inputs, plot, self._legend, self._answer, self._selected]

    def _make_figure(self) -> None:
        from bokeh.events import Tap
        from bokeh.models import ColumnDataSource, HoverTool
        from bokeh.plotting import figure

        texts = self.explorer.texts
        self._source = ColumnDataSource(
            {
                "x": self._points[:, 0],
                "y": self._points[:, 1],
                "text": texts,
                "color": ["#0072B2"] * len(texts),
                "marker": ["circle"] * len(texts),
            }
        )
        # Not Bokeh's WebGL: without a GPU it needs seconds per frame to drag 10,000 dots.
        self._figure = figure(
            height=480,
            sizing_mode="stretch_width",
            output_backend="canvas",
            tools="pan,wheel_zoom,box_zoom,box_select,lasso_select,reset,save",
            active_drag="box_select",
            min_width=280,
        )
        self._figure.scatter(
            "x",
            "y",
            source=self._source,
            color="color",
            marker="marker",
            size=5,
            alpha=0.7,
            line_color="color",
            nonselection_alpha=0.15,
        )
        # Bokeh escapes "@text"; it would not escape "@text{safe}".
        hover = HoverTool(tooltips="@text", attachment="vertical", limit=MAX_HOVERED)
        self._figure.add_tools(hover)
        self._figure.toolbar.logo = None
        if self.page.dark:
            _darken(self._figure)
        # Panel's widgets must be changed after Bokeh has handled its own event.
        next_tick = self.page.next_tick

        def on_tap(event: Any) -> None:
            next_tick(lambda: self._on_tap(event.x, event.y))

        self._figure.on_event(Tap, on_tap)
        self._source.selected.on_change(
            "indices", lambda attr, old, new: next_tick(lambda: self._show_selected(new))
        )

    def update(self, name: str) -> None:
        """Redraw what depends on the changed input, and decode the chosen dot or place."""
        if name in ("", "method"):
            self._lay_out()
        if name in ("", "colour"):
            self._colour()
        if name == "find" or (name == "" and self.inputs["find"].value):
            self._find()
        if name in ("x", "y") or (name == "" and self.inputs["point"].value == -1):
            self._decode_place()
        elif name in ("", "point"):
            self._decode_point()

    def call(self) -> str:
        """Return the Python call."""
        number = self.inputs["point"].value
        if number is not None and number >= 0:
            return f"print(explorer.point({number}))"
        return f"print(explorer.place({self.inputs['x'].value!r}, {self.inputs['y'].value!r}))"

    def _lay_out(self) -> None:
        if self.inputs["method"].value == "pca":
            self._progress.visible = False
            self._move_to(self.explorer.pca())
            return
        self._progress.visible = True
        future = self.page.state.background("umap", self.explorer.umap)
        self.page.when_done(future, self._show_umap, self._show_umap_error)

    def _show_umap(self, points: Any) -> None:
        self._progress.visible = False
        if self.inputs["method"].value == "umap":
            self._move_to(points)

    def _show_umap_error(self, text: str) -> None:
        self._progress.visible = False
        self.show_error(text)

    def _move_to(self, points: Any) -> None:
        self._points = points
        self._patch(x=points[:, 0], y=points[:, 1])
        self._update_export()

    def _patch(self, **columns: Any) -> None:
        changes = {name: [(slice(None), values)] for name, values in columns.items()}
        self.page.next_tick(lambda: self._source.patch(changes))

    def _colour(self) -> None:
        from bokeh.palettes import Cividis256

        groups = self.explorer.groups(self.inputs["colour"].value)
        if isinstance(groups, np.ndarray):
            low, high = float(groups.min()), float(np.quantile(groups, 0.98))
            share = np.clip((groups - low) / max(high - low, 1e-9), 0, 1)
            colors = [Cividis256[int(255 * s)] for s in share]
            markers = ["circle"] * len(colors)
            legend = f"Dark: {low:.0f} characters, bright: {high:.0f} or more."
            self._legend.object = render.note(legend)
        else:
            counts = Counter(groups)
            names = sorted(counts, key=lambda name: (-counts[name], name))
            palette = render.palette(self.page.dark)
            size = len(palette)
            place = {name: min(i, size - 1) for i, name in enumerate(names)}
            colors = [palette[place[g]] for g in groups]
            markers = [render.MARKERS[place[g]] for g in groups]
            self._legend.object = _legend(names, palette)
        self._patch(color=colors, marker=markers)
        self._update_export()

    def _update_export(self) -> None:
        groups = self.explorer.groups(self.inputs["colour"].value)
        rows = [
            (i, float(x), float(y), text)
            for i, ((x, y), text) in enumerate(zip(self._points, self.explorer.texts, strict=True))
        ]
        self.set_export(Table(("number", "x", "y", "text"), rows, (self._points, groups)))

    def _on_tap(self, x: float, y: float) -> None:
        """Choose the dot at a place, or the place itself if no dot is near."""
        here = np.asarray([x, y])
        width = np.ptp(self._points, axis=0).max()
        distance = np.linalg.norm(self._points - here[None], axis=1)
        number = int(distance.argmin())
        if distance[number] <= CLICK_RADIUS * width or self.inputs["method"].value == "umap":
            self.inputs["point"].value = number
            return
        self._restoring = True
        self.inputs["point"].value = -1
        self.inputs["x"].value, self.inputs["y"].value = (round(float(v), 3) for v in here)
        self._restoring = False
        self._on_change("x")

    def _decode_point(self) -> None:
        number = self.inputs["point"].value
        if number is None or number < 0:
            self._decode_place()
            return
        self.request(lambda: self.explorer.point(number), self._show)

    def _decode_place(self) -> None:
        if self.inputs["point"].value != -1:
            self._restoring = True
            self.inputs["point"].value = -1
            self._restoring = False
        x, y = (self.inputs[name].value or 0.0 for name in "xy")
        self.request(lambda: self.explorer.place(x, y), self._show)

    def _show(self, point: answers.Point) -> None:
        title = "" if point.text is None else "Text: " + render.text_cell(point.text)
        empty = render.note(
            "Decoded from this place of the PCA map; all other directions are at their mean:"
        )
        near = render.table(
            ["nearest real texts", "distance"],
            [[render.text_cell(n.text), render.number(n.distance)] for n in point.near],
        )
        self._answer.object = (title or empty) + render.big(point.decoded) + near

    def _find(self) -> None:
        wanted = self.inputs["find"].value
        rows = [i for i, text in enumerate(self.explorer.texts) if wanted and wanted in text]
        self.page.next_tick(lambda: setattr(self._source.selected, "indices", rows))

    def _show_selected(self, rows: list[int]) -> None:
        if not rows:
            self._selected.object = ""
            return
        shown = [[str(i), render.text_cell(self.explorer.texts[i])] for i in rows[:MAX_SHOWN]]
        more = f", the first {MAX_SHOWN} of them" if len(rows) > MAX_SHOWN else ""
        note = render.note(f"{len(rows)} texts selected{more}:")
        self._selected.object = note + render.table(["number", "text"], shown)


def _darken(figure: Any) -> None:
    figure.background_fill_color = figure.border_fill_color = "#121212"
    figure.grid.grid_line_color = "#3a3f44"
    for axis in figure.axis:
        axis.major_label_text_color = "#e0e0e0"
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = "#888888"


def _legend(names: list[str], palette: tuple[str, ...]) -> str:
    """Return the colour and the shape of each group; groups beyond the palette share its last."""
    size, signs = len(palette), "●■▲◆▼+×✱"
    shown = names[: size - 1]
    if len(names) >= size:
        rest = len(names) - size + 1
        shown = [*shown, names[-1] if rest == 1 else f"{rest} others"]
    out = [
        f'<span style="color:{color}" aria-hidden="true">{sign}</span> {render.escape(name)}'
        for name, color, sign in zip(shown, palette, signs, strict=False)
    ]
    return f'<div class="strip">{"".join(f"<span>{x}</span>" for x in out)}</div>'
