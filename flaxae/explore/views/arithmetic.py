"""The view of a - b + c."""

from typing import Any

import panel as pn

from flaxae.explore import answers, render
from flaxae.explore.export import Table
from flaxae.explore.views.base import View


class Arithmetic(View):
    """The text of the code a - b + c, with its neighbours and a, b and c themselves."""

    name, title = "arithmetic", "Arithmetic"
    hint = (
        "What is to c as a is to b? The code a − b + c is decoded. Compare the answer with the "
        "copies below it: an answer that equals c, or one of the others, says nothing about the "
        "relation."
    )

    def make_inputs(self) -> dict[str, Any]:
        """Make the fields of the three texts."""
        first, second, third = (self.example(i) for i in range(3))
        return {
            "a": self.text_input("a", first),
            "b": self.text_input("− b", second),
            "c": self.text_input("+ c", third),
        }

    def make_body(self) -> list[Any]:
        """Arrange the inputs, the answer and the tables."""
        self._answer, self._rest = self.html("answer"), self.html("rest")
        inputs = pn.Column(*self.inputs.values(), sizing_mode="stretch_width")
        return [inputs, self._answer, self._rest]

    def update(self, name: str) -> None:
        """Request the answer."""
        a, b, c = (self.inputs[x].value for x in "abc")
        self.request(lambda: self.explorer.arithmetic(a, b, c), self._show)

    def call(self) -> str:
        """Return the Python call."""
        a, b, c = (self.inputs[x].value for x in "abc")
        return f"print(explorer.arithmetic({a!r}, {b!r}, {c!r}))"

    def _show(self, answer: answers.Arithmetic) -> None:
        self._answer.object = render.big(answer.text)
        copies = render.table(
            ["copy of", "text", "edits from the answer", "cosine with its code"],
            [
                [c.name, render.text_cell(c.text), str(c.edits), render.number(c.cosine)]
                for c in answer.copies
            ],
        )
        near = render.table(
            ["nearest real texts", "distance"],
            [[render.text_cell(n.text), render.number(n.distance)] for n in answer.near],
        )
        copied = [c.name for c in answer.copies if c.edits == 0]
        warning = f"The answer is a copy of {copied[0]}." if copied else ""
        self._rest.object = (render.alert(warning, "warning") if warning else "") + near + copies
        rows = [("answer", answer.text, 0.0)]
        rows += [(f"copy of {c.name}", c.text, c.cosine) for c in answer.copies]
        rows += [("nearest", n.text, n.distance) for n in answer.near]
        self.set_export(Table(("role", "text", "cosine or distance"), rows))
