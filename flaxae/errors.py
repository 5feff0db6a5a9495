"""Errors whose message is all that a user needs, and the exit codes of commands that they end."""

import sys


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


def require(ok: bool, message: str) -> None:
    """Raise ConfigError(message) unless ok."""
    if not ok:
        raise ConfigError(message)
