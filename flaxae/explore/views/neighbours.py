"""The nearest texts."""

from typing import Any

import panel as pn

from flaxae.explore import answers, render
from flaxae.explore.export import Table
from flaxae.explore.views.base import View


class Neighbours(View):
    name, title = "neighbours", "Neighbours"
    lesson = (
        "Which real texts have the nearest codes? Alike in meaning, in letters, or only in length: "
        "that is what this code has learned."
    )

    def make_inputs(self) -> dict[str, Any]:
        return {
            "text": self.text_input("Text", self.example(0)),
            "k": pn.widgets.IntInput(label="How many", start=1, end=100, value=10, width=110),
            "metric": pn.widgets.Select(
                label="Distance", options={"cosine": "cosine", "Euclid's": "euclid"},
                value="cosine", width=160,
            ),
        }  # fmt: skip

    def make_body(self) -> list[Any]:
        self._answer = self.html("answer")
        text, k, metric = self.inputs.values()
        return [pn.Column(text, pn.FlexBox(k, metric), sizing_mode="stretch_width"), self._answer]

    def update(self, name: str) -> None:
        text, k, metric = (x.value for x in self.inputs.values())
        self.ask(lambda: self.explorer.neighbours(text, k or 0, metric), self._show)

    def call(self) -> str:
        text, k, metric = (x.value for x in self.inputs.values())
        return f"print(explorer.neighbours({text!r}, {k}, {metric!r}))"

    def _show(self, near: list[answers.Near]) -> None:
        rows = [[str(n.index), render.text_cell(n.text), render.number(n.distance)] for n in near]
        self._answer.object = render.table(["number", "text", "distance"], rows)
        self.keep(Table(("number", "text", "distance"), [tuple(n) for n in near]))
