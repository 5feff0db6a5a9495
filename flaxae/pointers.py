"""Pointer files: a few bytes in place of a file whose content has not been downloaded."""

import os

from flaxae.errors import ConfigError

# beginning of the file -> (program that wrote it, command that replaces it by the content)
_KINDS = {
    b"version https://git-lfs.github.com/spec/": ("Git LFS", "git lfs pull"),
    b"version https://hawser.github.com/spec/": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get ."),
}
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
    """Check that a file is not a pointer; files that are missing are left to the caller.

    Raises:
        ConfigError: if it is a pointer of Git LFS or git-annex.
    """
    if text := pointer(path):
        raise ConfigError(f"{os.fspath(path)}: {text}")
