"""Dictionaries from files of any known format, and what to do about the others."""

from pathlib import Path
from typing import Any

from flaxae.config.locate import user_path
from flaxae.errors import ConfigError, require
from flaxae.sparse_autoencoder import gemma_scope, saelens, sparsify
from flaxae.sparse_autoencoder.modules import SparseAutoencoder
from flaxae.sparse_autoencoder.origin import Origin
from flaxae.sparse_autoencoder.tensors import PICKLES, refuse_pickle

# name of the file of weights -> its format's reader, called with the file and `transcoder`
_READERS = {
    saelens.WEIGHTS: lambda path, _: saelens.read(path.parent),
    sparsify.WEIGHTS: lambda path, _: sparsify.read(path.parent),
    gemma_scope.SAFETENSORS: lambda path, _: gemma_scope.read_second(path),
    gemma_scope.NPZ: gemma_scope.read_first,
}


def load(
    source: str | Path, *, transcoder: bool | None = None, **expected: Any
) -> tuple[SparseAutoencoder, Origin]:
    """Open a dictionary of SAELens, Gemma Scope 1 or 2, or sparsify.

    Args:
        source: a directory, or its file of weights.
        transcoder: whether it must be a transcoder; None: either. A file of Gemma Scope 1 does not
            say which it is: it is read as an autoencoder unless this is True.
        **expected: fields of `Origin` (model, fingerprint, hook, layer, ...) that the file must
            not contradict; they complete what it does not contain.

    Returns:
        The dictionary, float32, and the states that it was trained on.

    Raises:
        ConfigError: if there is no such file, its format is unknown, it is a pickle, its
            architecture is unknown, a tensor is missing or unexpected, or the dictionary was
            trained on other states than the expected ones, or is an autoencoder instead of a
            transcoder or the reverse.
    """
    path = _weights(user_path(source))
    sae, origin = _READERS[path.name](path, bool(transcoder))
    require(
        transcoder is None or sae.config.transcoder == transcoder,
        f"{path}: this is {'a' if sae.config.transcoder else 'not a'} transcoder",
    )
    return sae, origin.expected(str(path), **expected)


def _weights(path: Path) -> Path:
    """Return the file of weights of a directory or file."""
    names = ", ".join(_READERS)
    if path.is_file():
        refuse_pickle(path)
        named = path.parent / saelens.WEIGHTS if path.name == saelens.CONFIG else path
        if path.name == saelens.CONFIG and not named.is_file():
            named = path.parent / sparsify.WEIGHTS
        require(
            named.name in _READERS,
            f"{path}: the format is unknown: files of dictionaries are named {names}",
        )
        return named
    require(path.is_dir(), f"{path}: there is no such directory or file")
    found = [path / name for name in _READERS if (path / name).is_file()]
    require(
        len(found) < 2, f"{path}: {', '.join(f.name for f in found)}: name the file that is meant"
    )
    if found:
        return found[0]
    for file in sorted(path.iterdir()):
        if file.suffix in PICKLES:
            refuse_pickle(file)
    raise ConfigError(f"{path}: it contains none of {names}")
