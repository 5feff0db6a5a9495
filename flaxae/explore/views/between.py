"""Between two texts."""

from typing import Any

import panel as pn

from flaxae.explore import render
from flaxae.explore.answers import Way
from flaxae.explore.export import Table
from flaxae.explore.views.base import View


class Between(View):
    name, title = "between", "Between two texts"
    lesson = (
        "Type two texts and move the slider. A smooth code changes step by step; one with holes "
        "keeps the first text, then jumps, or makes nonsense half-way."
    )

    def make_inputs(self) -> dict[str, Any]:
        return {
            "a": self.text_input("From", self.example(0)),
            "b": self.text_input("To", self.example(1)),
            "how": pn.widgets.Select(
                label="Way", options={"slerp (spherical)": "slerp", "lerp (straight)": "lerp"},
                value="slerp", width=220,
            ),
            "at": pn.widgets.IntSlider(
                label="Per cent of the way", start=0, end=100, value=50,
                sizing_mode="stretch_width", css_classes=["slider-at"],
            ),
        }  # fmt: skip

    def make_body(self) -> list[Any]:
        self._here, self._way = self.html("answer"), self.html("way")
        return [
            pn.Column(*self.inputs.values(), sizing_mode="stretch_width"),
            self._here,
            self._way,
        ]

    def update(self, name: str) -> None:
        a, b, how, at = (self.inputs[x].value for x in ("a", "b", "how", "at"))
        explorer = self.explorer
        self.ask(lambda: explorer.between_at(a, b, at, how), self._show_here, "here")
        if name != "at":
            self.ask(lambda: explorer.between(a, b, how), self._show_way, "way")

    def call(self) -> str:
        a, b, how, at = (self.inputs[x].value for x in ("a", "b", "how", "at"))
        return (
            f"print(explorer.between_at({a!r}, {b!r}, {at}, {how!r}))\n"
            f"print(explorer.between({a!r}, {b!r}, {how!r}))"
        )

    def _show_here(self, text: str) -> None:
        self._here.object = render.big(text)

    def _show_way(self, way: Way) -> None:
        last = len(way.texts) - 1
        rows, plain = [], []
        for i, text in enumerate(way.texts):
            marks = ["repeats"] if way.repeats[i] else []
            if way.parses is not None:
                marks.append("parses" if way.parses[i] else "does not parse")
            rows.append([f"{round(100 * i / last)} %", render.text_cell(text),
                         render.escape(", ".join(marks))])  # fmt: skip
            plain.append((round(100 * i / last), text, ", ".join(marks)))
        told = (
            f"Path ratio {way.path_ratio:.2f} (1: no detours), largest step {way.largest_step:.2f} "
            f"of all change (1: one jump), {way.distinct:.0%} of the texts differ. A way that only "
            "copies its ends has path ratio 1 and largest step 1."
        )
        self._way.object = render.table(["", "text", ""], rows) + render.note(told)
        self.keep(Table(("percent", "text", "marks"), plain))
