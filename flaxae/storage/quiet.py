"""Silences what Orbax, asyncio and tensorstore print besides the error that flaxae reports."""

import functools
import logging
import sys
from typing import Any


@functools.cache
def quiet_backends() -> None:
    """Keep Orbax, asyncio and tensorstore's threads from printing pages of tracebacks.

    A failed save or restore is reported by one CheckpointError or warning instead. Commands,
    `run`, `load` and `load_adapter` call this; importing flaxae changes no log filter and no hook.
    """
    from absl import logging as absl_logging  # makes the logger that Orbax writes to

    absl_logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    asyncio = logging.getLogger("asyncio")
    asyncio.addFilter(lambda record: "tensorstore_spec" not in record.getMessage())
    shown = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = hook
