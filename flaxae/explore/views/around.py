"""The view of the neighbourhood of a text."""

from typing import Any

import panel as pn

from flaxae.explore import render
from flaxae.explore.backend import DIRECTIONS
from flaxae.explore.export import Table
from flaxae.explore.views.base import View, noise_slider

SLIDERS = 4  # principal directions with a slider
RANGE = 3.0  # standard deviations to each side


class Around(View):
    """A text whose code is moved by sliders, and a grid of texts around it."""

    name, title = "around", "Around a text"
    hint = (
        "Move a text's code along the directions in which the corpus varies most, or change one of "
        "its numbers. Give a direction a name only if it has the same effect on many texts."
    )

    def make_inputs(self) -> dict[str, Any]:
        """Make the text field, the sliders and the choices of the grid."""
        count = min(DIRECTIONS, self.explorer.size)
        out: dict[str, Any] = {"text": self.text_input("Text", self.example(0))}
        for i in range(min(SLIDERS, count)):
            out[f"d{i}"] = _slider(f"Direction {i} (standard deviations)", f"slider-d{i}")
        out["dim"] = pn.widgets.IntInput(
            label="Index into the code", start=0, end=self.explorer.size - 1, value=0, width=160
        )
        out["amount"] = _slider("Change of this number (standard deviations)", "slider-amount")
        if self.explorer.max_noise:
            out["noise"] = noise_slider(self.explorer.max_noise)
        names = {f"direction {i}": i for i in range(count)}
        out["across"] = pn.widgets.Select(label="Grid across", options=names, value=0, width=150)
        out["down"] = pn.widgets.Select(
            label="Grid down", options=names, value=min(1, count - 1), width=150
        )
        return out

    def make_body(self) -> list[Any]:
        """Arrange the inputs, the answer and the grid."""
        self._answer, self._grid = self.html("answer"), self.html("grid")
        widgets = self.inputs
        sliders = [w for name, w in widgets.items() if name[0] == "d" and name[1:].isdigit()]
        inputs = pn.Column(
            widgets["text"],
            *sliders,
            pn.FlexBox(widgets["dim"], widgets["amount"]),
            *[widgets[name] for name in ("noise",) if name in widgets],
            sizing_mode="stretch_width",
        )
        choices = pn.FlexBox(widgets["across"], widgets["down"], sizing_mode="stretch_width")
        return [inputs, self._answer, choices, self._grid]

    def update(self, name: str) -> None:
        """Request the moved text, and the grid if it depends on the changed input."""
        moves = self._moves()
        explorer, text = self.explorer, self.inputs["text"].value
        across, down = self.inputs["across"].value, self.inputs["down"].value
        noise = self._noise()
        self.request(lambda: explorer.around(text, *moves, noise), self._show, "here")
        if name in ("", "text", "across", "down"):
            self.request(lambda: explorer.grid(text, across, down), self._show_grid, "grid")

    def call(self) -> str:
        """Return the Python calls."""
        text, across, down = (self.inputs[x].value for x in ("text", "across", "down"))
        directions, dims = self._moves()
        noise = f", noise={self._noise()}" if self._noise() else ""
        return (
            f"print(explorer.around({text!r}, {directions}, {dims}{noise}))\n"
            f"print(explorer.grid({text!r}, {across}, {down}))"
        )

    def _moves(self) -> tuple[dict[int, float], dict[int, float]]:
        """Return the moves along directions, and the changes of single numbers."""
        directions = {int(n[1:]): w.value for n, w in self.inputs.items() if n[1:].isdigit()}
        dim, amount = self.inputs["dim"].value, self.inputs["amount"].value
        return {i: x for i, x in directions.items() if x}, {dim or 0: amount} if amount else {}

    def _noise(self) -> float:
        return self.inputs["noise"].value if "noise" in self.inputs else 0.0

    def _show(self, text: str) -> None:
        self._answer.object = render.big(text)

    def _show_grid(self, grid: list[list[str]]) -> None:
        rows = [[render.text_cell(text) for text in row] for row in grid]
        middle = len(grid) // 2
        rows[middle][middle] = f"<b>{rows[middle][middle]}</b>"
        headers = [f"{x:+.0f}" for x in range(-middle, middle + 1)]
        note = "Standard deviations along both directions; the text itself is in the middle."
        self._grid.object = render.table(headers, rows) + render.note(note)
        self.set_export(Table(tuple(headers), [tuple(row) for row in grid]))


def _slider(label: str, css_class: str) -> Any:
    return pn.widgets.FloatSlider(
        label=label,
        start=-RANGE,
        end=RANGE,
        step=0.1,
        value=0.0,
        sizing_mode="stretch_width",
        css_classes=[css_class],
    )
