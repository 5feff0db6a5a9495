"""The view of the path between two texts."""

from typing import Any

import panel as pn

from flaxae.explore import render
from flaxae.explore.answers import Interpolation
from flaxae.explore.export import Table
from flaxae.explore.views.base import View

LABELS = {
    "slerp": "slerp (spherical)",
    "lerp": "lerp (straight)",
    "prior": "through the learned flow's noise",
    "denoised": "denoised (decoded and encoded again)",
}


class Between(View):
    """The text at a position of the path between two texts, and eleven texts of the path."""

    name, title = "between", "Between two texts"
    hint = (
        "Type two texts and move the slider. If the code is smooth, the text changes step by step; "
        "if it has holes, the first text stays, then it jumps, or there is nonsense halfway."
    )

    def make_inputs(self) -> dict[str, Any]:
        """Make the fields of the two texts, the choice of the path and the slider."""
        return {
            "a": self.text_input("From", self.example(0)),
            "b": self.text_input("To", self.example(1)),
            "how": pn.widgets.Select(
                label="Path",
                options={LABELS[name]: name for name in self.explorer.paths},
                value=self.explorer.best_path[0],
                width=260,
            ),
            "at": pn.widgets.IntSlider(
                label="Position on the path (%)",
                start=0,
                end=100,
                value=50,
                sizing_mode="stretch_width",
                css_classes=["slider-at"],
            ),
        }

    def make_body(self) -> list[Any]:
        """Arrange the inputs, the text at the slider and the table of the path."""
        self._here, self._path = self.html("answer"), self.html("path")
        inputs = pn.Column(*self.inputs.values(), sizing_mode="stretch_width")
        return [inputs, self._here, self._path]

    def update(self, name: str) -> None:
        """Request the text at the slider, and the path if another input changed."""
        a, b, how, at = (self.inputs[x].value for x in ("a", "b", "how", "at"))
        explorer = self.explorer
        self.request(lambda: explorer.between_at(a, b, at, how), self._show_here, "here")
        if name != "at":
            self.request(lambda: explorer.between(a, b, how), self._show_path, "path")

    def call(self) -> str:
        """Return the Python calls."""
        a, b, how, at = (self.inputs[x].value for x in ("a", "b", "how", "at"))
        return (
            f"print(explorer.between_at({a!r}, {b!r}, {at}, {how!r}))\n"
            f"print(explorer.between({a!r}, {b!r}, {how!r}))"
        )

    def _choice(self) -> str:
        """Return a sentence that names the best path, and why it is."""
        best, evaluated = self.explorer.best_path
        if evaluated:
            return f"By this run's evaluation the best path is: {LABELS[best]}."
        return f"This run's evaluation compares no paths; the default is: {LABELS[best]}."

    def _show_here(self, text: str) -> None:
        self._here.object = render.big(text)

    def _show_path(self, path: Interpolation) -> None:
        last = len(path.texts) - 1
        rows, plain = [], []
        for i, text in enumerate(path.texts):
            marks = ["repeats"] if path.repeats[i] else []
            if path.parses is not None:
                marks.append("parses" if path.parses[i] else "does not parse")
            percent, mark = round(100 * i / last), ", ".join(marks)
            rows.append([f"{percent} %", render.text_cell(text), render.escape(mark)])
            plain.append((percent, text, mark))
        note = (
            f"Path ratio {path.path_ratio:.2f} (1: no detours), largest step "
            f"{path.largest_step:.2f} of all change (1: a single jump), {path.distinct:.0%} of the "
            "texts differ. A path that only copies its ends has path ratio 1 and largest step 1. "
            f"{self._choice()}"
        )
        self._path.object = render.table(["", "text", ""], rows) + render.note(note)
        self.set_export(Table(("percent", "text", "marks"), plain))
