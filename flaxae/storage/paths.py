"""Paths of a run's folder: a local one, or gs://BUCKET/FOLDER of Google Cloud Storage.

A bucket has no folders, only objects, each of which is written completely or not at all. This
module renames and copies folders there, and makes local ones for libraries that need them.
Local paths are plain `pathlib.Path`; those of a bucket are `epath.Path`, which has the methods that
this package uses.
"""

import contextlib
import importlib
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, cast

from etils import epath

from flaxae.errors import ConfigError

COMMITTED = "commit_success.txt"  # what Orbax writes last into a checkpoint in a bucket
# The content of a run's folder other than the files that its task saved.
NO_ASSETS = (
    "best",
    "config.json",
    "lanes",
    "latest",
    "lease.json",
    "metrics.jsonl",
    "profile",
    "report",
    "samples.jsonl",
    "tensorboard",
    "versions.json",
)
INSTALL = "in flaxae's repository, run pip install -c constraints.txt -e '.[gcs]'"
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
# Parts of a path that Orbax, TensorStore, etils or gcsfs read as a pattern, an escape, a URL or a
# root of their own: a checkpoint there goes elsewhere, or cannot be read.
PATTERNS = re.compile(r"[][*?\\]|gs:(?=/|$)")
IN_BUCKET = re.compile(r"[][*?\\#\x00-\x1f\x7f]|::|//|gs:(?=/|$)|(?<=/)\.\.?(?=/|$)")
ROOTS = ("gs", "s3", "az", "hf")  # of etils: it takes /gs/x for gs://x


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """Return the path of a local folder or of one in a bucket.

    Args:
        path: a local path, or gs://BUCKET/FOLDER. A `~` or `~USER` at the beginning of a local
            path is the home folder, as in a shell; "./~" is a folder of that name.

    Raises:
        ConfigError: if the path has another scheme or no folder, the user is unknown, or a package
            for buckets is missing.
    """
    if is_remote(path):
        return cast(pathlib.Path, path)
    text = os.fspath(path)
    scheme = SCHEME.match(text)
    if not scheme:
        return _local(text)
    bucket, _, folder = text.removeprefix("gs://").partition("/")
    if not text.startswith("gs://") or not bucket or not folder.strip("/"):
        raise ConfigError(
            f"{text} is neither a local folder nor gs://BUCKET/FOLDER (a str, with two slashes): "
            "nothing else can be read or written"
        )
    try:
        for name in ("gcsfs", "google.cloud.storage"):
            importlib.import_module(name)
    except ImportError as e:
        raise ConfigError(f"{text} needs the package gcsfs ({e}): {INSTALL}") from None
    import fsspec

    # epath otherwise uses TensorFlow if that is installed; and gcsfs caches listings of folders,
    # though other processes and tensorstore write there.
    os.environ.setdefault("EPATH_USE_TF", "0")
    for protocol in ("gcs", "gs"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)  # pyright: ignore
    return cast(pathlib.Path, epath.Path(text))


def _local(text: str) -> pathlib.Path:
    """Return a local path with the home folder in place of `~`."""
    if "\0" in text:
        raise ConfigError(f"{text!r} is no path: it contains a null character")
    home = os.path.expanduser(text)
    if text.startswith("~") and home == text:
        user = text.split("/")[0]
        raise ConfigError(
            f"{text}: there is no user {user[1:]!r}; write ./{text} for a folder {user}"
        )
    path = pathlib.Path(home)
    # A second call must not take it for a home folder.
    return pathlib.Path(os.path.abspath(path)) if str(path).startswith("~") else path


def is_remote(path: Any) -> bool:
    """Return True for a path in a bucket (a str is not yet a path)."""
    return isinstance(path, epath.Path) and "://" in os.fspath(path)


def for_checkpoints(path: str | os.PathLike) -> pathlib.Path:
    """Return the absolute path of a folder that contains checkpoints.

    Raises:
        ConfigError: if checkpoints there could not be read or written (see PATTERNS).
    """
    folder = absolute(path)
    text = os.fspath(folder)
    if is_remote(folder):
        wrong = IN_BUCKET.search(text.removeprefix("gs://"))
        out = "use another name in the bucket"
    else:
        wrong = PATTERNS.search(text)
        out = (
            "rename that folder or use another path, such as a symbolic link to it "
            "(ln -s FOLDER LINK)"
        )
        if len(folder.parts) > 1 and folder.parts[1] in ROOTS:
            raise ConfigError(
                f"{text}: checkpoints cannot be kept under /{folder.parts[1]}, which the library "
                f"that writes them reads as {folder.parts[1]}://; {out}"
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"{text!r}: checkpoints cannot be kept in a folder whose name is not UTF-8; {out}"
            ) from None
    if wrong:
        raise ConfigError(
            f"{text}: checkpoints cannot be kept in a folder with {wrong[0]!r} in its path, which "
            f"the libraries that write them read as a pattern, an escape or a URL; {out}"
        )
    return folder


