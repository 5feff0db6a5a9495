"""A text's neighbourhood."""

from typing import Any

import panel as pn

from flaxae.explore import render
from flaxae.explore.backend import DIRECTIONS
from flaxae.explore.export import Table
from flaxae.explore.views.base import View

SLIDERS = 4  # of principal directions
RANGE = 3.0  # standard deviations to each side


class Around(View):
    name, title = "around", "Around a text"
    lesson = (
        "Move a text's code along the directions in which the corpus varies most, or change one of "
        "its numbers. A direction is only worth a name if it does the same to many texts."
    )

    def make_inputs(self) -> dict[str, Any]:
        count = min(DIRECTIONS, self.explorer.size)
        out: dict[str, Any] = {"text": self.text_input("Text", self.example(0))}
        for i in range(min(SLIDERS, count)):
            out[f"d{i}"] = self._slider(f"Direction {i} (standard deviations)", f"slider-d{i}")
        out["dim"] = pn.widgets.IntInput(
            label="Number of the code", start=0, end=self.explorer.size - 1, value=0, width=160
        )
        out["amount"] = self._slider("Change of that number (standard deviations)", "slider-amount")
        names = {f"direction {i}": i for i in range(count)}
        out["across"] = pn.widgets.Select(label="Grid across", options=names, value=0, width=150)
        out["down"] = pn.widgets.Select(
            label="Grid down", options=names, value=min(1, count - 1), width=150
        )
        return out

    def make_body(self) -> list[Any]:
        self._answer, self._grid = self.html("answer"), self.html("grid")
        widgets = self.inputs
        sliders = [w for name, w in widgets.items() if name[0] == "d" and name[1:].isdigit()]
        inputs = pn.Column(
            widgets["text"], *sliders, pn.FlexBox(widgets["dim"], widgets["amount"]),
            sizing_mode="stretch_width",
        )  # fmt: skip
        choose = pn.FlexBox(widgets["across"], widgets["down"], sizing_mode="stretch_width")
        return [inputs, self._answer, choose, self._grid]

    def update(self, name: str) -> None:
        args = self._args()
        explorer, text = self.explorer, self.inputs["text"].value
        across, down = self.inputs["across"].value, self.inputs["down"].value
        self.ask(lambda: explorer.around(text, *args), self._show, "here")
        if name in ("", "text", "across", "down"):
            self.ask(lambda: explorer.grid(text, across, down), self._show_grid, "grid")

    def call(self) -> str:
        text, across, down = (self.inputs[x].value for x in ("text", "across", "down"))
        directions, dims = self._args()
        return (
            f"print(explorer.around({text!r}, {directions}, {dims}))\n"
            f"print(explorer.grid({text!r}, {across}, {down}))"
        )

    def _args(self) -> tuple[dict[int, float], dict[int, float]]:
        """What was moved."""
        moved = {int(n[1:]): w.value for n, w in self.inputs.items() if n[1:].isdigit()}
        dim, amount = self.inputs["dim"].value, self.inputs["amount"].value
        return {i: x for i, x in moved.items() if x}, {dim or 0: amount} if amount else {}

    def _show(self, text: str) -> None:
        self._answer.object = render.big(text)

    def _show_grid(self, grid: list[list[str]]) -> None:
        rows = [[render.text_cell(text) for text in row] for row in grid]
        middle = len(grid) // 2
        rows[middle][middle] = f"<b>{rows[middle][middle]}</b>"
        heads = [f"{x:+.0f}" for x in range(-middle, middle + 1)]
        told = "Standard deviations along both directions; the text itself is in the middle."
        self._grid.object = render.table(heads, rows) + render.note(told)
        self.keep(Table(tuple(heads), [tuple(row) for row in grid]))

    @staticmethod
    def _slider(name: str, css: str) -> Any:
        return pn.widgets.FloatSlider(
            label=name, start=-RANGE, end=RANGE, step=0.1, value=0.0,
            sizing_mode="stretch_width", css_classes=[css],
        )  # fmt: skip
