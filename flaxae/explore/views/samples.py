"""Texts of random codes."""

from typing import Any

import panel as pn

from flaxae.explore import answers, render
from flaxae.explore.export import Table
from flaxae.explore.space import MOST_SAMPLES
from flaxae.explore.views.base import View

PRIORS = {"N(0, I)": "normal", "fitted Gaussian": "gaussian", "fitted mixture (GMM)": "gmm",
          "learned flow": "flow"}  # fmt: skip


class Samples(View):
    name, title = "samples", "Samples"
    lesson = (
        "Codes drawn at random. If they read as fragments, random codes land where no text is. Low "
        "temperature stays near the middle: more valid, and more alike."
    )

    def make_inputs(self) -> dict[str, Any]:
        return {
            "prior": pn.widgets.Select(label="Prior", options=PRIORS, value="normal", width=220),
            "n": pn.widgets.IntInput(label="Number", start=1, end=MOST_SAMPLES, value=16, width=99),
            "temperature": pn.widgets.FloatSlider(
                label="Temperature", start=0, end=2, step=0.05, value=1.0,
                sizing_mode="stretch_width", css_classes=["slider-temperature"],
            ),
            "seed": pn.widgets.IntInput(label="Seed", start=0, end=2**31 - 1, value=0, width=130),
        }  # fmt: skip

    def make_body(self) -> list[Any]:
        self._progress = pn.indicators.Progress(
            active=True, visible=False, sizing_mode="stretch_width", css_classes=["progress"]
        )
        self._answer = self.html("answer")
        prior, n, temperature, seed = self.inputs.values()
        inputs = pn.Column(
            pn.FlexBox(prior, n, seed), temperature, self._progress, sizing_mode="stretch_width"
        )
        return [inputs, self._answer]

    def update(self, name: str) -> None:
        prior = self.inputs["prior"].value
        if prior in ("normal", "gaussian"):  # there at once
            self._draw(None)
            return
        self._progress.visible = True
        future = self.page.hub.background(f"prior {prior}", lambda: self.explorer.prepare(prior))
        self.page.when_done(future, self._draw, self._no_prior)

    def _no_prior(self, text: str) -> None:
        self._progress.visible = False
        self.fail(text)

    def _draw(self, _: Any) -> None:
        self._progress.visible = False
        prior, n, temperature, seed = (x.value for x in self.inputs.values())
        values = prior, n or 0, temperature, seed or 0
        self.ask(lambda: self.explorer.samples(*values), self._show)

    def call(self) -> str:
        prior, n, temperature, seed = (x.value for x in self.inputs.values())
        return f"print(explorer.samples({prior!r}, {n}, {temperature!r}, {seed}))"

    def _show(self, answer: answers.Samples) -> None:
        parses = answer.parses or [None] * len(answer.texts)
        words = {True: "parses", False: "does not parse", None: ""}
        valid = f"{answer.valid:.0%} parse as Python, " if answer.valid is not None else ""
        told = (
            f"{valid}{answer.distinct:.0%} are different, {answer.known:.0%} stand in the corpus."
        )
        rows = [[render.text_cell(text), words[ok]]
                for text, ok in zip(answer.texts, parses, strict=True)]  # fmt: skip
        self._answer.object = render.note(told) + render.table(["text", ""], rows)
        plain = [(t, words[ok]) for t, ok in zip(answer.texts, parses, strict=True)]
        self.keep(Table(("text", "validity"), plain))
