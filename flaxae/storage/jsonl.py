"""A file of lines that grows, in a local folder or a bucket."""

import io
import pathlib
import sys
import time

from flaxae.storage.paths import is_remote, read_text, why, write_text

SECONDS = 30.0  # at least, between uploads of a log that nothing has asked for
SHARE = 20  # and so many times longer than an upload takes


class Lines:
    """A file of lines that grows, and is cut back on resume.

    Local: each line is on disk when `append` returns. In a bucket an object cannot grow: the lines
    are kept in memory too, and all are written anew by `flush`, or now and then by `append`.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._text: list[str] | None = None  # what is to be in the object; None: not read yet
        self._changed, self._next = False, 0.0

    def append(self, line: str) -> None:
        """Adds a line, its newline included. Raises OSError."""
        if not is_remote(self.path):
            # One write a line: a run that is killed leaves whole lines behind.
            with self.path.open("a", encoding="utf-8") as f:
                f.write(line)
            return
        self._text = [*self.read()] if self._text is None else self._text
        self._text.append(line)
        self._changed = True
        if time.monotonic() >= self._next:
            try:
                self.flush()
            except Exception as e:  # `flush` itself will say so, before the next save
                print(f"warning: cannot write {self.path} now: {why(e)}", file=sys.stderr)

    def read(self) -> list[str]:
        """The lines with their newlines; the last one may lack it where a run was killed."""
        if self._text is not None:
            return self._text
        # Not splitlines: what a model writes may have other ends of line inside.
        return list(io.StringIO(read_text(self.path))) if self.path.exists() else []

    def replace(self, lines: list[str]) -> None:
        """Writes other lines in their place."""
        write_text(self.path, "".join(lines))
        if is_remote(self.path):
            self._text, self._changed = lines, False

    def flush(self) -> None:
        """Returns when all lines are where others can read them. Raises what the writing raised."""
        if not self._changed or self._text is None:
            return
        began = time.monotonic()
        try:
            write_text(self.path, "".join(self._text))
            self._changed = False
        finally:
            now = time.monotonic()
            self._next = now + max(SECONDS, SHARE * (now - began))
