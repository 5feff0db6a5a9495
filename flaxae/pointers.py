"""Files that stand in place of another one, whose content has not been downloaded."""

import os

from flaxae.errors import ConfigError

# beginning of the file -> (program that wrote it, command that replaces it by the content)
_KINDS = {
    b"version https://git-lfs.github.com/spec/": ("Git LFS", "git lfs pull"),
    b"version https://hawser.github.com/spec/": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get ."),
}
_PAGES = (b"<!doctype html", b"<html")  # in lower case
_LARGEST = 32768  # bytes of the largest pointer that git-annex writes; Git LFS: 1024


def pointer(path: str | os.PathLike) -> str:
    """Describe a file that is only a pointer; return "" for any other or missing file."""
    try:
        if os.path.getsize(path) > _LARGEST:
            return ""
        with open(path, "rb") as file:
            start = file.read(max(map(len, _KINDS)))
    except OSError:
        return ""
    for beginning, (program, command) in _KINDS.items():
        if start.startswith(beginning):
            return (
                f"a {program} pointer, not the file itself, which was not downloaded: run "
                f"`{command}` in its repository, or `hf download` for a repository of the Hub"
            )
    return ""


def require_content(path: str | os.PathLike) -> None:
    """Check that a file contains itself; files that are missing are left to the caller.

    Args:
        path: a file that is never an HTML page.

    Raises:
        ConfigError: if it is a pointer of Git LFS or git-annex, or an HTML page.
    """
    if text := pointer(path) or _page(path):
        raise ConfigError(f"{os.fspath(path)}: {text}")


def _page(path: str | os.PathLike) -> str:
    """Describe an HTML page; return "" for any other or missing file."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    if not start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        return ""
    return (
        "an HTML page, such as a login or the page about the file, not the file itself: download "
        "it again (on the Hub the address of a file contains /resolve/, not /blob/)"
    )
