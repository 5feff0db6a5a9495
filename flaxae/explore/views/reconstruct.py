"""The view of a text and its reconstruction."""

from typing import Any

import panel as pn

from flaxae.explore import answers, render
from flaxae.explore.export import Table
from flaxae.explore.views.base import View


class Reconstruct(View):
    """A text decoded from its own code, and the likelihood of the code."""

    name, title = "reconstruct", "Reconstruct"
    hint = (
        "Your own text, encoded and decoded again. What the code has lost is struck out, what the "
        "decoder has made up is underlined."
    )

    def make_inputs(self) -> dict[str, Any]:
        """Make the text field."""
        return {"text": self.text_input("Text", self.example(0))}

    def make_body(self) -> list[Any]:
        """Arrange the input, the answer and the notes."""
        self._answer, self._rest = self.html("answer"), self.html("rest")
        inputs = pn.Column(*self.inputs.values(), sizing_mode="stretch_width")
        return [inputs, self._answer, self._rest]

    def update(self, name: str) -> None:
        """Request the reconstruction."""
        text = self.inputs["text"].value
        self.request(lambda: self.explorer.reconstruct(text), self._show)

    def call(self) -> str:
        """Return the Python call."""
        return f"print(explorer.reconstruct({self.inputs['text'].value!r}))"

    def _show(self, answer: answers.Reconstruction) -> None:
        self._answer.object = render.big(answer.decoded)
        if answer.exact:
            out = render.note("The reconstruction is exact.")
        else:
            out = render.note(f"Edit distance: {answer.edits} characters.")
            out += render.diff(answer.diff)
        out += render.note(
            f"Log-likelihood of its code: {answer.log_likelihood:.0f} nats (median of the corpus: "
            f"{answer.median:.0f}), higher than that of {answer.percentile:.1%} of the corpus."
        )
        if answer.far:
            message = (
                "the code of this text is far from the codes of the corpus, so that its "
                "reconstruction says little about the model"
            )
            out += render.alert(message, "warning")
        if answer.lost:
            out += render.alert(answer.lost, "warning")
        self._rest.object = out
        rows = [("equal" if p.same else "differs", p.old, p.new) for p in answer.diff]
        self.set_export(Table(("", "given", "decoded"), rows))
