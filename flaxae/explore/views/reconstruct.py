"""Encoded and decoded."""

from typing import Any

import panel as pn

from flaxae.explore import answers, render
from flaxae.explore.export import Table
from flaxae.explore.views.base import View


class Reconstruct(View):
    name, title = "reconstruct", "Reconstruct"
    lesson = (
        "Your own text through the code and back, decoded freely. What the code has lost is struck "
        "out, what the decoder made up is underlined."
    )

    def make_inputs(self) -> dict[str, Any]:
        return {"text": self.text_input("Text", self.example(0))}

    def make_body(self) -> list[Any]:
        self._answer, self._rest = self.html("answer"), self.html("rest")
        inputs = pn.Column(*self.inputs.values(), sizing_mode="stretch_width")
        return [inputs, self._answer, self._rest]

    def update(self, name: str) -> None:
        text = self.inputs["text"].value
        self.ask(lambda: self.explorer.reconstruct(text), self._show)

    def call(self) -> str:
        return f"print(explorer.reconstruct({self.inputs['text'].value!r}))"

    def _show(self, answer: answers.Reconstruction) -> None:
        self._answer.object = render.big(answer.made)
        out = render.note("It came back exactly." if answer.exact else
                          f"{answer.edits} characters to mend:")  # fmt: skip
        if not answer.exact:
            out += render.pieces(answer.pieces)
        likely = (
            f"Log-likelihood of its code {answer.log_likelihood:.0f} nats (the corpus's middle "
            f"{answer.median:.0f}): more likely than {answer.percentile:.1%} of the corpus's codes."
        )
        out += render.note(likely)
        if answer.far:
            out += render.alert(
                "this text's code is far from those of the corpus: what you see says little about "
                "the model", "warning",
            )  # fmt: skip
        if answer.lost:
            out += render.alert(answer.lost, "warning")
        self._rest.object = out
        rows = [("equal" if p.same else "differs", p.old, p.new) for p in answer.pieces]
        self.keep(Table(("", "given", "came back"), rows))
