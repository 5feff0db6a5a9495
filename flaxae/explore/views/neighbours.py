"""The view of the nearest texts."""

from typing import Any

import panel as pn

from flaxae.explore import answers, render
from flaxae.explore.export import Table
from flaxae.explore.views.base import View


class Neighbours(View):
    """The texts of the corpus whose codes are nearest to a text's."""

    name, title = "neighbours", "Neighbours"
    hint = (
        "Which real texts have the nearest codes? Are they alike in meaning, in their letters, or "
        "only in length? This shows what the code has learned."
    )

    def make_inputs(self) -> dict[str, Any]:
        """Make the text field, the number of neighbours and the choice of the distance."""
        return {
            "text": self.text_input("Text", self.example(0)),
            "k": pn.widgets.IntInput(label="Number", start=1, end=100, value=10, width=110),
            "metric": pn.widgets.Select(
                label="Distance",
                options={"cosine": "cosine", "Euclidean": "euclid"},
                value="cosine",
                width=160,
            ),
        }

    def make_body(self) -> list[Any]:
        """Arrange the inputs and the table."""
        self._answer = self.html("answer")
        text, k, metric = self.inputs.values()
        return [pn.Column(text, pn.FlexBox(k, metric), sizing_mode="stretch_width"), self._answer]

    def update(self, name: str) -> None:
        """Request the neighbours."""
        text, k, metric = (x.value for x in self.inputs.values())
        self.request(lambda: self.explorer.neighbours(text, k or 0, metric), self._show)

    def call(self) -> str:
        """Return the Python call."""
        text, k, metric = (x.value for x in self.inputs.values())
        return f"print(explorer.neighbours({text!r}, {k}, {metric!r}))"

    def _show(self, near: list[answers.Neighbour]) -> None:
        rows = [[str(n.index), render.text_cell(n.text), render.number(n.distance)] for n in near]
        self._answer.object = render.table(["number", "text", "distance"], rows)
        self.set_export(Table(("number", "text", "distance"), [tuple(n) for n in near]))