def as_workdir(path: str | os.PathLike) -> pathlib.Path:
    """Return `as_path` of a run's folder.

    Raises:
        ConfigError: if the folder cannot be opened, or checkpoints could not be kept there.
    """
    for_checkpoints(path)
    return reachable(path)


def reachable(path: str | os.PathLike) -> pathlib.Path:
    """Return `as_path` of a folder. Raises ConfigError if it, or its bucket, cannot be opened."""
    folder = as_path(path)
    if is_remote(folder):
        storage: Any = importlib.import_module("google.cloud.storage")
        bucket = os.fspath(folder).split("/")[2]
        try:
            storage.Client().get_bucket(bucket, timeout=60)  # as Orbax does
        except Exception as e:
            raise ConfigError(
                f"the bucket of {folder} cannot be opened: {reason(e)}. The account that runs this "
                "needs storage.buckets.get on it, and rights to read, write and delete objects; "
                "`gcloud auth application-default login` sets one if the machine has none"
            ) from None
        return folder
    try:
        folder.exists()  # raises for a name that is too long or a parent that cannot be read
    except OSError as e:
        raise ConfigError(f"the folder {folder} cannot be opened: {reason(e)}") from None
    return folder


def absolute(path: str | os.PathLike) -> pathlib.Path:
    """Return a path that does not depend on the process's working directory."""
    path = as_path(path)
    return path if is_remote(path) else pathlib.Path(os.path.abspath(path))


def reason(e: BaseException) -> str:
    """Return an error's reason in one line."""
    text = getattr(e, "strerror", None) or str(e) or type(e).__name__
    return " ".join(str(text).split())[:300]


def children(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the sorted content of a folder; [] if there is no such folder."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def committed(folder: pathlib.Path) -> bool:
    """Return True if a checkpoint is complete; a local one is renamed only when it is."""
    return folder.is_dir() and (not is_remote(folder) or (folder / COMMITTED).exists())


def read_text(path: pathlib.Path) -> str:
    """Return a file's text, line ends unchanged."""
    return path.read_bytes().decode("utf-8")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all."""
    if is_remote(path):
        path.write_bytes(text.encode("utf-8"))
        return
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def rmtree(folder: pathlib.Path) -> None:
    """Remove a folder and its content, if there is one."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        (folder / COMMITTED).unlink()  # first: if this is killed, the rest counts as incomplete
    with contextlib.suppress(FileNotFoundError):
        cast(epath.Path, folder).rmtree()


def rename_folder(folder: pathlib.Path, new: pathlib.Path) -> None:
    """Rename a checkpoint's folder; a folder with the new name is replaced."""
    rmtree(new)
    if not is_remote(folder):
        folder.rename(new)
        return
    _copy(folder, new)  # a run that is killed here leaves the old folder as it was
    rmtree(folder)


def copy_folder(folder: pathlib.Path, new: pathlib.Path) -> None:
    """Copy a folder's files into another folder, both local or both in a bucket."""
    if is_remote(folder):
        _copy(folder, new)
    else:
        shutil.copytree(folder, new, dirs_exist_ok=True)


def _copy(folder: pathlib.Path, new: pathlib.Path) -> None:
    import fsspec

    # Within the bucket: the content does not pass through this machine.
    files, source = fsspec.core.url_to_fs(os.fspath(folder), finalize_on_close=True)
    for name in files.find(source):
        files.cp_file(name, os.fspath(new).removeprefix("gs://") + name.removeprefix(source))


@contextlib.contextmanager
def local_for_writing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a local folder to write into: the folder itself, or one that is uploaded at the end."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield pathlib.Path(temporary)
        upload(pathlib.Path(temporary), folder)


@contextlib.contextmanager
def local_for_reading(folder: pathlib.Path, without: Sequence[str] = ()) -> Iterator[pathlib.Path]:
    """Yield a local folder to read from: the folder itself, or a temporary copy.

    Args:
        folder: a local folder or one in a bucket.
        without: names of files and folders in it that are not copied.
    """
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        for child in children(folder):
            if child.name not in without:
                _download(child, pathlib.Path(temporary) / child.name)
        yield pathlib.Path(temporary)


def _download(source: pathlib.Path, target: pathlib.Path) -> None:
    if source.is_dir():
        target.mkdir()
        for child in children(source):
            _download(child, target / child.name)
    else:
        target.write_bytes(source.read_bytes())


def upload(local: pathlib.Path, folder: pathlib.Path) -> None:
    """Write all files of a local folder into a folder of a bucket, under the same names."""
    for path in sorted(local.rglob("*")):
        if path.is_file():
            folder.joinpath(*path.relative_to(local).parts).write_bytes(path.read_bytes())
