"""A file of lines that grows, in a local folder or a bucket."""

import io
import pathlib
import sys
import time

from flaxae.storage.paths import is_remote, read_text, reason, write_text

# The least time between two uploads without a call of `flush`: SECONDS, or UPLOADS times the
# duration of the last upload if that is longer.
SECONDS = 30.0
UPLOADS = 20


class LineFile:
    """A file of lines that grows, and is cut back on resume.

    Local: each line is on disk when `append` returns. In a bucket an object cannot grow: the lines
    are kept in memory too, and `flush`, or from time to time `append`, writes all of them again.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._text: list[str] | None = None  # what the object should contain; None: not read yet
        self._changed, self._next = False, 0.0

    def append(self, line: str) -> None:
        """Add a line, its newline included. Raises OSError."""
        if not is_remote(self.path):
            # One write per line: a run that is killed leaves whole lines behind.
            with self.path.open("a", encoding="utf-8") as f:
                f.write(line)
            return
        self._text = [*self.read()] if self._text is None else self._text
        self._text.append(line)
        self._changed = True
        if time.monotonic() >= self._next:
            try:
                self.flush()
            except Exception as e:  # the `flush` before the next save raises it
                print(f"warning: cannot write {self.path} now: {reason(e)}", file=sys.stderr)

    def read(self) -> list[str]:
        """Return the lines with their newlines; a killed run may have left half a last line."""
        if self._text is not None:
            return self._text
        # Not splitlines: a model's texts may contain other line ends.
        return list(io.StringIO(read_text(self.path))) if self.path.exists() else []

    def replace(self, lines: list[str]) -> None:
        """Write other lines in place of the present ones."""
        write_text(self.path, "".join(lines))
        if is_remote(self.path):
            self._text, self._changed = lines, False

    def abandon(self) -> None:
        """Forget the lines that have not been written."""
        self._text, self._changed = None, False

    def flush(self) -> None:
        """Write all lines, so that other processes can read them. Raises what writing raises."""
        if not self._changed or self._text is None:
            return
        began = time.monotonic()
        try:
            write_text(self.path, "".join(self._text))
            self._changed = False
        finally:
            now = time.monotonic()
            self._next = now + max(SECONDS, UPLOADS * (now - began))
