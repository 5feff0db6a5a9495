"""The view of texts decoded from random codes."""

from typing import Any

import panel as pn

from flaxae.explore import answers, render
from flaxae.explore.export import Table
from flaxae.explore.space import MAX_SAMPLES
from flaxae.explore.views.base import View

PRIORS = {
    "N(0, I)": "normal",
    "fitted Gaussian": "gaussian",
    "fitted mixture (GMM)": "gmm",
    "learned flow": "flow",
}
FAST_PRIORS = ("normal", "gaussian")
VALIDITY = {True: "parses", False: "does not parse", None: ""}


class Samples(View):
    """Texts decoded from codes that were drawn from a prior."""

    name, title = "samples", "Samples"
    hint = (
        "Texts decoded from random codes. If they are fragments, random codes are unlike the codes "
        "of texts. At low temperature codes stay near the mean: more texts are valid, and they are "
        "more alike."
    )

    def make_inputs(self) -> dict[str, Any]:
        """Make the choice of the prior, the number of texts, the temperature and the seed."""
        return {
            "prior": pn.widgets.Select(label="Prior", options=PRIORS, value="normal", width=220),
            "n": pn.widgets.IntInput(label="Number", start=1, end=MAX_SAMPLES, value=16, width=99),
            "temperature": pn.widgets.FloatSlider(
                label="Temperature",
                start=0,
                end=2,
                step=0.05,
                value=1.0,
                sizing_mode="stretch_width",
                css_classes=["slider-temperature"],
            ),
            "seed": pn.widgets.IntInput(label="Seed", start=0, end=2**31 - 1, value=0, width=130),
        }

    def make_body(self) -> list[Any]:
        """Arrange the inputs, the progress bar and the table."""
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
        """Request samples, after the prior has been fitted if that is slow."""
        prior = self.inputs["prior"].value
        if prior in FAST_PRIORS:
            self._draw(None)
            return
        self._progress.visible = True
        future = self.page.state.background(f"prior {prior}", lambda: self.explorer.prepare(prior))
        self.page.when_done(future, self._draw, self._show_prior_error)

    def _show_prior_error(self, text: str) -> None:
        self._progress.visible = False
        self.show_error(text)

    def _draw(self, _: Any) -> None:
        self._progress.visible = False
        prior, n, temperature, seed = (x.value for x in self.inputs.values())
        values = prior, n or 0, temperature, seed or 0
        self.request(lambda: self.explorer.samples(*values), self._show)

    def call(self) -> str:
        """Return the Python call."""
        prior, n, temperature, seed = (x.value for x in self.inputs.values())
        return f"print(explorer.samples({prior!r}, {n}, {temperature!r}, {seed}))"

    def _show(self, answer: answers.Samples) -> None:
        valid = f"{answer.valid:.0%} parse as Python, " if answer.valid is not None else ""
        note = f"{valid}{answer.distinct:.0%} are different, {answer.known:.0%} are in the corpus."
        parses = answer.parses or [None] * len(answer.texts)
        rows = [(text, VALIDITY[ok]) for text, ok in zip(answer.texts, parses, strict=True)]
        cells = [[render.text_cell(text), validity] for text, validity in rows]
        self._answer.object = render.note(note) + render.table(["text", ""], cells)
        self.set_export(Table(("text", "validity"), rows))
