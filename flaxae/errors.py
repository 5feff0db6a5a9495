"""Errors whose message is all that a user needs, and the exit codes of commands that they end."""

import sys

_CHAIN = 5  # errors, each the cause of the one before
_LONGEST = 500  # characters of one error's message
# Names of classes that builtins, requests, httpx and huggingface_hub use.
_NETWORK = {"ConnectionError", "TimeoutError", "Timeout", "TransportError", "gaierror"}
_NETWORK |= {"LocalEntryNotFoundError"}
_REFUSED = {"GatedRepoError", "RepositoryNotFoundError", "DatasetNotFoundError"}
HUB_ACCESS = (
    "check the name; if it is private or gated, log in with `hf auth login` and accept its terms"
    " on its page"
)


class UserError(Exception):
    """Base class of errors that a command reports as one message, without a traceback.

    Attributes:
        exit_code: the exit code of a command that ends with this error.
    """

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A mistake in a config, the data or a workdir; the message names the field and the way out."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be written or read; the message names it and the way out."""


class NonFiniteError(UserError, RuntimeError):
    """A loss or gradient that was not finite more often than `max_bad_steps` allows."""

    exit_code = 1


def report(error: UserError) -> int:
    """Print an error as a command does, on standard error; return the command's exit code."""
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def causes(error: BaseException, whole: bool = True) -> str:
    """Return the message of an error of another library with those of the errors that caused it.

    Args:
        error: the error; its message may be empty or end before it says what is wrong.
        whole: whether to return all lines of a message, or the first.

    Returns:
        One line; the middle of a long message is left out.
    """
    texts: list[str] = []
    for found in _chain(error):
        lines = str(found).strip().splitlines()
        text = " ".join(" ".join(lines if whole else lines[:1]).split())
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST - 100]} ... {text[-100:]}"
        text = text or type(found).__name__
        text += " is missing" if isinstance(found, KeyError) else ""  # its message is only the key
        if not any(text in other for other in texts):
            texts.append(text)
    return "; cause: ".join(texts)


def is_network(error: BaseException) -> bool:
    """Return True if an error, or one that caused it, is that a server cannot be reached."""
    return any(_names(e) & _NETWORK for e in _chain(error)) and not is_refused(error)


def is_refused(error: BaseException) -> bool:
    """Return True if the Hub has no such repository, or only for others: see HUB_ACCESS."""
    return any(_names(e) & _REFUSED for e in _chain(error))


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and those that caused it, without those that it hides."""
    out: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in out and len(out) < _CHAIN:
        out.append(found)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return out


def require(ok: bool, message: str) -> None:
    """Raise ConfigError(message) unless ok."""
    if not ok:
        raise ConfigError(message)
