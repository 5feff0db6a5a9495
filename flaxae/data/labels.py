"""Labels of texts, as texts."""

import math
from collections.abc import Sequence
from typing import Any

from flaxae.errors import ConfigError

MISSING = ""  # the label of a text that has none


def label_text(value: Any, names: Sequence[str] | None = None) -> str:
    """Return a label as text, MISSING if there is none.

    Args:
        value: a text, number, boolean or date; None, NaN and blank texts are missing.
        names: the names of classes that numbers stand for; a negative number is missing then, as in
            data sets of the Hub.

    Raises:
        ConfigError: if the value is a list or a mapping.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a scalar of numpy
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, (list, tuple, dict)):
        raise ConfigError(
            f"data.labels=True: a label is {value!r}; labels are texts, numbers or booleans"
        )
    if names is not None and isinstance(value, int) and value < len(names):
        return names[value] if value >= 0 else MISSING
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes whole numbers as floats if some are missing
    return str(value).strip()
