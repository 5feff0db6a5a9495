"""Texts of tokens, which together are the text that was read."""

from collections.abc import Iterable

from flaxae.sparse_autoencoder.dashboard.inputs import DashboardInput

REPLACEMENT = "\ufffd"  # what decoders write for a part of a character


class Vocabulary:
    """Texts of the tokens that the page shows, numbered in order of first use."""

    def __init__(self, inputs: DashboardInput):
        self._tokenizer, self._decode = inputs.tokenizer, inputs.decode
        self._index: dict[str, int] = {}
        self._alone: dict[int, str] = {}
        self.texts: list[str] = []
        # A token's text is what it adds to another one: some decoders strip the first space.
        ids = inputs.tokenizer.encode(["a"])[0]
        self._anchor = next(([i] for i in ids if self._decode([i])), [])
        self._start = len(self._decode(self._anchor))

    def __call__(self, token: int) -> int:
        """Return the page's number of a token's text."""
        return self._number(self._text(int(token)))

    def row(self, tokens: Iterable[int]) -> list[int]:
        """Return the page's numbers of the texts of a row's tokens, which together are its text.

        A character that is split over several tokens is in the text of the last of them.
        """
        parts: list[str] = []
        group: list[int] = []  # tokens since the last whole character
        text = done = ""
        for token in map(int, tokens):
            alone = self._text(token)
            if REPLACEMENT not in alone:
                if group:  # the bytes before are not a character
                    parts[-1] += text[len(done) :]
                parts.append(alone)
                group, text, done = [], "", ""
                continue
            group.append(token)
            text = self._decode([*self._anchor, *group])[self._start :]
            whole = text.rstrip(REPLACEMENT)
            parts.append(whole[len(done) :])
            done = whole
            if whole == text:
                group, text, done = [], "", ""
        if group:
            parts[-1] += text[len(done) :]
        return [self._number(part) for part in parts]

    def _text(self, token: int) -> str:
        """Return the text of a token on its own."""
        if token not in self._alone:
            text = self._decode([*self._anchor, token])[self._start :]
            if not text and hasattr(self._tokenizer, "token"):  # special tokens are not decoded
                text = self._tokenizer.token(token) or ""
            self._alone[token] = text
        return self._alone[token]

    def _number(self, text: str) -> int:
        if text not in self._index:
            self._index[text] = len(self.texts)
            self.texts.append(text)
        return self._index[text]
