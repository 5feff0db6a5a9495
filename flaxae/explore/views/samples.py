"""The view of texts decoded from random codes."""

from typing import Any

import panel as pn

from flaxae.explore import answers, render
from flaxae.explore.export import Table
from flaxae.explore.space import MAX_SAMPLES
from flaxae.explore.views.base import View, noise_slider

PRIORS = {
    "N(0, I)": "normal",
    "fitted Gaussian": "gaussian",
    "fitted mixture (GMM)": "gmm",
    "learned flow": "flow",
    "learned autoregressive prior": "autoregressive",
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
                label="Temperature of the codes",
                start=0,
                end=2,
                step=0.05,
                value=1.0,
                sizing_mode="stretch_width",
                css_classes=["slider-temperature"],
            ),
            "seed": pn.widgets.IntInput(label="Seed", start=0, end=2**31 - 1, value=0, width=130),
            **self._decoding_inputs(),
        }

    def _decoding_inputs(self) -> dict[str, Any]:
        """Make the sliders of decoding, if the model has these options."""
        if not self.explorer.max_noise:
            return {}
        return {
            "words": pn.widgets.FloatSlider(
                label="Temperature of the words (0: the most likely)",
                start=0,
                end=2,
                step=0.05,
                value=0.0,
                sizing_mode="stretch_width",
                css_classes=["slider-words"],
            ),
            "noise": noise_slider(self.explorer.max_noise),
        }

    def make_body(self) -> list[Any]:
        """Arrange the inputs, the progress bar and the table."""
        self._progress = pn.indicators.Progress(
            active=True, visible=False, sizing_mode="stretch_width", css_classes=["progress"]
        )
        self._answer = self.html("answer")
        prior, n, temperature, seed, *decoding = self.inputs.values()
        sliders = (temperature, *decoding)
        inputs = pn.Column(
            pn.FlexBox(prior, n, seed), *sliders, self._progress, sizing_mode="stretch_width"
        )
        return [inputs, self._answer]

    def update(self, name: str) -> None:
        """Request samples, after the prior has been fitted if that is slow."""
        prior, words = self.inputs["prior"].value, self._decoding()[0]
        if prior in FAST_PRIORS and not words:
            self._draw(None)
            return
        self._progress.visible = True
        name = f"prior {prior}{' with words' if words else ''}"
        future = self.page.state.background(
            name, lambda: self.explorer.prepare(prior, float(words > 0))
        )
        self.page.when_done(future, self._draw, self._show_prior_error)

    def _show_prior_error(self, text: str) -> None:
        self._progress.visible = False
        self.show_error(text)

    def _draw(self, _: Any) -> None:
        self._progress.visible = False
        prior, n, temperature, seed = self._values()
        values = prior, n or 0, temperature, seed or 0, *self._decoding()
        self.request(lambda: self.explorer.samples(*values), self._show)

    def call(self) -> str:
        """Return the Python call."""
        prior, n, temperature, seed = self._values()
        words, noise = self._decoding()
        options = f", decode_temperature={words}" if words else ""
        options += f", noise={noise}" if noise else ""
        return f"print(explorer.samples({prior!r}, {n}, {temperature!r}, {seed}{options}))"

    def _values(self) -> list[Any]:
        return [self.inputs[name].value for name in ("prior", "n", "temperature", "seed")]

    def _decoding(self) -> tuple[float, ...]:
        """Return the temperature of the words and the noise; 0 without their sliders."""
        words, noise = (self.inputs.get(name) for name in ("words", "noise"))
        return tuple(0.0 if x is None else x.value for x in (words, noise))

    def _show(self, answer: answers.Samples) -> None:
        valid = f"{answer.valid:.0%} parse as Python, " if answer.valid is not None else ""
        note = f"{valid}{answer.distinct:.0%} are different, {answer.known:.0%} are in the corpus."
        parses = answer.parses or [None] * len(answer.texts)
        rows = [(text, VALIDITY[ok]) for text, ok in zip(answer.texts, parses, strict=True)]
        cells = [[render.text_cell(text), validity] for text, validity in rows]
        self._answer.object = render.note(note) + render.table(["text", ""], cells)
        self.set_export(Table(("text", "validity"), rows))
