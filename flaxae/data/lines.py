"""Lines of UTF-8 text files."""

from flaxae.data import folders
from flaxae.errors import ConfigError

_BINARY = {b"PAR1": "a .parquet file", b"ARROW1": "an .arrow file"}


def read_lines(path: str) -> list[str]:
    """Read the non-blank lines of a UTF-8 text file, without their ends of line.

    Args:
        path: the file.

    Raises:
        ConfigError: if the file is missing, a directory, empty, binary or not UTF-8.
    """
    return [line for _, line in numbered_lines(path, f"data.path={path!r}")]


def numbered_lines(path: str, what: str) -> list[tuple[int, str]]:
    """Return (number from 1, line) of the lines that are not blank.

    Args:
        path: a UTF-8 text file.
        what: its name in messages.

    Raises:
        ConfigError: if the file cannot be read or is empty.
    """
    text = decoded(path, what)
    if "\n" not in text:
        text = text.replace("\r", "\n")  # ends of lines of old Macs
    # Not str.splitlines: it also cuts at form feeds and Unicode separators inside a line.
    lines = ((i, x.removesuffix("\r")) for i, x in enumerate(text.split("\n"), 1))
    out = [(i, line) for i, line in lines if line.strip()]
    if not out:
        raise ConfigError(f"{what} is empty: it needs one example per line")
    return out


def decoded(path: str, what: str) -> str:
    """Return the text of a UTF-8 file, without a byte-order mark.

    Args:
        path: the file.
        what: its name in messages.

    Raises:
        ConfigError: if the file is missing, a directory, compressed, binary or not UTF-8.
    """
    try:
        folders.check_content(path, what)
        with open(path, "rb") as file:
            raw = file.read()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{what} cannot be read: {reason}") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(
            f"{what} is not UTF-8 but UTF-16: convert it first, for example with"
            " iconv -f utf-16 -t utf-8"
        )
    if kind := next((k for start, k in _BINARY.items() if raw.startswith(start)), ""):
        raise ConfigError(
            f"{what} is not text but {kind}: give it that ending and read it with data.name=hf:FILE"
        )
    if b"\0" in raw:
        raise ConfigError(
            f"{what} is a binary file (it contains a zero byte at {raw.index(0)}): give UTF-8 text"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{what} is not UTF-8 (line {line}, byte {error.start}): convert it first, for example"
            " with iconv -t utf-8"
        ) from None
